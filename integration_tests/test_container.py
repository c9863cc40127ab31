"""The whole way on a Milvus server in a container."""

import asyncio
from typing import Any

import pytest
from milvus_container import Server
from milvus_fixtures import (
    DIM,
    MILVUS_INDEX,
    SEARCH_RESULTS,
    TEXTS,
    cosine,
    embed,
    make_plain,
    orm_collection,
    vector,
)
from present import present
from pymilvus import AsyncMilvusClient, MilvusClient
from two_stage_docs import docs as two_stage
from two_stage_docs import ids

from milvus_rerank import (
    RRF,
    Dense,
    FullText,
    Hybrid,
    LexicalRerankFunction,
    Weighted,
)
from milvus_rerank.errors import HitError, SearchError

DENSE = Dense("dense")


def test_reranking_brings_up_what_the_server_put_low(docs: MilvusClient) -> None:
    answer = two_stage(docs)(MILVUS_INDEX, top_k=4, candidates=6)
    assert [(hit.id, hit.score, hit.index) for hit in answer] == [
        ("d4", 1.0, 4),
        ("d5", 1.0, 5),
        ("d2", 0.5, 2),
        ("d0", 0.0, 0),
    ]
    assert [hit.distance for hit in answer] == pytest.approx([cosine(4), cosine(5), cosine(2), 1.0], abs=1e-6)
    assert [hit.text for hit in answer] == [TEXTS[4], TEXTS[5], TEXTS[2], TEXTS[0]]


def test_many_queries_at_once(docs: MilvusClient) -> None:
    first, second = two_stage(docs)([MILVUS_INDEX, SEARCH_RESULTS], top_k=2, candidates=6)
    assert (ids(first), ids(second)) == (["d4", "d5"], ["d8", "d7"])
    assert second[1].distance == pytest.approx(cosine(7, SEARCH_RESULTS), abs=1e-6)


def test_filter_and_partitions_limit_the_candidates(docs: MilvusClient) -> None:
    assert ids(two_stage(docs)(MILVUS_INDEX, filter="year > 2019", top_k=2)) == ["d5", "d6"]
    late: dict[str, Any] = {"partitions": ["late"], "top_k": None}
    assert ids(two_stage(docs)(SEARCH_RESULTS, **late)) == ["d8", "d7", "d6"]
    assert ids(two_stage(docs)(SEARCH_RESULTS, filter="year < 2023", **late)) == ["d7", "d6"]
    assert ids(two_stage(docs)(MILVUS_INDEX, filter='meta["odd"] == true', top_k=2)) == ["d5", "d1"]


def test_fields_of_every_kind_are_kept(docs: MilvusClient) -> None:
    fields = ["id", "year", "meta", "labels", "tag", "dense"]
    [best] = two_stage(docs)(MILVUS_INDEX, top_k=1, output_fields=fields)
    entity = dict(present(best.entity))
    assert entity.pop("dense") == pytest.approx(vector(40), abs=1e-6)
    assert list(entity.pop("labels")) == ["l4"]
    assert entity == {"text": TEXTS[4], "id": 1004, "year": 2019, "meta": {"odd": False}, "tag": "t4"}
    assert best.id == "d4"  # the key is `pk`; the field `id` is only a field
    assert best.to_dict()["entity"]["labels"] == ["l4"]


def test_integer_keys_and_the_only_vector_field(docs: MilvusClient) -> None:
    rows = [{"id": number, "vector": vector(10 * number), "text": TEXTS[number]} for number in range(6)]
    make_plain(docs, "plain", rows)
    answer = two_stage(docs, "plain", first_stage=None)(MILVUS_INDEX, top_k=3)
    assert ids(answer) == [4, 5, 2]


def test_hits_of_a_plain_search_are_reranked(docs: MilvusClient) -> None:
    result = docs.search(
        "docs", data=embed([MILVUS_INDEX]), anns_field="dense", limit=6, output_fields=["text", "year"]
    )
    found = LexicalRerankFunction().rerank_hits(MILVUS_INDEX, result[0], top_k=2)
    assert [(hit.id, hit.score, hit.index, present(hit.entity)["year"]) for hit in found] == [
        ("d4", 1.0, 4, 2019),
        ("d5", 1.0, 5, 2020),
    ]
    assert LexicalRerankFunction().rerank_hits(MILVUS_INDEX, result, top_k=2) == found


