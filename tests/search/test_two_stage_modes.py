"""TwoStageSearch on the embedded Milvus: full-text and hybrid search, embedders and ready vectors."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import scipy.sparse
from milvus_fixtures import ANGLES, MILVUS_INDEX, SEARCH_RESULTS, TEXTS, cosine, embed, vector
from present import present
from pymilvus import DataType, MilvusClient
from two_stage_docs import DENSE, CountingClient, docs, ids

from milvus_rerank.reranker import LexicalRerankFunction
from milvus_rerank.search import RRF, Dense, FullText, Hybrid, TwoStageSearch, Weighted

pytestmark = pytest.mark.compat


def test_full_text_search_sends_the_text(client: MilvusClient) -> None:
    answer = docs(client, embed=None, first_stage=FullText("sparse"))(SEARCH_RESULTS)
    assert sorted(ids(answer)) == ["d4", "d7", "d8"]  # the others hold neither word
    assert [result.score for result in answer] == [1.0, 1.0, 0.5]
    assert answer[2].id == "d4"


def test_full_text_search_for_many_queries(client: MilvusClient) -> None:
    answers = docs(client, embed=None, first_stage=FullText())(["paris weather", "oven"], top_k=1)
    assert [ids(answer) for answer in answers] == [["d0"], ["d3"]]


@pytest.fixture(scope="module")
def bm25_order(client: MilvusClient) -> list[Any]:
    hits = client.search("docs", data=[MILVUS_INDEX], anns_field="sparse", limit=3, output_fields=["text"])
    return [hit.id for hit in hits[0]]


def test_hybrid_search_fuses_by_reciprocal_rank(client: MilvusClient, bm25_order: list[Any]) -> None:
    stage = Hybrid((DENSE, FullText("sparse")), RRF(k=10))
    answer = docs(client, first_stage=stage)(MILVUS_INDEX, top_k=None, candidates=3)
    # each search returns 3: d0, d1, d2 and the three that hold a word; d2 is in both, so it comes first
    fused = {f"d{rank}": 1 / (11 + rank) for rank in range(3)}
    for rank, key in enumerate(bm25_order):
        fused[key] = fused.get(key, 0.0) + 1 / (11 + rank)
    best = sorted(fused.values(), reverse=True)[:3]
    assert sorted((present(result.distance) for result in answer), reverse=True) == pytest.approx(best, abs=1e-6)
    assert {result.id: result.distance for result in answer}["d2"] == pytest.approx(fused["d2"], abs=1e-6)
    assert answer[0].score == 1.0


def test_hybrid_search_takes_weights(client: MilvusClient) -> None:
    def distances(weights: tuple[float, float], normalize: bool) -> dict[Any, float | None]:
        stage = Hybrid((DENSE, FullText("sparse")), Weighted(weights, normalize))
        return {hit.id: hit.distance for hit in docs(client, first_stage=stage)(MILVUS_INDEX, top_k=None, candidates=9)}

    found = distances((1.0, 0.0), False)
    assert found["d3"] == pytest.approx(cosine(3), abs=1e-6)
    assert found["d8"] == pytest.approx(cosine(8), abs=1e-6)
    assert distances((0.5, 0.0), False)["d3"] == pytest.approx(cosine(3) / 2, abs=1e-6)
    assert distances((1.0, 0.0), True)["d3"] == pytest.approx((1 + cosine(3)) / 2, abs=1e-6)


def test_hybrid_search_for_many_queries_with_filter_and_partition(client: MilvusClient) -> None:
    counted = CountingClient(client)
    stage = Hybrid((DENSE, FullText("sparse")))
    search = TwoStageSearch(counted, "docs", reranker=LexicalRerankFunction(), embed=embed, first_stage=stage)
    first, second = search(
        [MILVUS_INDEX, SEARCH_RESULTS], filter="year < 2023", partitions=["late"], top_k=None, output_fields=["year"]
    )
    assert sorted(ids(first)) == ["d6", "d7"]  # d8 is of 2023, the rest in another partition
    assert ids(second) == ["d7", "d6"]
    assert second[0].entity == {"text": TEXTS[7], "year": 2022}
    assert [name for name, _ in counted.calls] == ["hybrid_search"]


def test_searches_with_one_embedder_share_its_vectors(client: MilvusClient) -> None:
    calls = []

    def counted(queries: Sequence[str]) -> Any:
        calls.append(queries)
        return embed(queries)

    stage = Hybrid((DENSE, Dense("dense", params={"params": {}}), FullText("sparse")))
    docs(client, first_stage=stage, embed=counted)(MILVUS_INDEX)
    assert calls == [[MILVUS_INDEX]]


def test_a_search_may_have_its_own_embedder(client: MilvusClient) -> None:
    def backwards(queries: Sequence[str]) -> Any:
        return [vector(80 - ANGLES[query]) for query in queries]

    stage = Hybrid((DENSE, Dense("dense", embed=backwards)), Weighted((0.0, 1.0), normalize=False))
    for vectors in (None, [vector(0)]):  # ready vectors are for the searches that have no embedder
        answer = docs(client, first_stage=stage)(MILVUS_INDEX, top_k=None, candidates=9, vectors=vectors)
        assert {hit.id: hit.distance for hit in answer}["d6"] == pytest.approx(cosine(6, SEARCH_RESULTS), abs=1e-6)


def test_search_parameters_reach_milvus(client: MilvusClient) -> None:
    near = Dense("dense", {"params": {"radius": 0.9}})  # cosines of more than 0.9: d0, d1 and d2
    assert sorted(ids(docs(client, first_stage=near)(MILVUS_INDEX))) == ["d0", "d1", "d2"]
    counted = CountingClient(client)  # the embedded Milvus ignores them in a hybrid search
    docs(counted, first_stage=Hybrid((near, FullText("sparse", {"drop_ratio_search": 0.0}))))(MILVUS_INDEX)
    [(_, (_, requests, _))] = counted.calls
    dense, sparse = (request.param for request in requests)
    assert (dense["params"], sparse["drop_ratio_search"]) == ({"radius": 0.9}, 0.0)  # pymilvus may add to them


@pytest.mark.parametrize(
    "vectors",
    [
        [vector(0)],
        [tuple(vector(0))],
        np.array([vector(0)]),
        [np.array(vector(0), dtype=np.float16)],
        [np.array(vector(0), dtype=np.float32)],
        [[np.float32(number) for number in vector(0)]],
    ],
    ids=["lists", "tuples", "array", "float16", "float32", "numpy scalars"],
)
def test_ready_vectors_need_no_embedder(client: MilvusClient, vectors: Any) -> None:
    answer = docs(client, embed=None)("milvus", vectors=vectors, top_k=1, candidates=3)
    assert ids(answer) == ["d2"]
    assert answer[0].distance == pytest.approx(cosine(2), abs=1e-6)


def test_ready_vectors_go_before_the_embedder(client: MilvusClient) -> None:
    [best] = docs(client)(MILVUS_INDEX, vectors=[vector(80)], top_k=1, candidates=1)
    assert best.id == "d8"


@pytest.fixture(scope="module")
def bags(client: MilvusClient) -> TwoStageSearch:
    schema = client.create_schema()
    schema.add_field("pk", DataType.INT64, is_primary=True)
    schema.add_field("text", DataType.VARCHAR, max_length=100)
    schema.add_field("bag", DataType.SPARSE_FLOAT_VECTOR)
    indexes = client.prepare_index_params()
    indexes.add_index("bag", index_type="SPARSE_INVERTED_INDEX", metric_type="IP")
    client.create_collection("bags", schema=schema, index_params=indexes)
    client.insert("bags", [{"pk": i, "text": TEXTS[i], "bag": {i: 1.0, 50: 0.5}} for i in range(4)])
    return TwoStageSearch(client, "bags", reranker=LexicalRerankFunction(), first_stage=Dense("bag"))


@pytest.mark.parametrize("shape", ["dict", "matrix", "rows"])
def test_sparse_query_vectors(bags: TwoStageSearch, shape: str) -> None:
    matrix = scipy.sparse.csr_matrix(([2.0, 1.0], ([0, 0], [3, 50])), shape=(1, 100))
    vectors = {"dict": [{3: 2.0, 50: 1.0}], "matrix": matrix, "rows": [matrix]}[shape]
    found = {hit.id: hit.distance for hit in bags("bread", vectors=vectors)}
    assert found == pytest.approx({0: 0.5, 1: 0.5, 2: 0.5, 3: 2.5})


def test_sparse_query_vectors_of_many_queries(bags: TwoStageSearch) -> None:
    matrix = scipy.sparse.csr_matrix(([2.0, 1.0, 3.0], ([0, 0, 1], [3, 50, 1])), shape=(2, 100))
    first, second = bags(["bread", "vectors"], vectors=matrix)
    assert {hit.id: hit.distance for hit in first}[3] == pytest.approx(2.5)
    assert {hit.id: hit.distance for hit in second} == pytest.approx({1: 3.0})
