"""Options of a reranker on the command line."""

import json
import sys
from typing import Any, get_type_hints

import pytest
from commands import Cli
from fault_server import fault_server

from milvus_rerank.cli.batch import batch
from milvus_rerank.cli.demo import demo
from milvus_rerank.cli.export import export
from milvus_rerank.cli.index import index
from milvus_rerank.cli.models import models
from milvus_rerank.cli.options import read_options
from milvus_rerank.cli.rerank import rerank
from milvus_rerank.cli.search import search
from milvus_rerank.cli.serve import serve

RERANKER = {"device", "dtype", "engine", "threads"}
SHARED = {
    batch: RERANKER | {"reranker", "model", "option", "as_json"},
    demo: RERANKER | {"candidates", "model", "as_json"},
    export: {"as_json"},
    index: {"uri", "token", "db_name", "timeout", "as_json"},
    models: {"as_json"},
    rerank: RERANKER | {"query", "reranker", "model", "option", "top_k", "threshold", "as_json", "as_jsonl"},
    search: RERANKER
    | {"query", "reranker", "model", "option", "top_k", "threshold", "as_json", "as_jsonl", "candidates"}
    | {"uri", "token", "db_name", "timeout", "embedder", "text_field", "vector_field"},
    serve: RERANKER | {"reranker", "option", "token", "db_name", "embedder", "text_field", "vector_field"},
}
"""Parameters that mean the same in all commands that have them."""


def test_values_are_json_or_strings() -> None:
    pairs = ["engine=onnx", "threads=1", "show_progress=false", 'label="1"', "url=http://a?b=c", "empty="]
    assert read_options(pairs) == {
        "engine": "onnx",
        "threads": 1,
        "show_progress": False,
        "label": "1",
        "url": "http://a?b=c",
        "empty": "",
    }
    assert read_options(None) == {}


def test_an_option_is_declared_once_for_all_commands() -> None:
    declared: dict[str, list[Any]] = {}
    for command, names in SHARED.items():
        hints = get_type_hints(command, include_extras=True)
        assert names - hints.keys() == set()
        for name in names:
            declared.setdefault(name, []).append(hints[name])
    assert [name for name, hints in declared.items() if any(hint != hints[0] for hint in hints)] == []


@pytest.mark.parametrize(
    ("options", "code", "words"),
    [
        (("--option", "engine"), 2, "expected KEY=VALUE, got 'engine'"),
        (("--option", "a b=1"), 2, "expected KEY=VALUE"),
        (("--option", "threads=1", "--option", "threads=2"), 2, "'threads' is given twice"),
        (("--option", "device=cpu", "--device", "cpu"), 2, "'device' is given by --device, too"),
        (("--option", "engin=onnx"), 1, "there is no option 'engin'; did you mean 'engine'?"),
        (("--option", "engine=tensorrt"), 1, "engine must be one of"),
        (("--engine", "tensorrt"), 2, "'tensorrt'"),
        (("--dtype", "float8"), 2, "'float8'"),
        (("--threads", "0"), 2, "'--threads'"),
        (("--threshold", "nan"), 2, "nan is not a number"),
        (("--engine", "onnx", "--option", "engine=onnx"), 2, "'engine' is given by --engine, too"),
        (("--reranker", "lexical", "--threads", "2"), 2, "the reranker 'lexical' does not take this option"),
        (("--reranker", "lexical", "--option", "zzz=1"), 1, "there is no option 'zzz'; the options are none"),
    ],
)
def test_wrong_options_are_named(cli: Cli, options: tuple[str, ...], code: int, words: str) -> None:
    exit_code, out, err = cli("rerank", "a query", "a", "b", *options)
    assert (exit_code, out) == (code, "")
    assert words in " ".join(err.replace("│", " ").split())


@pytest.mark.parametrize(
    "options", [("--option", "engine=onnx", "--option", "threads=1"), ("--engine", "onnx", "--threads", "1")]
)
def test_the_engine_follows_the_option(cli: Cli, options: tuple[str, ...]) -> None:
    texts = ("cats purr", "dogs bark")
    code, out, _ = cli("rerank", "who barks", *texts, *options, "--json")
    assert code == 0
    assert [result["index"] for result in json.loads(out)["results"]] == [1, 0]


@pytest.mark.parametrize("option", ["--candidates", "--top-k"])
def test_more_hits_than_milvus_returns_are_refused_before_any_work(cli: Cli, option: str) -> None:
    code, out, err = cli("search", "q", "--uri", "http://127.0.0.1:9", option, 16385)
    assert (code, out) == (2, "")
    assert "Milvus returns at most 16384 hits of a search, got 16385" in " ".join(err.replace("│", " ").split())
    assert cli("search", "q", "--uri", "absent.db", option, 16384)[2].startswith(
        "error: the Milvus Lite file absent.db"
    )


@pytest.mark.needs("httpx")
def test_a_service_gets_its_address(cli: Cli) -> None:
    with fault_server() as server:
        options = [f"base_url={server.address}", "api_key=sk-0123", "model_name=any"]
        given = [part for option in options for part in ("--option", option)]
        code, out, err = cli("rerank", "q", "a", "the longer", "--reranker", "cohere", *given, "--json")
    assert (code, err) == (0, "")
    assert [result["index"] for result in json.loads(out)["results"]] == [1, 0]


@pytest.mark.parametrize(("count", "shown"), [(199, False), (200, True)])
def test_a_long_rerank_shows_the_time_left_on_a_terminal(
    cli: Cli, monkeypatch: pytest.MonkeyPatch, count: int, shown: bool
) -> None:
    lines = "".join(f"text number {number}\n" for number in range(count))
    assert cli("rerank", "number 7", "-", "-k", "1", stdin=lines)[2] == ""
    monkeypatch.setattr(type(sys.stderr), "isatty", lambda _: True)
    code, _, err = cli("rerank", "number 7", "-", "-k", "1", stdin=lines)
    assert (code, f"{count}/{count}" in err) == (0, shown)
