"""``milvus-rerank eval``: its tables and files, and what it refuses."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import typer
from commands import Cli
from tiny_embedder import write_beir, write_jsonl

from milvus_rerank.cli.eval_options import read_modes, read_prices, read_reranker
from milvus_rerank.evaluation import Prices

pytestmark = pytest.mark.needs("milvus_lite", "ir_measures", "scipy")
JUDGED: list[dict[str, Any]] = [
    {"query": "programming language", "relevant": {"python": 2, "c": 1}},
    {"query": "moon", "relevant": ["moon"]},
]


@pytest.fixture(autouse=True)
def own_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("MILVUS_RERANK_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def judged(indexed: Cli, tmp_path: Path) -> Cli:
    """The small collection in ./milvus.db, and judged.jsonl."""
    write_jsonl(tmp_path / "judged.jsonl", JUDGED)
    return indexed


def test_eval_prints_the_summary_the_tables_and_the_notes(judged: Cli, embedder: Path) -> None:
    code, out, err = judged("eval", "--judged", "judged.jsonl", "--reranker", "lexical", "--embedder", embedder)
    assert code == 0
    lines = out.splitlines()
    assert "nDCG@10" in lines[0]
    tables = " ".join(out.split())
    assert "system nDCG@10 RR@10 AP R@50 Judged@10 ceiling dense" in tables
    assert "over its first stage gain 95% interval p win / tie / loss lexical" in tables
    assert "system embed search rerank p50 p95 pairs/s tokens dense" in tables
    assert "2 judged queries are too few to tell systems apart" in err
    assert "cost" not in tables


def test_eval_prints_json_alone_and_writes_the_page_and_the_runs(judged: Cli, embedder: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    code, out, err = judged(
        "eval", "--judged", "judged.jsonl", "--embedder", embedder, "--json", "--report", "out.html", "--runs", "runs",
        "--first-stage", "dense", "--first-stage", "bm25", "--reranker", "lexical",
        "--reranker", 'two=cascade?stages=[["lexical",4],["lexical",2]]', "--price", "two=3", "--price", "hour=3600",
    )  # fmt: skip
    assert (code, err) == (0, "")
    report = json.loads(out)
    names = ["dense", "dense + lexical", "dense + two", "bm25", "bm25 + lexical", "bm25 + two"]
    assert [system["name"] for system in report["systems"]] == names
    costs = {system["name"]: system["cost_per_1000_queries"] for system in report["systems"]}
    assert costs["dense + two"] == 3
    assert 0 < costs["dense + lexical"] < 3600 * 1000
    assert report["judged"] == 2
    assert {item["id"] for item in report["moved"]["queries"]} <= {"1", "2"}
    assert "<svg" in (tmp_path / "out.html").read_text("utf-8")
    assert len(list((tmp_path / "runs").glob("*.run"))) == 6
    assert len((tmp_path / "runs" / "dense---two.run").read_text().splitlines()) == 4  # two queries, two hits of each


def test_a_second_run_scores_nothing_again_and_a_second_reranker_costs_only_itself(judged: Cli, embedder: Path) -> None:
    command = ("eval", "--judged", "judged.jsonl", "--embedder", embedder, "--json", "--reranker", "lexical")
    calls = [json.loads(judged(*command)[1])["details"]["calls"] for _ in range(2)]
    assert calls == [{"made": 2, "from the cache": 0}, {"made": 0, "from the cache": 2}]
    more = json.loads(judged(*command, "--reranker", 'cascade?stages=[["lexical",2]]')[1])["details"]["calls"]
    assert more == {"made": 2, "from the cache": 2}
    elsewhere = json.loads(judged(*command, "--cache", "mine.sqlite")[1])["details"]["calls"]
    assert elsewhere == {"made": 2, "from the cache": 0}


def test_a_beir_folder_alone_is_indexed_into_a_temporary_file_or_the_one_of_uri(
    cli: Cli, beir: Path, embedder: Path, tmp_path: Path
) -> None:
    command = ("eval", "--judged", beir, "--embedder", embedder, "--json", "--reranker", "lexical")
    code, out, err = cli(*command)
    assert (code, err) == (0, "")
    assert json.loads(out)["judged"] == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cache"]
    assert cli(*command, "--uri", "kept.db")[0] == 0
    code, out, _ = cli("search", "moon", "--uri", "kept.db", "--embedder", embedder, "--reranker", "lexical", "--json")
    assert json.loads(out)["collection"] == "small"
    named = json.loads(cli(*command, "--uri", "kept.db", "--collection", "small")[1])
    assert named["systems"][1]["means"] == json.loads(cli(*command)[1])["systems"][1]["means"]


def test_without_judgments_rankings_are_compared_with_the_reference(
    judged: Cli, embedder: Path, tmp_path: Path
) -> None:
    write_jsonl(tmp_path / "queries.jsonl", [{"text": one["query"]} for one in JUDGED])
    command = ("eval", "--queries", "queries.jsonl", "--embedder", embedder, "--first-stage", "dense")
    code, out, err = judged(*command, "--reranker", "lexical", "--first-stage", "bm25", "--reference", "lexical")
    assert (code, err) == (0, "")
    words = " ".join(out.split())
    assert "2 queries without judgments" in words
    assert "system overlap@10 RBO same first dense" in words
    assert "bm25 + lexical the reference" in words
    assert "between the others overlap@10 RBO same first" in words
    assert "bm25 + lexical and bm25 differ most on: RBO id text" in words
    code, _, err = judged(*command, "--reranker", "lexical", "--reference", "other")
    assert (code, err) == (1, "error: the reference 'other' is not among the systems; they are: dense, lexical\n")


def test_a_config_file_names_the_collection_the_first_stage_and_the_reranker(
    judged: Cli, embedder: Path, tmp_path: Path
) -> None:
    (tmp_path / "c.toml").write_text(
        "[milvus]\nuri = './milvus.db'\n[collection]\nname = 'small'\nmode = 'bm25'\n"
        f"[embedder]\nname = '{embedder}'\n[reranker]\nname = 'lexical'\n[search]\ncandidates = 20\n"
    )
    report = json.loads(judged("eval", "--judged", "judged.jsonl", "--config", "c.toml", "--json")[1])
    assert [system["name"] for system in report["systems"]] == ["bm25", "lexical"]
    assert report["candidates"] == 20
    command = ("eval", "--judged", "judged.jsonl", "--embedder", embedder, "--reranker", "c.toml", "--json")
    assert [system["name"] for system in json.loads(judged(*command)[1])["systems"]] == ["dense", "c"]


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["--judged", "bad.jsonl"], "error: bad.jsonl:2: is not JSON"),
        (["--judged", "twice.jsonl"], "error: twice.jsonl:2: the query 'a' is there twice"),
        (["--judged", "judged.jsonl", "--collection", "absent"], "error: the collection 'absent' does not exist; the "
         "collections are: small"),
        (["--judged", "judged.jsonl", "--uri", "absent.db"], "error: the Milvus Lite file absent.db does not exist"),
        (["--judged", "judged.jsonl", "--text-field", "absent"], "Choose one with --text-field"),
        (["--judged", "other.jsonl"], "error: the collection holds none of the 1 judged documents ('1', ...)"),
        (["--judged", "judged.jsonl", "--report", "absent/out.html"], "the folder"),
        (["--judged", "judged.jsonl", "--reranker", "lexical?x=1"], "there is no option 'x'"),
        (["--judged", "judged.jsonl", "--cache", "bad.jsonl"], "cannot be used as the cache of evaluations"),
    ],
)  # fmt: skip
def test_a_mistake_is_one_line_on_stderr(
    judged: Cli, embedder: Path, tmp_path: Path, arguments: list[str], problem: str
) -> None:
    (tmp_path / "bad.jsonl").write_text('{"query": "a"}\n{"query": \n')
    write_jsonl(tmp_path / "twice.jsonl", [{"_id": "a", "query": "a"}, {"_id": "a", "query": "b"}])
    write_jsonl(tmp_path / "other.jsonl", [{"query": "a", "relevant": ["1"]}])
    rest = [] if "--reranker" in arguments else ["--reranker", "lexical"]
    code, out, err = judged("eval", *arguments, "--embedder", embedder, *rest)
    assert (code, out) == (1, "")
    assert problem in err
    assert len(err.splitlines()) == 1


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ([], "give judged queries, or --queries"),
        (["--judged", "x", "--first-stage", "sparse"], "expected dense, bm25, hybrid, got 'sparse'"),
        (["--judged", "x", "--price", "cheap"], "expected NAME=PRICE, such as cohere=2.0, got 'cheap'"),
        (["--judged", "x", "--price", "a=1", "--price", "a=2"], "'a' is given twice"),
        (["--judged", "x", "--reranker", "lexical?a"], "expected NAME?key=value&key=value, got 'a' in 'lexical?a'"),
        (["--judged", "x", "--reranker", "lexical", "--reranker", "lexical"], "'lexical' is given twice"),
    ],
)
def test_wrong_usage_is_told_before_anything_is_read(cli: Cli, arguments: list[str], problem: str) -> None:
    code, out, err = cli("eval", *arguments)
    assert (code, out) == (2, "")
    assert problem in " ".join(err.replace("│", " ").split())


def test_a_reranker_is_a_name_with_options_a_model_a_file_or_an_address(tmp_path: Path) -> None:
    label, chosen = read_reranker("builtin/rerank?dtype=int8&max_length=256")
    assert label == "builtin/rerank?dtype=int8&max_length=256"
    assert (chosen.name, chosen.options) == (
        None,
        {"model_name": "builtin/rerank", "dtype": "int8", "max_length": 256},
    )
    label, chosen = read_reranker("fast=tei?url=http://host:80/%3Fa%26b")
    assert (label, chosen.name, chosen.options) == ("fast", "tei", {"url": "http://host:80/?a&b"})
    label, chosen = read_reranker("http://host:8787/v1/rerank?model=a")
    assert (label, chosen.name) == ("http://host:8787/v1/rerank", "http")
    assert chosen.options == {"url": "http://host:8787/v1/rerank?model=a"}
    (tmp_path / "mine.toml").write_text("[reranker]\nmodel = 'builtin/rerank'\ndtype = 'int8'\n")
    label, chosen = read_reranker(str(tmp_path / "mine.toml"))
    assert (label, chosen.options) == ("mine", {"model_name": "builtin/rerank", "dtype": "int8"})
    with pytest.raises(typer.BadParameter, match="expected NAME"):
        read_reranker("=lexical")
    assert read_modes(["bm25", "dense"]) == ("bm25", "dense")
    assert read_prices(["a/b?c=1=2.5", "hour=0.4"]) == Prices({"a/b?c=1": 2.5}, 0.4)


@pytest.mark.skipif(os.name == "nt", reason="signals")
def test_after_ctrl_c_the_same_command_goes_on(embedder: Path, tmp_path: Path) -> None:
    (tmp_path / "slow.py").write_text(
        "import pathlib, time\n"
        "from milvus_rerank.reranker.lexical import LexicalRerankFunction\n"
        "class Slow(LexicalRerankFunction):\n"
        "    def score_requests(self, requests, stop):\n"
        "        pathlib.Path('started').touch()\n"
        "        time.sleep(60)\n"
    )
    folder = write_beir(tmp_path / "small")
    command = [sys.executable, "-m", "milvus_rerank", "eval", "--judged", str(folder), "--embedder", str(embedder)]
    command += ["--reranker", "lexical", "--json", "--uri", "x.db"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])}
    with subprocess.Popen(
        [*command, "--reranker", "slow:Slow"],
        cwd=tmp_path, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        until = time.monotonic() + 60
        while not (tmp_path / "started").exists() and time.monotonic() < until and process.poll() is None:
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (130, "")
    kept = tmp_path / "cache" / "evaluation.sqlite"
    assert err == f"Interrupted. {kept} keeps what was scored: type the same command again to go on.\n"
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout)["details"]["calls"] == {"made": 0, "from the cache": 2}
