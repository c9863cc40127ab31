"""`milvus-rerank index` and `milvus-rerank search`: what they print and refuse."""

import json
from pathlib import Path
from typing import Any

import pytest
from commands import Cli
from tiny_embedder import PASSAGES, passage_texts, save_embedder, write_jsonl

from milvus_rerank.cli.options import collection_name
from milvus_rerank.indexing.schema import Mode

pytestmark = pytest.mark.compat


def test_index_then_search_prints_ids_scores_and_fields(indexed: Cli, embedder: Path) -> None:
    arguments = ("--embedder", embedder, "--reranker", "lexical", "-k", 2, "--json")
    code, out, err = indexed("search", "programming language for unix", *arguments)
    assert (code, err) == (0, "")
    answer = json.loads(out)
    assert (answer["collection"], answer["mode"], answer["reranked"]) == ("small", "dense", True)
    first = answer["results"][0]
    assert (first["rank"], first["id"], first["score"]) == (1, "c", 1.0)
    text = "C a programming language written for Unix"
    assert first["entity"] == {"id": "c", "title": "C", "text": text, "year": 1972}
    assert len(answer["results"]) == 2
    assert set(answer["timings"]) == {"embed", "search", "rerank"}


def test_index_twice_says_that_nothing_was_written(indexed: Cli, beir: Path, embedder: Path) -> None:
    code, out, err = indexed("index", beir, "--embedder", embedder)
    assert (code, err) == (0, "")
    assert out == "small: 5 passages read, 0 written, 5 there already; the collection holds 5 (./milvus.db)\n"
    report = json.loads(indexed("index", beir, "--embedder", embedder, "--json")[1])
    assert report == {
        "uri": "./milvus.db", "collection": "small", "embedder": str(embedder), "bm25": True,
        "read": 5, "written": 0, "unchanged": 5, "deleted": 0, "total": 5,
    }  # fmt: skip


def test_index_tells_a_bad_line_before_it_writes_anything(cli: Cli, embedder: Path, tmp_path: Path) -> None:
    write_jsonl(tmp_path / "bad.jsonl", [*PASSAGES, {"_id": "x"}])
    code, out, err = cli("index", "bad.jsonl", "--embedder", embedder, "--batch-size", 1)
    assert (code, out) == (1, "")
    assert err == (
        "error: bad.jsonl:6: 'text' is missing; the object has the keys ['_id']. "
        "Name the text's key with --text-field\n"
    )
    assert not (tmp_path / "milvus.db").exists()


@pytest.mark.parametrize("mode", ["dense", "bm25", "hybrid"])
def test_search_has_three_modes_and_takes_filters_and_fields(indexed: Cli, embedder: Path, mode: Mode) -> None:
    arguments = ("--embedder", embedder, "--reranker", "lexical", "--mode", mode, "--json")
    code, out, _ = indexed(
        "search", "people on the moon", *arguments, "--filter", "year == 1969", "--output-fields", "year"
    )
    assert code == 0
    found = {one["id"]: one["entity"] for one in json.loads(out)["results"]}
    assert found["moon"] == {"text": "people walked on the moon", "year": 1969}
    assert set(found) <= {"moon", "unix"}


def test_search_without_reranking_has_no_scores(indexed: Cli, embedder: Path) -> None:
    code, out, err = indexed("search", "moon", "--embedder", embedder, "--no-rerank", "-k", 2, "--json")
    answer = json.loads(out)
    assert (code, err, answer["reranked"], answer["error"]) == (0, "", False, None)
    first = answer["results"][0]
    assert (first["id"], first["score"], first["index"]) == ("moon", None, 0)
    out = indexed("search", "moon", "--embedder", embedder, "--no-rerank", "-k", 2)[1]
    assert out.splitlines()[0].split() == ["#", "distance", "id", "text", "and", "fields"]


def test_search_prints_a_line_of_json_per_result_above_a_threshold(indexed: Cli, embedder: Path) -> None:
    arguments = ("--embedder", embedder, "--reranker", "lexical", "--threshold", 0.5, "--jsonl")
    code, out, err = indexed("search", "programming language for unix", *arguments)
    assert (code, err) == (0, "")
    results = [json.loads(line) for line in out.splitlines()]
    assert [(result["rank"], result["id"], result["score"]) for result in results] == [
        (1, "c", 1.0),
        (2, "python", 0.5),
    ]


