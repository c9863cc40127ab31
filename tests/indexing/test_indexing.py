"""Files into collections: what is stored, and what a second or a killed run does."""

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from milvus_fixtures import make_docs
from present import present
from pymilvus import MilvusClient
from pymilvus.exceptions import MilvusException
from tiny_embedder import PASSAGES, passage_texts, save_embedder, write_jsonl

from milvus_rerank.embedding import StaticEmbedder
from milvus_rerank.errors import InputError, SearchError
from milvus_rerank.indexing import (
    CollectionInfo,
    Passage,
    corpus_file,
    describe,
    index_passages,
    load,
    open_client,
    open_search,
    read_passages,
)
from milvus_rerank.indexing.collection import create, fingerprint, has_bm25
from milvus_rerank.indexing.schema import EMBEDDER_KEY
from milvus_rerank.reranker import LexicalRerankFunction

pytestmark = pytest.mark.compat


def stored(client: MilvusClient, collection: str, fields: list[str]) -> dict[str, dict[str, Any]]:
    return {row["id"]: dict(row) for row in client.query(collection, filter="", limit=1000, output_fields=fields)}


class CountingEmbedder:
    """Counts the texts it embeds; with ``fail_after``, it refuses to embed more than that."""

    def __init__(self, inner: StaticEmbedder, fail_after: int | None = None) -> None:
        self.inner, self.fail_after = inner, fail_after
        self.texts: list[str] = []
        self.model_name, self.dim = inner.model_name, inner.dim
        self.encode_queries = inner.encode_queries

    def encode_documents(self, documents: Sequence[str]) -> Any:
        if self.fail_after is not None and len(self.texts) + len(documents) > self.fail_after:
            raise InputError("enough")
        self.texts += documents
        return self.inner.encode_documents(documents)


def test_the_longest_text_that_fits_is_stored_whole(client: MilvusClient, embedder: StaticEmbedder) -> None:
    text = "é" * 32767 + "x"
    report = index_passages(client, "long", [Passage("a", "", text)], embedder)
    assert report.total == 1
    assert stored(client, "long", ["text"])["a"]["text"] == text


def test_a_source_that_is_no_corpus_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"has no corpus\.jsonl"):
        corpus_file(tmp_path)
    with pytest.raises(InputError, match="does not exist; give a folder"):
        corpus_file(tmp_path / "none")
    with pytest.raises(InputError, match="none does not exist; give a file, a folder, or - for stdin"):
        list(read_passages(tmp_path / "none"))


def test_indexing_stores_texts_fields_and_unit_vectors(
    client: MilvusClient, small: CollectionInfo, passages: list[Passage], embedder: StaticEmbedder
) -> None:
    rows = stored(client, "small", ["title", "text", "vector", "$meta"])
    assert {name: row["year"] for name, row in rows.items()} == {one["_id"]: one["year"] for one in PASSAGES}
    assert rows["bug"]["text"] == "First bug a moth was found in the relay of a computer"
    assert rows["bug"]["title"] == "First bug"
    expected = embedder.encode_documents([passage.text for passage in passages])
    np.testing.assert_allclose([rows[passage.id]["vector"] for passage in passages], expected, atol=1e-6)


def test_a_second_run_embeds_and_writes_nothing(
    client: MilvusClient, small: CollectionInfo, passages: list[Passage], embedder: StaticEmbedder
) -> None:
    counting = CountingEmbedder(embedder)
    report = index_passages(client, "small", passages, counting)
    assert (report.read, report.written, report.unchanged, report.total) == (5, 0, 5, 5)
    assert counting.texts == []


def test_only_what_changed_is_written_again_and_nothing_is_doubled(
    client: MilvusClient, passages: list[Passage], embedder: StaticEmbedder
) -> None:
    index_passages(client, "changed", passages, embedder)
    changed = [*passages[:3], Passage("moon", "", "the moon is far", {"year": 1969}), passages[4]]
    counting = CountingEmbedder(embedder)
    report = index_passages(client, "changed", changed, counting, batch_size=2)
    assert (report.written, report.unchanged, report.total) == (1, 4, 5)
    assert counting.texts == ["the moon is far"]
    assert stored(client, "changed", ["text"])["moon"]["text"] == "the moon is far"


