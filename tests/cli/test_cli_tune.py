"""``milvus-rerank tune`` from the command line."""

import json
from pathlib import Path

import pytest
from commands import Cli
from tiny_embedder import write_jsonl

pytestmark = pytest.mark.needs("milvus_lite", "ir_measures", "scipy")


def judged(folder: Path, count: int) -> Path:
    rows = [{"query": f"programming language {number}", "relevant": ["python", "c"]} for number in range(count)]
    return write_jsonl(folder / "judged.jsonl", rows)


def test_the_chosen_settings_are_a_config_file_that_search_reads(indexed: Cli, tmp_path: Path) -> None:
    file = tmp_path / "tuned.toml"
    file.write_text("[search]\ntop_k = 1  # one is enough\n", "utf-8")
    options = ["--reranker", "lexical", "--candidates", "10,20"]
    code, out, error = indexed("tune", "--judged", judged(tmp_path, 20), *options, "-o", file)
    assert code == 0, error
    assert all(word in out for word in ("first stage", "lexical", "GB", "held-out queries"))
    assert "top_k = 1  # one is enough" in file.read_text("utf-8")
    assert 'name = "lexical"' in file.read_text("utf-8")
    code, out, error = indexed("search", "programming language", "--config", file, "--json")
    assert code == 0, error
    assert [result["id"] for result in json.loads(out)["results"]] in (["python"], ["c"])


def test_json_has_the_frontier_and_the_cost_of_the_search(indexed: Cli, tmp_path: Path) -> None:
    options = ["--reranker", "lexical", "--candidates", "10", "--no-memory", "--json"]
    code, out, error = indexed("tune", "--judged", judged(tmp_path, 20), *options, "--target", "p95 under 60 s")
    report = json.loads(out)
    assert (code, report["target"]) == (0, "p95 under 60000 ms, the best nDCG"), error
    assert [row["name"] for row in report["frontier"]] == ["first stage", "lexical"]
    assert report["pairs"]["full_grid"] == 10 * 5
    assert report["queries"] == {"choosing": 10, "held_out": 10}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--target", "soon"], "cannot read the target 'soon'"),
        (["--candidates", "ten"], "expected integers of at least 1, got 'ten'"),
        (["--candidates", "5"], "candidates=5 is less than k=10"),
        (["--long", "cut"], "expected truncate, chunk, got 'cut'"),
        (["-o", "nowhere/tuned.toml"], "nowhere does not exist"),
        ([], "at least 20 queries with a relevant document, got 3"),
    ],
)
def test_wrong_options_are_named_before_any_work(
    indexed: Cli, tmp_path: Path, options: list[str], message: str
) -> None:
    code, out, error = indexed("tune", "--judged", judged(tmp_path, 3), "--reranker", "lexical", *options)
    assert (code in (1, 2), out) == (True, "")
    assert message in " ".join(error.replace("│", " ").split())
