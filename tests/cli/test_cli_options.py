"""Options of a reranker on the command line."""

import json
import sys

import pytest
from commands import Cli
from fault_server import fault_server

from milvus_rerank.cli.options import read_options


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


@pytest.mark.parametrize(
    ("options", "code", "words"),
    [
        (("--option", "engine"), 2, "expected KEY=VALUE, got 'engine'"),
        (("--option", "a b=1"), 2, "expected KEY=VALUE"),
        (("--option", "threads=1", "--option", "threads=2"), 2, "'threads' is given twice"),
        (("--option", "device=cpu", "--device", "cpu"), 2, "'device' is given by --device, too"),
        (("--option", "engin=onnx"), 1, "there is no option 'engin'; did you mean 'engine'?"),
        (("--option", "engine=tensorrt"), 1, "engine must be one of"),
        (("--reranker", "lexical", "--option", "zzz=1"), 1, "there is no option 'zzz'; the options are none"),
    ],
)
def test_wrong_options_are_named(cli: Cli, options: tuple[str, ...], code: int, words: str) -> None:
    exit_code, out, err = cli("rerank", "a query", "a", "b", *options)
    assert (exit_code, out) == (code, "")
    assert words in " ".join(err.replace("│", " ").split())


def test_the_engine_follows_the_option(cli: Cli) -> None:
    texts = ("cats purr", "dogs bark")
    code, out, _ = cli("rerank", "who barks", *texts, "--option", "engine=onnx", "--option", "threads=1", "--json")
    assert code == 0
    assert [result["index"] for result in json.loads(out)["results"]] == [1, 0]


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