def test_search_prints_a_table_and_the_times(indexed: Cli, embedder: Path) -> None:
    code, out, err = indexed("search", "moon", "--embedder", embedder, "--reranker", "lexical", "-k", 1)
    assert code == 0
    lines = [line.split() for line in out.splitlines()]
    assert lines[0] == ["#", "score", "was", "distance", "id", "text", "and", "fields"]
    assert lines[1][:3] == ["1", "1.0000", "1"]
    assert lines[1][4:] == ["moon", "people", "walked", "on", "the", "moon"]
    assert lines[2] == ["year=1969"]
    assert [part.split()[0] for part in err.split(" · ")] == ["embed", "search", "rerank"]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("--collection", "none"), "the collection 'none' does not exist; the collections are: small"),
        (("--text-field", "body"), "'title', 'year']. Choose one with --text-field\n"),
        (("--text-field", "year"), "must hold a string, got int. Choose one with --text-field\n"),
        (("--filter", "year >"), "Milvus could not search 'small'"),
    ],
)
def test_search_tells_what_it_cannot_do(indexed: Cli, embedder: Path, arguments: Any, told: str) -> None:
    code, out, err = indexed("search", "q", "--embedder", embedder, "--reranker", "lexical", *arguments)
    assert (code, out) == (1, "")
    assert told in err
    assert "Traceback" not in err


def test_search_refuses_an_embedder_that_did_not_make_the_vectors(indexed: Cli, tmp_path: Path) -> None:
    save_embedder(tmp_path / "other", passage_texts(), seed=9)
    code, _, err = indexed("search", "q", "--embedder", "other", "--reranker", "lexical")
    assert code == 1
    assert "their vectors cannot be compared" in err


@pytest.mark.parametrize(
    ("source", "name"), [("scifact", "scifact"), ("my-docs.v2.jsonl", "my_docs_v2"), ("2024", "_2024"), ("日本", "__")]
)
def test_the_collection_is_named_after_its_source_in_letters_that_milvus_takes(
    tmp_path: Path, source: str, name: str
) -> None:
    path = tmp_path / source
    path.write_text("") if source.endswith("jsonl") else path.mkdir()
    assert collection_name(path) == name


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (("--filter", "yaer > 1950"), 1, "error: the filter 'yaer > 1950' names 'yaer', which the collection does not"),
        (("--filter", "colour == 'red'"), 1, "names 'colour', which the collection does not have; its fields are"),
        (("--filter", "year > 3000"), 0, "Nothing found."),
        (("--filter", "year > 1900 or yaer > 1900"), 0, "No row has 'yaer': the filter 'year > 1900 or yaer > 1900'"),
        (("--output-fields", "text,yaer"), 1, "error: --output-fields names 'yaer', which the collection does not"),
    ],
)
def test_a_name_that_no_row_has_is_told(
    indexed: Cli, embedder: Path, arguments: tuple[str, str], code: int, told: str
) -> None:
    status, out, err = indexed("search", "moon", "--embedder", embedder, "--reranker", "lexical", *arguments)
    assert (status, bool(out)) == (code, arguments[1].startswith("year > 1900"))
    assert told in err


def test_keys_that_another_program_wrote_are_found(indexed: Cli, embedder: Path, tmp_path: Path) -> None:
    from milvus_rerank.indexing import open_client

    with open_client(str(tmp_path / "milvus.db")) as client:
        row = client.query("small", filter="id == 'moon'", output_fields=["title", "text", "vector"])[0]
        client.upsert("small", [{**row, "planet": "moon"}])
    arguments = ("--embedder", embedder, "--reranker", "lexical", "--json", "--output-fields", "planet")
    code, out, err = indexed("search", "moon", *arguments, "--filter", "planet == 'moon'")
    assert (code, err) == (0, "")
    assert [result["entity"] for result in json.loads(out)["results"]] == [{"text": row["text"], "planet": "moon"}]
    code, out, err = indexed("search", "moon", *arguments, "--filter", "planet == 'mars'")
    assert (code, json.loads(out)["results"], err) == (0, [], "")
