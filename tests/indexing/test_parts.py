"""Long texts in parts, and rows that are gone from the corpus."""

import json
from pathlib import Path
from typing import Any

import pytest
from pymilvus import MilvusClient
from tiny_embedder import passage_texts, save_embedder, write_jsonl

from milvus_rerank.embedding import StaticEmbedder
from milvus_rerank.errors import InputError
from milvus_rerank.indexing import CorpusOptions, IndexReport, Passage, index_passages, open_corpus, read_passages
from milvus_rerank.indexing.split import make_splitter

SENTENCES = "a moth was found. it was in a relay. people walked on the moon. unix is written in c."
splits = pytest.mark.needs("semantic_text_splitter")


def options(embedder: StaticEmbedder, tokens: int = 6, overlap: int = 0) -> CorpusOptions:
    return CorpusOptions(split=make_splitter(embedder.tokenizer, tokens, overlap))


def rows(client: MilvusClient, collection: str) -> list[dict[str, Any]]:
    found = client.query(collection, filter="", limit=1000, output_fields=["id", "text", "$meta"])
    return sorted(map(dict, found), key=lambda row: str(row["id"]))


@splits
def test_parts_hold_the_whole_text_in_so_many_tokens_and_know_their_document(
    embedder: StaticEmbedder, tmp_path: Path
) -> None:
    path = write_jsonl(tmp_path / "a.jsonl", [{"_id": "d", "title": "moon moth", "text": SENTENCES, "year": 1969}])
    parts = list(read_passages(path, options(embedder, tokens=8)))
    assert [passage.id for passage in parts] == [f"d#{number}" for number in range(1, len(parts) + 1)]
    assert " ".join(passage.body for passage in parts) == SENTENCES
    assert {passage.title for passage in parts} == {"moon moth"}
    assert all(len(embedder.tokenizer.encode(passage.text).ids) <= 8 for passage in parts)
    assert len(parts) >= 4
    assert parts[1].fields == {"year": 1969, "document": "d", "part": 2, "parts": len(parts)}


@splits
def test_parts_overlap_by_whole_words(embedder: StaticEmbedder) -> None:
    text = "a moth was found in the relay of a computer"
    first, second = make_splitter(embedder.tokenizer, 7, 2)("", text)[:2]
    assert text.startswith(first)
    assert second.startswith(" ".join(first.split()[-2:]))


@splits
def test_an_overlap_that_is_too_long_is_refused(embedder: StaticEmbedder) -> None:
    with pytest.raises(InputError, match="overlap must be less than half of split-tokens=10, got 5"):
        make_splitter(embedder.tokenizer, 10, 5)


@splits
def test_the_tokenizer_of_the_embedder_is_not_changed_by_splitting(tmp_path: Path) -> None:
    embedder = StaticEmbedder(str(save_embedder(tmp_path, passage_texts())))
    embedder.tokenizer.enable_truncation(3)
    assert len(make_splitter(embedder.tokenizer, 20)("", "moon " * 60)) == 3
    assert embedder.tokenizer.truncation["max_length"] == 3


@splits
def test_parts_that_a_document_no_longer_has_are_deleted(
    client: MilvusClient, embedder: StaticEmbedder, tmp_path: Path
) -> None:
    path = tmp_path / "a.jsonl"

    def index(**texts: str) -> IndexReport:
        write_jsonl(path, [{"_id": name, "text": text} for name, text in texts.items()])
        return index_passages(client, "parts", read_passages(path, options(embedder)), embedder, batch_size=2)

    index(d=SENTENCES, e="the moon")
    before = len(rows(client, "parts"))
    report = index(d="a moth was found.", e="the moon")
    assert (report.read, report.deleted, report.total) == (2, before - 2, 2)
    assert [(row["id"], row["parts"]) for row in rows(client, "parts")] == [("d#1", 1), ("e#1", 1)]


@splits
def test_a_key_that_parts_need_is_refused(embedder: StaticEmbedder, tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "a.jsonl", [{"_id": "d", "text": "x", "part": 3}])
    with pytest.raises(InputError, match=r"a\.jsonl:1: split documents need the key 'part' themselves; rename it"):
        list(read_passages(path, options(embedder)))


@splits
def test_a_text_too_long_for_milvus_fits_in_parts(embedder: StaticEmbedder, tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "a.jsonl", [{"_id": "d", "text": "moon " * 20000}])
    with pytest.raises(InputError, match=r"have 99999 bytes, .* split long texts, for example with --split-tokens 256"):
        list(read_passages(path))
    with open_corpus(path, options(embedder, tokens=1000)) as corpus:
        assert corpus.total == len(list(corpus)) == 20


def test_rows_that_the_corpus_lacks_are_deleted_only_when_asked(client: MilvusClient, embedder: StaticEmbedder) -> None:
    all_passages = [Passage(f"p'{number * 7 % 2500}\"", "", "the moon") for number in range(2500)]
    index_passages(client, "pruned", all_passages, embedder, batch_size=1000)
    report = index_passages(client, "pruned", all_passages[:3], embedder)
    assert (report.deleted, report.total) == (0, 2500)
    report = index_passages(client, "pruned", all_passages[:3], embedder, prune=True)
    assert (report.written, report.deleted, report.total) == (0, 2497, 3)
    assert {row["id"] for row in rows(client, "pruned")} == {passage.id for passage in all_passages[:3]}


def test_a_corpus_that_becomes_unreadable_deletes_nothing(client: MilvusClient, embedder: StaticEmbedder) -> None:
    def broken() -> Any:
        yield Passage("a", "", "the moon")
        raise InputError("unreadable")

    index_passages(client, "kept", [Passage("a", "", "x"), Passage("b", "", "y")], embedder)
    with pytest.raises(InputError, match="unreadable"):
        index_passages(client, "kept", broken(), embedder, prune=True)
    assert [row["id"] for row in rows(client, "kept")] == ["a", "b"]


def test_json_numbers_survive_the_temporary_file(embedder: StaticEmbedder, tmp_path: Path) -> None:
    pytest.importorskip("semantic_text_splitter")
    values = {"big": 2**62 + 1, "tiny": 1e-7, "nested": {"a": [None, True]}, "ü": "é"}
    path = write_jsonl(tmp_path / "a.jsonl", [{"_id": "d", "text": "x", **values}])
    [passage] = read_passages(path, options(embedder))
    assert json.loads(json.dumps(passage.fields)) == {**values, "document": "d", "part": 1, "parts": 1}


@pytest.mark.needs("semantic_text_splitter")
def test_rows_of_a_table_are_split_too(tmp_path: Path, embedder: StaticEmbedder) -> None:
    (tmp_path / "a.csv").write_text("_id,text,year\n1,one two three four five six seven eight,1950\n")
    parts = list(read_passages(tmp_path / "a.csv", options(embedder, 4)))
    assert [part.id for part in parts] == [f"1#{number}" for number in range(1, len(parts) + 1)]
    assert len(parts) > 1
    assert parts[1].fields == {"year": 1950, "document": "1", "part": 2, "parts": len(parts)}
