"""Searches from a config."""

import asyncio
from pathlib import Path
from typing import Any

import pytest
from pymilvus import MilvusClient

from milvus_rerank import TwoStageSearch
from milvus_rerank.config import Config, SearchTable, read_config
from milvus_rerank.embedding import StaticEmbedder
from milvus_rerank.errors import InputError
from milvus_rerank.indexing import CollectionInfo, Passage, index_passages, open_client
from milvus_rerank.indexing.client import connect

QUESTION = "programming language for unix"


def tables(embedder: StaticEmbedder, **search: Any) -> dict[str, Any]:
    return {
        "collection": {"name": "small"},
        "embedder": {"name": embedder.model_name},
        "reranker": {"name": "lexical"},
        "search": {"top_k": 2, "candidates": 4, "output_fields": ["year"], **search},
    }


def test_calls_take_their_defaults_from_the_config(
    client: MilvusClient, small: CollectionInfo, embedder: StaticEmbedder
) -> None:
    search = TwoStageSearch.from_config(tables(embedder), client=client)
    answer = search(QUESTION)
    assert [(result.id, result.score) for result in answer] == [("c", 1.0), ("python", 0.5)]
    assert set(answer[0].entity) == {"text", "year"}
    assert [result.id for result in search(QUESTION, top_k=1)] == ["c"]
    assert len(search(QUESTION, top_k=0)) == 4
    assert [result.id for result in asyncio.run(search.asearch(QUESTION))] == ["c", "python"]
    batch = search([QUESTION, "people on the moon"], top_k=1)
    assert [answer[0].id for answer in batch] == ["c", "moon"]
    high = TwoStageSearch.from_config(tables(embedder, threshold=0.6), client=client)
    assert [result.id for result in high(QUESTION)] == ["c"]


def test_what_the_config_leaves_out_is_as_on_the_command_line(
    client: MilvusClient, small: CollectionInfo, embedder: StaticEmbedder
) -> None:
    rest = {name: table for name, table in tables(embedder).items() if name != "search"}
    search: Any = TwoStageSearch.from_config(rest, client=client)
    assert (search.arguments["top_k"], search.arguments["candidates"], search.arguments["timeout"]) == (10, 50, 30.0)
    many = read_config(rest).model_copy(update={"search": SearchTable(top_k=60)})
    search = TwoStageSearch.from_config(many, client=client)
    assert (search.arguments["top_k"], search.arguments["candidates"]) == (60, 60)


def test_a_file_opens_its_own_milvus(tmp_path: Path, passages: list[Passage], embedder: StaticEmbedder) -> None:
    uri = str(tmp_path / "a.db")
    with open_client(uri) as client:
        index_passages(client, "small", passages, embedder)
    config = read_config(tables(embedder)).model_copy(update={"milvus": read_config({"milvus": {"uri": uri}}).milvus})
    config.write(tmp_path / "c.toml")
    search = TwoStageSearch.from_config(tmp_path / "c.toml")
    try:
        assert [result.id for result in search(QUESTION)] == ["c", "python"]
    finally:
        search.source.client.close()


def test_a_search_that_cannot_be_set_up_says_why(
    tmp_path: Path, passages: list[Passage], embedder: StaticEmbedder
) -> None:
    uri = str(tmp_path / "a.db")
    with pytest.raises(InputError, match="does not exist; create it with"):
        TwoStageSearch.from_config({"milvus": {"uri": uri}})
    with open_client(uri) as client:
        index_passages(client, "small", passages, embedder)
    with pytest.raises(InputError, match="the collection 'absent' does not exist; the collections are: small"):
        TwoStageSearch.from_config({"milvus": {"uri": uri}, "collection": {"name": "absent"}})
    with pytest.raises(InputError, match="config must be a path of a TOML file"):
        TwoStageSearch.from_config(None)  # type: ignore[arg-type]
    assert Config().to_dict() == {}


@pytest.mark.parametrize(("uri", "options"), [("a.db", {"grpc.keepalive_time_ms": 2**31 - 1}), ("http://h:1", None)])
def test_milvus_lite_is_not_pinged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, uri: str, options: dict[str, int] | None
) -> None:
    given: dict[str, Any] = {}
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("pymilvus.MilvusClient", lambda *_, **arguments: given.update(arguments))
    connect(uri)
    assert given.get("grpc_options") == options
