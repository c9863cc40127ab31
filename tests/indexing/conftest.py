"""A small corpus, an embedder made from it, and a collection."""

from collections.abc import Iterator

import pytest
from pymilvus import MilvusClient
from tiny_embedder import passage_texts, save_embedder, write_beir

from milvus_rerank.embedding import StaticEmbedder
from milvus_rerank.indexing import (
    CollectionInfo,
    Passage,
    corpus_file,
    describe,
    index_passages,
    open_client,
    read_passages,
)


@pytest.fixture(scope="module")
def embedder(tmp_path_factory: pytest.TempPathFactory) -> StaticEmbedder:
    return StaticEmbedder(str(save_embedder(tmp_path_factory.mktemp("embedder"), passage_texts())))


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[object]:
    with open_client(str(tmp_path_factory.mktemp("lite") / "lite.db")) as client:
        yield client


@pytest.fixture(scope="module")
def passages(tmp_path_factory: pytest.TempPathFactory) -> list[Passage]:
    return list(read_passages(corpus_file(write_beir(tmp_path_factory.mktemp("beir")))))


@pytest.fixture(scope="module")
def small(client: MilvusClient, passages: list[Passage], embedder: StaticEmbedder) -> CollectionInfo:
    """The small collection, indexed."""
    index_passages(client, "small", passages, embedder)
    return describe(client, "small")
