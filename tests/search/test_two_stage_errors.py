"""What TwoStageSearch says when Milvus refuses, on the embedded Milvus."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import grpc  # type: ignore[import-untyped]
import pytest
from milvus_fixtures import DIM, MILVUS_INDEX, lite_client, make_docs, orm_collection, vector
from pymilvus import DataType, MilvusClient
from pymilvus.exceptions import MilvusException
from two_stage_docs import docs

from milvus_rerank.errors import HitError, InputError, SearchError
from milvus_rerank.search import Dense, FullText, Hybrid, TwoStageSearch
from milvus_rerank.search.filters import unknown_field
from milvus_rerank.search.first_stage import FirstStage


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("lite")


@pytest.fixture(scope="module")
def client(folder: Path) -> Iterator[MilvusClient]:
    with lite_client(folder) as client:
        make_docs(client)
        yield client


def message(search: TwoStageSearch, **arguments: Any) -> str:
    with pytest.raises(SearchError) as caught:
        search(MILVUS_INDEX, **arguments)
    assert isinstance(caught.value.__cause__, (MilvusException, grpc.RpcError))
    return str(caught.value)


def test_an_unknown_collection(client: MilvusClient) -> None:
    assert message(docs(client, "nope")) == (
        "Milvus could not search 'nope' (Dense('dense'), limit=100, output_fields=['text']): "
        "collection 'nope' does not exist. To list the collections, call client.list_collections()."
    )


@pytest.mark.parametrize("stage", [Dense("dense"), Dense(), Hybrid((FullText(), Dense("dense")))])
def test_a_dimension_mismatch_tells_both_numbers(client: MilvusClient, stage: FirstStage) -> None:
    text = message(docs(client, first_stage=stage), vectors=[[1.0, 0.0, 0.0]])
    assert f"The query vector has 3 dimensions, the field 'dense' has {DIM}; embed the query with the model" in text


def test_an_unknown_vector_field(client: MilvusClient) -> None:
    text = message(docs(client, first_stage=Dense("vector")))
    assert "anns_field 'vector' not found in schema. The collection has no field 'vector'; its fields are" in text
    assert "'dense'" in text


def test_an_unknown_full_text_field_among_several_searches(client: MilvusClient) -> None:
    text = message(docs(client, first_stage=Hybrid((Dense("dense"), FullText("bm25")))))
    assert "Dense('dense') + FullText('bm25')" in text
    assert "The collection has no field 'bm25'; its fields are" in text


def test_text_sent_to_a_field_of_vectors(client: MilvusClient) -> None:
    text = message(docs(client, first_stage=FullText("dense")))
    assert "Text query on field 'dense' requires a TEXT_EMBEDDING function" in text


def test_a_filter_that_does_not_parse_is_shown(client: MilvusClient) -> None:
    text = message(docs(client), filter="year >>> 3", partitions=["late"])
    assert "filter='year >>> 3', partitions=['late']): unexpected token '>' at column 7" in text


def test_a_collection_of_milvus_lite_that_is_released_is_loaded(client: MilvusClient) -> None:
    make_docs(client, "idle")
    client.release_collection("idle")
    search = docs(client, "idle")
    assert len(search(MILVUS_INDEX, top_k=3)) == 3
    client.release_collection("idle")  # by somebody else, while this search is in use
    assert len(search(MILVUS_INDEX, top_k=3)) == 3


@pytest.mark.parametrize("stage", [Dense("dense"), FullText(), Hybrid((Dense("dense"), FullText()))])
def test_a_closed_client(folder: Path, client: MilvusClient, stage: FirstStage) -> None:
    closed = MilvusClient(str(folder / "lite.db"))
    closed.close()
    text = message(docs(closed, first_stage=stage))
    assert text.endswith("The client is closed, or was opened in another event loop; open a new one.")
    assert docs(client)(MILVUS_INDEX, top_k=1)[0].id == "d4"  # another client of the same file goes on


@pytest.mark.filterwarnings("ignore::pymilvus.decorators.PyMilvusDeprecationWarning")
def test_errors_of_an_orm_collection(folder: Path, client: MilvusClient) -> None:
    with orm_collection(str(folder / "lite.db"), "docs") as collection:
        search = docs(collection, None)
        text = message(search, vectors=[[1.0, 0.0, 0.0]])
        assert text.startswith("Milvus could not search 'docs' (Dense('dense')")
        assert f"The query vector has 3 dimensions, the field 'dense' has {DIM}" in text
    assert "The client is closed" in message(search)


def test_a_wrong_text_field_is_named_with_the_fields_there_are(client: MilvusClient) -> None:
    with pytest.raises(
        HitError, match=r"hit 0 \(id 'd0'\): field 'body' is missing; the hit has the fields \['year'\]"
    ):
        docs(client, text_field="body")(MILVUS_INDEX, output_fields=["year"])


def test_a_wrong_text_field_among_many_queries_names_the_list(client: MilvusClient) -> None:
    with pytest.raises(HitError, match=r"hits\[0\]: hit 0 \(id 'd0'\): field 'body' is missing"):
        docs(client, text_field="body")([MILVUS_INDEX, MILVUS_INDEX])


def test_a_text_field_of_numbers_is_refused(client: MilvusClient) -> None:
    with pytest.raises(HitError, match="hit 0: field 'year' must hold a string, got int"):
        docs(client, text_field="year")(MILVUS_INDEX)


def test_a_failing_first_stage_is_no_failure_of_the_reranker(client: MilvusClient) -> None:
    message(docs(client, "nope", on_rerank_error="first_stage"))


class Refusing:
    """A Milvus that refuses output fields, as servers do and the embedded one does not."""

    def __init__(self, error: Exception, fields: Sequence[str] = ("pk", "text", "dense")) -> None:
        self.error = error
        self.fields = [{"name": name, "type": DataType.VARCHAR, "params": {}} for name in fields]

    def search(self, *args: Any, **kwargs: Any) -> Any:
        raise self.error

    hybrid_search = search

    def describe_collection(self, collection: str, timeout: float | None) -> dict[str, Any]:
        return {"fields": self.fields, "enable_dynamic_field": False}


def test_an_unknown_output_field_on_a_server_without_dynamic_fields() -> None:
    refusing = Refusing(MilvusException(65535, "field yeer not exist"))
    assert message(docs(refusing), output_fields=["yeer"]).endswith(
        "field yeer not exist. The collection has no field 'yeer'; its fields are ['dense', 'pk', 'text']."
    )


def test_a_schema_that_cannot_be_read_leaves_the_first_error() -> None:
    class Silent(Refusing):
        def describe_collection(self, collection: str, timeout: float | None) -> dict[str, Any]:
            raise MilvusException(1, "second error")

    text = message(docs(Silent(MilvusException(65535, "first error."))))
    assert text.endswith("output_fields=['text']): first error.")


def test_a_client_that_cannot_describe_leaves_the_first_error() -> None:
    class Session:
        """What MilvusClient.session() gives: searches, and little else."""

        search = hybrid_search = Refusing(MilvusException(65535, "first error")).search

    assert message(docs(Session())).endswith("output_fields=['text']): first error.")


def test_a_channel_that_another_thread_closed() -> None:
    with pytest.raises(SearchError, match="The client is closed"):
        docs(Refusing(ValueError("Cannot invoke RPC on closed channel!")))(MILVUS_INDEX)


def test_retries_that_used_up_the_time() -> None:
    text = message(docs(Refusing(MilvusException(message="[search] Retry timeout: 2.5s"))), timeout=2.5)
    assert text.endswith("It did not answer within 2.5 s; retry, or pass a longer timeout=...")


def test_retries_of_a_server_that_is_away() -> None:
    gone = MilvusException(grpc.StatusCode.UNAVAILABLE, "[search] Retry timeout: 2.5s, failed to connect")
    assert message(docs(Refusing(gone)), timeout=2.5).endswith("does the client's uri name it?")


def test_a_bug_in_a_client_is_not_dressed_up() -> None:
    with pytest.raises(ZeroDivisionError):
        docs(Refusing(ZeroDivisionError()))(MILVUS_INDEX)


def test_an_asynchronous_embedder_belongs_to_asearch(client: MilvusClient) -> None:
    async def embed_later(queries: Sequence[str]) -> Any:
        return [vector(0)]

    with pytest.raises(InputError, match=r"await search.asearch\(...\)"):
        docs(client, embed=embed_later)(MILVUS_INDEX)


NO_DYNAMIC = {"fields": [{"name": "id"}, {"name": "year"}, {"name": "meta"}, {"name": "tags"}]}


@pytest.mark.parametrize(
    ("expression", "name"),
    [
        ("yaer > 1950", "yaer"),
        ("year > 1950 and autor == 'yaer'", "autor"),
        ("year in [1, 2] AND not (yeer < 3)", "yeer"),
        ("meta['yaer'] > 1 and array_contains(tags, 'x')", ""),
        ('meta["a"]["b"] == "yaer > 1" or tags is null', ""),
        ("text_match(txt, 'a')", "txt"),
        ("year > {least} and 1e3 < year", ""),
        ("year like 'a%' and exists meta", ""),
        ("1.5 < year < 0x7f", ""),
        ("text_match(tags, 'a b', minimum_should_match=2)", ""),
        ("element_filter(tags, $[part] == 'yaer')", ""),
        ("year + INTERVAL 'P1D' > ISO '2025-01-01T00:00:00Z'", ""),
    ],
)
def test_a_filter_that_names_an_unknown_field_is_named(expression: str, name: str) -> None:
    problem = unknown_field(expression, NO_DYNAMIC)
    assert (problem is not None and f"names {name!r}, which the collection" in problem[1]) if name else problem is None
    assert unknown_field(expression, NO_DYNAMIC | {"enable_dynamic_field": True}) is None


def test_a_search_that_finds_nothing_because_of_an_unknown_field_says_so(client: MilvusClient) -> None:
    schema = client.create_schema(enable_dynamic_field=False)
    schema.add_field("id", DataType.INT64, is_primary=True)
    schema.add_field("text", DataType.VARCHAR, max_length=100)
    schema.add_field("year", DataType.INT64)
    schema.add_field("dense", DataType.FLOAT_VECTOR, dim=DIM)
    index = client.prepare_index_params()
    index.add_index("dense", index_type="FLAT", metric_type="COSINE")
    client.create_collection("strict", schema=schema, index_params=index)
    client.insert("strict", [{"id": 1, "text": "a", "year": 1950, "dense": vector(0)}])
    search = docs(client, "strict", first_stage=Dense("dense"))
    with pytest.raises((InputError, SearchError), match="yaer"):
        search(MILVUS_INDEX, filter="yaer > 1950")
    assert len(search(MILVUS_INDEX, filter="year > 3000")) == 0
    assert len(search(MILVUS_INDEX, filter="year > 1900")) == 1