def test_a_key_that_was_added_or_removed_counts_as_a_change(client: MilvusClient, embedder: StaticEmbedder) -> None:
    index_passages(client, "keys", [Passage("a", "", "x", {"year": 1}), Passage("b", "", "y", {})], embedder)
    swapped = [Passage("a", "", "x", {}), Passage("b", "", "y", {"year": 1})]
    assert index_passages(client, "keys", swapped, embedder).written == 2
    assert stored(client, "keys", ["$meta"]) == {"a": {"id": "a"}, "b": {"id": "b", "year": 1}}


def test_any_id_and_any_json_value_comes_back_as_it_went_in_and_is_found_again(
    client: MilvusClient, embedder: StaticEmbedder
) -> None:
    ids = ['a"b', "c\\d", "x'y", "n\nl", "t\tb", "日本", "{x}", "a%b", "🙂", " space "]
    values: dict[str, Any] = {
        "none": None,
        "nested": {"a": [1, {"b": None}]},
        "flag": True,
        "list": [],
        "tiny": 1e-7,
        "least": -(2**63),
        "ü key": "v",
    }
    odd = [Passage(name, "", "same text", values) for name in ids]
    assert index_passages(client, "odd", odd, embedder).written == 10
    assert index_passages(client, "odd", odd, embedder).unchanged == 10
    assert stored(client, "odd", ["title", "text", "$meta"]) == {
        name: {**values, "id": name, "title": "", "text": "same text"} for name in ids
    }


def test_a_run_that_failed_goes_on_where_it_stopped(
    client: MilvusClient, passages: list[Passage], embedder: StaticEmbedder
) -> None:
    with pytest.raises(InputError, match="enough"):
        index_passages(client, "resumed", passages, CountingEmbedder(embedder, fail_after=4), batch_size=2)
    done: list[Any] = []
    report = index_passages(client, "resumed", passages, embedder, batch_size=2, progress=done.append)
    assert (report.written, report.unchanged, report.total) == (1, 4, 5)
    assert done == [2, 2, 1]


@pytest.mark.needs("milvus_lite")
def test_a_process_killed_between_batches_leaves_whole_batches_and_the_next_run_completes(
    tmp_path: Path, embedder: StaticEmbedder
) -> None:
    folder = write_jsonl(tmp_path / "many.jsonl", [{"_id": f"d{i}", "text": f"unix number {i}"} for i in range(100)])
    script = """
import os, signal, sys
from pathlib import Path
from milvus_rerank.embedding import StaticEmbedder
from milvus_rerank.indexing import index_passages, open_client, read_passages
class Dying(StaticEmbedder):
    texts = 0
    def encode_documents(self, documents):
        self.texts += len(documents)
        if self.texts > 60:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().encode_documents(documents)
with open_client(sys.argv[1]) as client:
    index_passages(client, "many", read_passages(Path(sys.argv[2])), Dying(sys.argv[3]), batch_size=20)
"""
    command = [sys.executable, "-c", script, str(tmp_path / "k.db"), str(folder), embedder.model_name]
    assert subprocess.run(command, timeout=60, capture_output=True).returncode == -9
    with open_client(str(tmp_path / "k.db")) as client:
        report = index_passages(client, "many", read_passages(folder), embedder, batch_size=7)
        assert (report.written, report.unchanged, report.total) == (40, 60, 100)
        assert stored(client, "many", ["text"])["d99"]["text"] == "unix number 99"


def test_a_collection_whose_making_was_killed_before_its_indexes_is_completed(
    client: MilvusClient, passages: list[Passage], embedder: StaticEmbedder
) -> None:
    create(client, "half", embedder, 10.0)
    assert client.list_indexes("half") == []
    assert index_passages(client, "half", passages, embedder).total == 5
    assert sorted(client.list_indexes("half")) == ["sparse", "vector"]


def test_another_embedder_is_refused_even_with_as_many_dimensions(
    client: MilvusClient, small: CollectionInfo, passages: list[Passage], tmp_path: Path
) -> None:
    other = StaticEmbedder(str(save_embedder(tmp_path / "other", passage_texts(), seed=1)))
    with pytest.raises(InputError, match=r"'small' was indexed with .* sha256:\w{12}, got .*other"):
        index_passages(client, "small", passages, other)
    with pytest.raises(InputError, match="their vectors cannot be compared"):
        open_search(client, small, reranker=LexicalRerankFunction(), embedder=other)
    larger = StaticEmbedder(str(save_embedder(tmp_path / "larger", passage_texts(), dim=33)))
    with pytest.raises(InputError, match=r"has 32 dimensions, but the embedder .* makes 33"):
        open_search(client, small, reranker=LexicalRerankFunction(), embedder=larger)


