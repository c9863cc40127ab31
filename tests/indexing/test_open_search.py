"""Searches in indexed collections: what they find, and what cannot be opened."""

import fcntl
from pathlib import Path
from typing import Any

import pytest
from present import present
from pymilvus import MilvusClient
from tiny_embedder import save_embedder

from milvus_rerank.embedding import StaticEmbedder
from milvus_rerank.errors import InputError, ModelError, SearchError
from milvus_rerank.indexing import CollectionInfo, describe, only_collection, open_client, open_search, without_scores
from milvus_rerank.indexing.collection import create
from milvus_rerank.indexing.schema import Mode
from milvus_rerank.reranker import LexicalRerankFunction

pytestmark = pytest.mark.compat


@pytest.mark.parametrize("mode", ["dense", "bm25", "hybrid"])
def test_each_mode_finds_and_reranks(
    client: MilvusClient, small: CollectionInfo, embedder: StaticEmbedder, mode: Mode
) -> None:
    search = open_search(client, small, mode=mode, reranker=LexicalRerankFunction(), embedder=embedder)
    answer = search("programming language for unix", top_k=2, candidates=5, output_fields=list(small.fields))
    assert [(result.id, result.score) for result in answer] == [("c", 1.0), ("python", 0.5)]
    assert present(answer[0].entity)["year"] == 1972


def test_a_search_without_a_reranker_keeps_the_first_stage_and_says_so(
    client: MilvusClient, small: CollectionInfo, embedder: StaticEmbedder
) -> None:
    search = open_search(client, small, embedder=embedder)
    answer = without_scores(search("people on the moon", top_k=3, candidates=5))
    assert [result.index for result in answer] == [0, 1, 2]
    assert {result.score for result in answer} == {None}
    assert answer[0].id == "moon"
    assert answer.reranked is False
    first, second, third = (present(hit.distance) for hit in answer[:3])
    assert first > second > third


def test_a_search_that_the_collection_has_no_field_for_is_refused(
    client: MilvusClient, small: CollectionInfo, embedder: StaticEmbedder
) -> None:
    client.create_collection("plain", dimension=32, id_type="string", max_length=64)
    plain = describe(client, "plain")
    with pytest.raises(InputError, match=r"'plain' has no BM25 field; search it with --mode dense"):
        open_search(client, plain, mode="hybrid", embedder=embedder)
    with pytest.raises(InputError, match="mode must be one of 'dense', 'bm25', 'hybrid', got 'sparse'"):
        open_search(client, small, mode="sparse")  # type: ignore[arg-type]


def test_unknown_collections_are_told_with_those_there_are(tmp_path: Path, embedder: StaticEmbedder) -> None:
    with open_client(str(tmp_path / "a.db")) as client:
        with pytest.raises(InputError, match="the collection 'nope' does not exist; the collections are: none"):
            describe(client, "nope")
        create(client, "one", embedder, 10.0)
        assert only_collection(client) == "one"
        create(client, "two", embedder, 10.0)
        with pytest.raises(InputError, match="choose a collection with --collection; the collections are: one, two"):
            only_collection(client)


def test_a_file_where_milvus_lite_wants_a_folder_is_told_with_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "old.db").write_bytes(b"SQLite format 3\0")
    with (
        pytest.raises(InputError, match=r"old\.db is a file, but Milvus Lite 3 keeps its data in a folder"),
        open_client(str(tmp_path / "old.db")),
    ):
        pass


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (lambda folder: (folder / "model.safetensors").write_bytes(b"\x10"), "header too small"),
        (
            lambda folder: (folder / "tokenizer.json").unlink(),
            "Could not find expected model files|Tokenizer file does not exist",
        ),
        (lambda folder: (folder / "tokenizer.json").write_text('{"model":'), "EOF while parsing"),
        (lambda folder: (folder / "config.json").write_text("[]"), "must hold a JSON object, got list"),
    ],
)
def test_a_damaged_embedder_is_told_with_its_folder(tmp_path: Path, damage: Any, told: str) -> None:
    folder = save_embedder(tmp_path / "damaged", ["a"])
    damage(folder)
    with pytest.raises(
        ModelError, match=rf"embedder '.*damaged' cannot be read \(.*(?:{told}).*\); expected a folder in"
    ):
        StaticEmbedder(str(folder))


def test_a_reranker_is_no_embedder() -> None:
    with pytest.raises(ModelError, match=r"embedder 'builtin/rerank' cannot be read \(.* embeddings\); expected"):
        StaticEmbedder("builtin/rerank")


@pytest.mark.parametrize(
    ("uri", "told"),
    [
        ("milvus", r"uri must be a Milvus Lite path that ends in \.db, or a server"),
        ("", r"uri must be a Milvus Lite path"),
        ("none/x.db", "cannot create none/x.db: the folder none does not exist"),
    ],
)
def test_a_uri_of_another_form_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, uri: str, told: str) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=told), open_client(uri):
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_search_does_not_make_a_file_that_is_not_there(tmp_path: Path) -> None:
    with (
        pytest.raises(
            InputError, match=r"the Milvus Lite file .*x\.db does not exist; create it with: milvus-rerank index"
        ),
        open_client(str(tmp_path / "x.db"), must_exist=True),
    ):
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_another_process_has_open_is_told_as_that(tmp_path: Path) -> None:
    (tmp_path / "x.db").mkdir()
    with (tmp_path / "x.db" / "LOCK").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with (
            pytest.raises(SearchError, match="another process has it open, and only one can open a Milvus Lite"),
            open_client(str(tmp_path / "x.db")),
        ):
            pass


def test_a_server_that_is_not_there_is_told_within_the_timeout() -> None:
    with (
        pytest.raises(SearchError, match=r"Milvus at http://127\.0\.0\.1:9 cannot be opened: .*Is the server running"),
        open_client("http://127.0.0.1:9", timeout=0.5),
    ):
        pass
