"""The config file on the command line: what reads it, and what wins over it."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from commands import Cli
from fault_server import fault_server
from tiny_embedder import PASSAGES, write_jsonl

from milvus_rerank.cli.config import READ, ConfigFile
from milvus_rerank.cli.eval import eval as eval_command
from milvus_rerank.cli.index import index
from milvus_rerank.cli.options import ChosenReranker, choose_reranker
from milvus_rerank.cli.rerank import rerank
from milvus_rerank.cli.search import search
from milvus_rerank.cli.serve import serve
from milvus_rerank.config import read_config


def write_config(path: Path, text: str) -> Path:
    path.write_text(text, "utf-8")
    return path


@pytest.fixture
def configured(indexed: Cli, embedder: Path, tmp_path: Path) -> Cli:
    """The small collection, and a config file that names all of its parts."""
    write_config(
        tmp_path / "c.toml",
        f"[milvus]\nuri = './milvus.db'\n[collection]\nname = 'small'\nmode = 'dense'\n"
        f"[embedder]\nname = '{embedder}'\n[reranker]\nname = 'lexical'\n"
        "[search]\ncandidates = 4\ntop_k = 2\nthreshold = 0.5\noutput_fields = ['year']\n",
    )
    return indexed


def ids(out: str) -> list[str]:
    return [result["id"] for result in json.loads(out)["results"]]


@pytest.mark.needs("milvus_lite")
def test_search_takes_its_options_from_the_file(configured: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    question = "programming language for unix"
    code, out, err = configured("search", question, "--config", "c.toml", "--json")
    assert (code, err) == (0, "")
    results = json.loads(out)["results"]
    assert [(result["id"], result["score"]) for result in results] == [("c", 1.0), ("python", 0.5)]
    assert set(results[0]["entity"]) == {"text", "year"}
    monkeypatch.setenv("MILVUS_RERANK_CONFIG", "c.toml")
    assert configured("search", question, "--json")[1].partition('"timings"')[0] == out.partition('"timings"')[0]


@pytest.mark.needs("milvus_lite")
def test_the_command_line_wins_over_the_file(configured: Cli) -> None:
    command = ("search", "programming language for unix", "--config", "c.toml", "--json")
    assert ids(configured(*command, "--top-k", 1)[1]) == ["c"]
    assert len(ids(configured(*command, "--top-k", 0, "--threshold", 0)[1])) == 4
    code, _, err = configured(*command, "--collection", "none")
    assert (code, "the collection 'none' does not exist" in err) == (1, True)


@pytest.mark.needs("milvus_lite")
def test_index_writes_into_the_collection_of_the_file(configured: Cli, tmp_path: Path) -> None:
    write_jsonl(tmp_path / "more.jsonl", [*PASSAGES, {"_id": "new", "text": "people walked on the moon again"}])
    code, out, err = configured("index", "more.jsonl", "--config", "c.toml", "--json")
    assert (code, err) == (0, "")
    assert {key: json.loads(out)[key] for key in ("collection", "written", "total")} == {
        "collection": "small",
        "written": 1,
        "total": 6,
    }


@pytest.mark.needs("httpx")
def test_rerank_adds_its_options_to_those_of_the_file(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with fault_server() as server:
        write_config(
            tmp_path / "c.toml",
            f"[reranker]\nname = 'cohere'\napi_key_env = 'MY_KEY'\nmodel = 'any'\n"
            f"[reranker.options]\nbase_url = '{server.address}'\ntimeout = 'soon'\n[search]\ntop_k = 1\n",
        )
        command = ("rerank", "q", "a", "the longer", "--config", "c.toml", "--json")
        assert cli(*command)[2].startswith("error: [reranker] api_key_env of the config names the environment variable")
        monkeypatch.setenv("MY_KEY", "sk-0123")
        code, out, err = cli(*command, "--option", "timeout=5")
        assert (code, err) == (0, "")
        answer = json.loads(out)
        assert (answer["reranker"], [result["index"] for result in answer["results"]]) == ("any", [1, 0])


def test_a_reranker_of_the_command_line_leaves_out_that_of_the_file() -> None:
    config = read_config({"reranker": {"model": "a/b", "dtype": "auto", "options": {"max_length": 64}}})
    file = ConfigFile(Path("c.toml"), config)
    options = {"model_name": "a/b", "dtype": "auto", "max_length": 64}
    assert choose_reranker(file, None, None) == ChosenReranker(None, options, Path("c.toml"))
    added = choose_reranker(file, None, ["max_length=32"], dtype="float32", device=None)
    assert added.options == {"model_name": "a/b", "dtype": "float32", "max_length": 32}
    assert choose_reranker(file, "lexical", None) == ChosenReranker("lexical")
    assert choose_reranker(file, None, None, model_name="c/d") == ChosenReranker(None, {"model_name": "c/d"})


@pytest.mark.parametrize(
    ("text", "code", "problem"),
    [
        ("[search]\ncandidate = 3", 1, "error: c.toml: [search] has no key 'candidate'; did you mean 'candidates'?"),
        ("[reranker]\nname = 'lexicl'", 1, "error: c.toml: [reranker]: "),
        ("[reranker]\nname = 'lexical'\ndtype = 'auto'", 1, "error: c.toml: [reranker]: reranker 'lexical' of "),
        ("[reranker.options]\nmax_lenght = 8", 1, "there is no option 'max_lenght'; did you mean 'max_length'?"),
        ("[reranker]\nname = 'lexical'\n[collection]\ntext_field = 'zzz'\n[search]\ntop_k = 1", 0, ""),
    ],
)
def test_rerank_names_what_is_wrong_in_the_file(cli: Cli, tmp_path: Path, text: str, code: int, problem: str) -> None:
    write_config(tmp_path / "c.toml", text)
    exit_code, out, err = cli("rerank", "q", "a", "b", "--config", "c.toml", "--jsonl")
    assert exit_code == code
    assert problem in err
    assert len(out.splitlines()) == (0 if code else 2)


def test_a_missing_file_is_named(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MILVUS_RERANK_CONFIG", "absent.toml")
    assert cli("rerank", "q", "a") == (1, "", "error: the config file absent.toml does not exist\n")
    assert cli("models", "--known", "--json")[0] == 0


@pytest.mark.needs("fastapi", "structlog", "uvicorn", "prometheus_client")
def test_serve_reads_the_file(cli: Cli, tmp_path: Path) -> None:
    write_config(tmp_path / "c.toml", "[milvus]\nuri = './absent.db'\n[collection]\nname = 'docs'\n")
    code, _, err = cli("serve", "--config", "c.toml", "--port", 0)
    assert (code, "error: the Milvus Lite file ./absent.db does not exist" in err) == (1, True)
    write_config(
        tmp_path / "c.toml", "[reranker]\nmodel = 'absent/model'\n[reranker.options]\nlocal_files_only = true\n"
    )
    code, _, err = cli("serve", "--config", "c.toml", "--port", 0)
    assert code == 1
    assert "absent/model" in err


def test_the_file_sets_only_parameters_that_commands_have() -> None:
    for command in (eval_command, index, rerank, search, serve):
        assert set(READ[command.__name__]) - set(command.__annotations__) == set()


def test_a_command_without_a_config_does_not_load_its_reader(cli: Cli) -> None:
    before: dict[str, Any] = {name: sys.modules.pop(name) for name in ("milvus_rerank.config",) if name in sys.modules}
    try:
        assert cli("rerank", "q", "a", "--reranker", "lexical")[0] == 0
        assert "milvus_rerank.config" not in sys.modules
    finally:
        sys.modules.update(before)