def test_the_embedder_is_known_by_its_weights_not_by_where_they_lie(
    embedder: StaticEmbedder, tmp_path: Path, small: CollectionInfo
) -> None:
    same = StaticEmbedder(str(save_embedder(tmp_path / "same", passage_texts())))
    assert fingerprint(same).split()[-1] == fingerprint(embedder).split()[-1] == present(small.embedder).split()[-1]
    assert present(small.embedder).startswith(embedder.model_name)


def test_a_collection_made_in_another_way_is_not_written_to_but_can_be_searched(
    client: MilvusClient, passages: list[Passage], embedder: StaticEmbedder
) -> None:
    make_docs(client, "docs")
    with pytest.raises(InputError, match="'docs' was not made by milvus-rerank index"):
        index_passages(client, "docs", passages, embedder)
    info = describe(client, "docs")
    assert (info.primary, info.dense, info.bm25, info.embedder) == ("pk", {"dense": 4}, {"sparse": "text"}, None)
    load(client, info)
    answer = open_search(client, info, mode="bm25")("milvus", output_fields=["pk"], candidates=10)
    assert {result.id for result in answer} == {"d2", "d4", "d5"}


def test_the_embedder_is_written_into_the_collection(
    client: MilvusClient, small: CollectionInfo, embedder: StaticEmbedder
) -> None:
    assert client.describe_collection("small")["properties"] == {
        EMBEDDER_KEY: fingerprint(embedder),
        "milvus_rerank.fields": '["year"]',
    }


@pytest.mark.parametrize(
    ("version", "expected"),
    [("v2.3.5", False), ("2.4.23", False), ("v2.5.0", True), ("v2.6.20-dev", True), ("v3.0.2", True),
     ("milvus_lite-3.2.2", True), ("2.5.1-lite", False), ("unknown", False)],
)  # fmt: skip
def test_bm25_is_there_from_these_versions_on(version: str, expected: bool) -> None:
    class Server:
        def get_server_version(self, timeout: float | None) -> str:
            return version

    assert has_bm25(Server()) is expected


class FailingClient:
    """Forwards to a client; its upsert fails as Milvus does."""

    def __init__(self, inner: Any) -> None:
        self.inner = inner

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    def upsert(self, *arguments: Any, **options: Any) -> None:
        raise MilvusException(message="out of disk.")


def test_rows_that_lose_a_key_are_not_deleted_before_their_successors_are_embedded(
    client: MilvusClient, embedder: StaticEmbedder
) -> None:
    index_passages(client, "shrunk", [Passage("a", "", "x", {"year": 1})], embedder)
    with pytest.raises(InputError, match="enough"):
        index_passages(client, "shrunk", [Passage("a", "", "x")], CountingEmbedder(embedder, fail_after=0))
    assert stored(client, "shrunk", ["$meta"]) == {"a": {"id": "a", "year": 1}}


def test_a_failed_write_says_how_to_complete_it_and_that_completes_it(
    client: MilvusClient, embedder: StaticEmbedder
) -> None:
    index_passages(client, "torn", [Passage("a", "", "x", {"year": 1})], embedder)
    advice = r"could not store passages in 'torn': out of disk\. Index the same source again; it writes only the"
    with pytest.raises(SearchError, match=advice):
        index_passages(FailingClient(client), "torn", [Passage("a", "", "x")], embedder)
    assert index_passages(client, "torn", [Passage("a", "", "x")], embedder).written == 1
    assert stored(client, "torn", ["$meta"]) == {"a": {"id": "a"}}


def test_an_error_of_the_embedder_is_not_told_as_one_of_milvus(client: MilvusClient, embedder: StaticEmbedder) -> None:
    class Broken(CountingEmbedder):
        def encode_documents(self, documents: Sequence[str]) -> Any:
            return int("no number")

    with pytest.raises(ValueError, match="invalid literal") as raised:
        index_passages(client, "broken", [Passage("a", "", "x")], Broken(embedder))
    assert type(raised.value) is ValueError
