"""The collections that the playground searches: each with its own embedder, or with none."""

from collections.abc import Iterator
from typing import Any

import pytest
from pymilvus import DataType, Function, FunctionType
from tiny_embedder import passage_texts, save_embedder

from milvus_rerank.embedding import StaticEmbedder
from milvus_rerank.errors import InputError
from milvus_rerank.indexing import Passage, index_passages, open_client
from milvus_rerank.server.playground import Milvus, SearchBody

pytestmark = pytest.mark.needs("milvus_lite")
TEXTS = ["people walked on the moon", "a moth was found in the relay of a computer"]


@pytest.fixture(scope="module")
def tiny_embedder(tmp_path_factory: pytest.TempPathFactory) -> StaticEmbedder:
    return StaticEmbedder(str(save_embedder(tmp_path_factory.mktemp("embedder"), passage_texts())))


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory, tiny_embedder: StaticEmbedder) -> Iterator[Any]:
    passages = [Passage(str(number), "", text) for number, text in enumerate(TEXTS)]
    with open_client(str(tmp_path_factory.mktemp("milvus") / "x.db")) as client:
        index_passages(client, "large", passages, StaticEmbedder("builtin/embed"))
        index_passages(client, "tiny", passages, tiny_embedder)
        schema = client.create_schema(auto_id=True)
        schema.add_field("pk", DataType.INT64, is_primary=True)
        schema.add_field("one", DataType.VARCHAR, max_length=500, enable_analyzer=True)
        schema.add_field("two", DataType.VARCHAR, max_length=500)
        schema.add_field("words", DataType.SPARSE_FLOAT_VECTOR)
        schema.add_field("emb", DataType.FLOAT_VECTOR, dim=tiny_embedder.dim)
        schema.add_function(Function("f", FunctionType.BM25, ["one"], ["words"]))
        params = client.prepare_index_params()
        params.add_index("words", index_type="SPARSE_INVERTED_INDEX", metric_type="BM25")
        params.add_index("emb", index_type="AUTOINDEX", metric_type="IP")
        client.create_collection("foreign", schema=schema, index_params=params, consistency_level="Strong")
        vectors = tiny_embedder.encode_documents(TEXTS).tolist()
        rows = [{"one": text, "two": text[::-1], "emb": vector} for text, vector in zip(TEXTS, vectors, strict=True)]
        client.insert("foreign", rows)
        yield client


def best(milvus: Milvus, collection: str, mode: Any = "dense") -> str:
    return str(
        milvus.search(SearchBody(query="moth in a computer", collection=collection, mode=mode))["hits"][0]["text"]
    )


def test_each_collection_is_searched_with_the_embedder_that_made_it(client: Any, tiny_embedder: StaticEmbedder) -> None:
    chosen, remembered = Milvus(client, tiny_embedder, allowed=("*",)), Milvus(client, allowed=("*",))
    for milvus in (chosen, remembered):
        assert best(milvus, "large") == best(milvus, "tiny") == best(milvus, "tiny", "hybrid") == TEXTS[1]
    assert {name.split()[0] for name in remembered.loaded} == {"builtin/embed", tiny_embedder.model_name}
    assert [name.split()[0] for name in chosen.loaded] == ["builtin/embed"]


def test_a_collection_of_another_program_needs_the_embedder_and_perhaps_the_fields(
    client: Any, tiny_embedder: StaticEmbedder
) -> None:
    unknown = Milvus(client, allowed=("*",))
    assert best(unknown, "foreign", "bm25") == TEXTS[1]
    with pytest.raises(InputError, match=r"does not say which embedder made its vectors .* --embedder"):
        best(unknown, "foreign")
    chosen = Milvus(client, tiny_embedder, text_field="two", vector_field="emb", allowed=("*",))
    assert best(chosen, "foreign") == TEXTS[1][::-1]