def test_a_whole_search_result_is_reranked(docs: MilvusClient) -> None:
    queries = [MILVUS_INDEX, SEARCH_RESULTS]
    result = docs.search("docs", data=embed(queries), anns_field="dense", limit=6, output_fields=["text"])
    first, second = LexicalRerankFunction().rerank_search_result(queries, result, top_k=2)
    assert (ids(first), ids(second)) == (["d4", "d5"], ["d8", "d7"])


def test_hits_without_the_text_field_are_an_error_that_names_it(docs: MilvusClient) -> None:
    result = docs.search("docs", data=embed([MILVUS_INDEX]), anns_field="dense", limit=2)
    with pytest.raises(HitError, match=r"hit 0 \(id 'd0'\): field 'text' is missing"):
        LexicalRerankFunction().rerank_hits(MILVUS_INDEX, result[0])


def test_rows_of_a_query_are_reranked(docs: MilvusClient) -> None:
    rows = docs.query("docs", filter="year > 2017", output_fields=["text"])
    best = LexicalRerankFunction().rerank_hits(SEARCH_RESULTS, rows, top_k=2, id_field="pk")
    assert sorted(ids(best)) == ["d7", "d8"]


@pytest.mark.filterwarnings("ignore::pymilvus.decorators.PyMilvusDeprecationWarning")
def test_an_orm_collection(server: Server, docs: MilvusClient) -> None:
    with orm_collection(server.uri, "docs") as collection:
        answer = two_stage(collection, None)(MILVUS_INDEX, top_k=2, filter="year > 2015", output_fields=["year"])
        assert [(hit.id, present(hit.entity)["year"]) for hit in answer] == [("d4", 2019), ("d5", 2020)]
        hits = collection.search(embed([MILVUS_INDEX]), "dense", {}, limit=6, output_fields=["text"])
        assert ids(LexicalRerankFunction().rerank_hits(MILVUS_INDEX, hits[0], top_k=2)) == ["d4", "d5"]


def test_the_async_client(server: Server, docs: MilvusClient) -> None:
    async def search() -> Any:
        client = AsyncMilvusClient(uri=server.uri)
        try:
            search = two_stage(client)
            one = search.asearch(MILVUS_INDEX, top_k=2, output_fields=["tag"])
            many = search.asearch([MILVUS_INDEX, SEARCH_RESULTS], top_k=1, filter="year < 2022")
            return await asyncio.gather(one, many)
        finally:
            await client.close()

    one, (first, second) = asyncio.run(search())
    assert [(hit.id, hit.entity["tag"]) for hit in one] == [("d4", "t4"), ("d5", "t5")]
    assert (ids(first), ids(second)) == (["d4"], ["d4"])


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"vectors": [[1.0, 0.0]]}, f"The query vector has 2 dimensions, the field 'dense' has {DIM}"),
        ({"filter": "year >>> 3"}, "filter='year >>> 3'"),
        ({"partitions": ["never"]}, "partitions=['never']"),
    ],
)
def test_what_the_server_refuses_is_explained(docs: MilvusClient, wrong: Any, says: str) -> None:
    with pytest.raises(SearchError) as caught:
        two_stage(docs)(MILVUS_INDEX, **wrong)
    assert says in str(caught.value)


def test_an_unknown_collection_is_explained(docs: MilvusClient) -> None:
    with pytest.raises(SearchError, match=r"could not search 'nope'.*client\.list_collections\(\)"):
        two_stage(docs, "nope")(MILVUS_INDEX)


@pytest.mark.usefixtures("needs_full_text")
def test_full_text_search(docs: MilvusClient) -> None:
    answer = two_stage(docs, embed=None, first_stage=FullText("sparse"))(SEARCH_RESULTS)
    assert sorted(ids(answer)) == ["d4", "d7", "d8"]  # the others hold neither word
    assert [hit.score for hit in answer] == [1.0, 1.0, 0.5]


@pytest.mark.usefixtures("needs_full_text")
@pytest.mark.parametrize("fusion", [RRF(), Weighted((0.7, 0.3))])
def test_hybrid_search(docs: MilvusClient, fusion: Any) -> None:
    stage = Hybrid((DENSE, FullText("sparse")), fusion)
    first, second = two_stage(docs, first_stage=stage)([MILVUS_INDEX, SEARCH_RESULTS], top_k=2, candidates=9)
    assert sorted(ids(first)) == ["d4", "d5"]
    assert sorted(ids(second)) == ["d7", "d8"]
