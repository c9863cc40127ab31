"""`milvus-rerank search` with steps and a chain of rerankers from the config file."""

import json
from pathlib import Path
from typing import Any

import pytest
from commands import Cli

from milvus_rerank import TwoStageSearch

QUESTION = "programming language for unix"
STEPS = """
[[steps]]
type = "decay"
field = "year"
function = "linear"
origin = 1991
scale = 10
least = 0.1
"""


@pytest.fixture
def config(embedder: Path) -> str:
    return f"[milvus]\nuri = './milvus.db'\n[embedder]\nname = '{embedder}'\n[search]\ncandidates = 5\ntop_k = 2\n"


def found(out: str) -> list[tuple[Any, Any]]:
    return [(result["id"], pytest.approx(result["score"])) for result in json.loads(out)["results"]]


@pytest.mark.needs("milvus_lite")
def test_search_runs_the_steps_of_the_file(indexed: Cli, config: str, tmp_path: Path) -> None:
    (tmp_path / "c.toml").write_text(config + "[reranker]\nname = 'lexical'\n" + STEPS)
    code, out, err = indexed("search", QUESTION, "--config", "c.toml", "--json")
    assert (code, err) == (0, "")
    assert found(out) == [("python", 0.5), ("c", 0.1)]
    assert json.loads(out)["results"][1]["extra"]["rerank_score"] == 1.0
    assert found(indexed("search", QUESTION, "--config", "c.toml", "--json", "--top-k", 1)[1]) == [("python", 0.5)]
    code, out, err = indexed("search", QUESTION, "--config", "c.toml", "--no-rerank", "--json")
    assert (code, len(json.loads(out)["results"])) == (0, 2)
    search = TwoStageSearch.from_config(tmp_path / "c.toml")
    try:
        assert [(result.id, result.score) for result in search(QUESTION)] == [("python", 0.5), ("c", 0.1)]
    finally:
        search.source.client.close()


@pytest.mark.needs("milvus_lite")
def test_a_wrong_step_is_a_line_with_the_file_and_its_number(indexed: Cli, config: str, tmp_path: Path) -> None:
    (tmp_path / "c.toml").write_text(config + STEPS.replace("scale", "scal"))
    code, out, err = indexed("search", QUESTION, "--config", "c.toml")
    assert (code, out) == (1, "")
    assert err.startswith(
        "error: c.toml: [[steps]]: step 1 of 1 (decay): there is no key 'scal'; did you mean 'scale'?"
    )
    (tmp_path / "c.toml").write_text(config + "[reranker]\nname = 'lexical'\n" + STEPS.replace("year", "title"))
    code, out, err = indexed("search", QUESTION, "--config", "c.toml")
    assert (code, out) == (1, "")
    assert "step 1 of 1 (decay): field 'title' of results[0] (id 'c') must be a number, got str: 'C'" in err


@pytest.mark.needs("milvus_lite", "httpx")
def test_a_chain_of_rerankers_comes_from_the_file(indexed: Cli, config: str, tmp_path: Path) -> None:
    chain = """
[reranker]
name = "milvus_rerank.fallback:FallbackRerankFunction"
[[reranker.options.rerankers]]
name = "tei"
timeout = 5
options = { api_url = "http://127.0.0.1:9", attempts = 1 }
[[reranker.options.rerankers]]
name = "lexical"
"""
    (tmp_path / "c.toml").write_text(config + chain)
    code, out, _ = indexed("search", QUESTION, "--config", "c.toml", "--json")
    assert code == 0
    best = json.loads(out)["results"][0]
    assert (best["id"], best["score"], best["extra"]["ranked_by"]) == ("c", 1.0, "LexicalRerankFunction()")
    assert "ServiceError: http://127.0.0.1:9" in best["extra"]["rerank_failures"][0]
