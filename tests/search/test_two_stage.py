"""TwoStageSearch on the embedded Milvus."""

import dataclasses
import json
import logging
import threading

import numpy as np
import pytest
import scipy.sparse
from milvus_fixtures import (
    ANGLES,
    MILVUS_INDEX,
    SEARCH_RESULTS,
    TEXTS,
    cosine,
    embed,
    lite_client,
    make_docs,
    make_plain,
    orm_collection,
    vector,
)
from pymilvus import DataType

from milvus_rerank.errors import HitError, InputError, StoppedError
from milvus_rerank.reranker import BaseRerankFunction, LexicalRerankFunction
from milvus_rerank.search import RRF, Dense, FullText, Hybrid, SearchAnswer, Timings, TwoStageSearch, Weighted

pytestmark = pytest.mark.compat

DENSE = Dense("dense")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("lite")


@pytest.fixture(scope="module")
def client(folder):
    with lite_client(folder) as client:
        make_docs(client)
        yield client


def docs(client, **options):
    settings = {"reranker": LexicalRerankFunction(), "embed": embed, "first_stage": DENSE} | options
    return TwoStageSearch(client, "docs", **settings)


def ids(answer):
    return [result.id for result in answer]


class Failing(BaseRerankFunction):
    """Raise what it is given."""

    def __init__(self, error):
        self.error = error

    def score_requests(self, requests, stop):
        raise self.error


class Counting(LexicalRerankFunction):
    """Count passes and what was in them."""

    def __init__(self):
        self.passes = []

    def score_requests(self, requests, stop: threading.Event):
        self.passes.append([(query, len(texts)) for query, texts in requests])
        return super().score_requests(requests, stop)


class CountingClient:
    """A client that passes everything on, and notes each call."""

    def __init__(self, client):
        self.client = client
        self.calls = []

    def search(self, *args, **kwargs):
        self.calls.append(("search", args))
        return self.client.search(*args, **kwargs)

    def hybrid_search(self, *args, **kwargs):
        self.calls.append(("hybrid_search", args))
        return self.client.hybrid_search(*args, **kwargs)


def test_reranking_brings_up_what_the_first_stage_put_low(client):
    answer = docs(client)(MILVUS_INDEX, top_k=4, candidates=6)
    assert isinstance(answer, SearchAnswer)
    assert [(result.id, result.score, result.index) for result in answer] == [
        ("d4", 1.0, 4),
        ("d5", 1.0, 5),
        ("d2", 0.5, 2),
        ("d0", 0.0, 0),
    ]
    assert [result.distance for result in answer] == pytest.approx([cosine(4), cosine(5), cosine(2), 1.0], abs=1e-6)
    assert [result.text for result in answer] == [TEXTS[4], TEXTS[5], TEXTS[2], TEXTS[0]]
    assert (answer.query, answer.reranked, answer.error) == (MILVUS_INDEX, True, None)


def test_only_candidates_are_reranked(client):
    reranker = Counting()
    assert ids(docs(client, reranker=reranker)(MILVUS_INDEX, top_k=2, candidates=5)) == ["d4", "d2"]
    assert reranker.passes == [[(MILVUS_INDEX, 5)]]


@pytest.mark.parametrize("everything", [0, None])
def test_top_k_zero_or_none_returns_all_candidates(client, everything):
    answer = docs(client)(MILVUS_INDEX, top_k=everything, candidates=6)
    assert ids(answer) == ["d4", "d5", "d2", "d0", "d1", "d3"]


def test_threshold_is_on_the_rerank_score(client):
    assert ids(docs(client)(MILVUS_INDEX, threshold=0.5)) == ["d4", "d5", "d2"]


def test_many_queries_take_one_search_and_one_rerank_pass(client):
    reranker, counted = Counting(), CountingClient(client)
    search = TwoStageSearch(counted, "docs", reranker=reranker, embed=embed, first_stage=DENSE)
    first, second = search([MILVUS_INDEX, SEARCH_RESULTS], top_k=2, candidates=6)
    assert ids(first) == ["d4", "d5"]
    assert ids(second) == ["d8", "d7"]
    assert second[1].distance == pytest.approx(cosine(7, SEARCH_RESULTS), abs=1e-6)
    assert [name for name, _ in counted.calls] == ["search"]
    assert reranker.passes == [[(MILVUS_INDEX, 6), (SEARCH_RESULTS, 6)]]


def test_a_list_of_one_query_gives_a_list_of_one_answer(client):
    answers = docs(client)([MILVUS_INDEX], top_k=1)
    assert [ids(answer) for answer in answers] == [["d4"]]


def test_no_queries_give_no_answers_without_a_call(client):
    counted = CountingClient(client)
    assert TwoStageSearch(counted, "docs", reranker=LexicalRerankFunction(), embed=embed)([]) == []
    assert counted.calls == []


def test_no_hits_give_an_empty_answer(client):
    answer = docs(client)(MILVUS_INDEX, filter="year > 3000")
    assert (len(answer), list(answer), answer.reranked, bool(answer)) == (0, [], True, False)


def test_a_filter_limits_the_candidates(client):
    assert ids(docs(client)(MILVUS_INDEX, filter="year > 2019", top_k=2)) == ["d5", "d6"]


def test_partitions_limit_the_candidates(client):
    assert ids(docs(client)(SEARCH_RESULTS, partitions=["late"], top_k=None)) == ["d8", "d7", "d6"]


def test_the_text_field_is_all_that_comes_back_unasked(client):
    assert docs(client)(MILVUS_INDEX, top_k=1)[0].entity == {"text": TEXTS[4]}


def test_output_fields_come_with_the_text(client):
    [best] = docs(client)(MILVUS_INDEX, top_k=1, output_fields=["year", "tag", "meta", "labels", "note", "id"])
    assert best.entity == {
        "text": TEXTS[4],
        "year": 2019,
        "tag": "t4",
        "meta": {"odd": False},
        "labels": ["l4"],
        "note": "note 4",
        "id": 1004,
    }
    assert best.id == "d4"  # the key is `pk`; the field `id` is only a field


def test_all_output_fields(client):
    [best] = docs(client)(MILVUS_INDEX, top_k=1, output_fields=["*"])
    assert best.entity["dense"] == pytest.approx(vector(40), abs=1e-6)
    assert (best.entity["pk"], best.entity["tag"], best.entity["text"]) == ("d4", "t4", TEXTS[4])


def test_another_text_field(client):
    [best] = docs(client, text_field="tag")("t3", vectors=[vector(0)], top_k=1)
    assert (best.id, best.text, best.score, best.entity) == ("d3", "t3", 1.0, {"tag": "t3"})


def test_the_only_vector_field_needs_no_name(client):
    rows = [{"id": i, "vector": vector(10 * i), "text": TEXTS[i]} for i in range(6)]
    make_plain(client, "plain", rows)
    search = TwoStageSearch(client, "plain", reranker=LexicalRerankFunction(), embed=embed)
    assert ids(search(MILVUS_INDEX, top_k=3)) == [4, 5, 2]


def test_full_text_search_sends_the_text(client):
    answer = docs(client, embed=None, first_stage=FullText("sparse"))(SEARCH_RESULTS)
    assert sorted(ids(answer)) == ["d4", "d7", "d8"]  # the others hold neither word
    assert [result.score for result in answer] == [1.0, 1.0, 0.5]
    assert answer[2].id == "d4"


def test_full_text_search_for_many_queries(client):
    answers = docs(client, embed=None, first_stage=FullText())(["paris weather", "oven"], top_k=1)
    assert [ids(answer) for answer in answers] == [["d0"], ["d3"]]


@pytest.fixture(scope="module")
def bm25_order(client):
    hits = client.search("docs", data=[MILVUS_INDEX], anns_field="sparse", limit=3, output_fields=["text"])
    return [hit.id for hit in hits[0]]


def test_hybrid_search_fuses_by_reciprocal_rank(client, bm25_order):
    stage = Hybrid((DENSE, FullText("sparse")), RRF(k=10))
    answer = docs(client, first_stage=stage)(MILVUS_INDEX, top_k=None, candidates=3)
    # each search returns 3: d0, d1, d2 and the three that hold a word; d2 is in both, so it comes first
    fused = {f"d{rank}": 1 / (11 + rank) for rank in range(3)}
    for rank, key in enumerate(bm25_order):
        fused[key] = fused.get(key, 0.0) + 1 / (11 + rank)
    best = sorted(fused.values(), reverse=True)[:3]
    assert sorted((result.distance for result in answer), reverse=True) == pytest.approx(best, abs=1e-6)
    assert {result.id: result.distance for result in answer}["d2"] == pytest.approx(fused["d2"], abs=1e-6)
    assert answer[0].score == 1.0


def test_hybrid_search_takes_weights(client):
    def distances(weights, normalize):
        stage = Hybrid((DENSE, FullText("sparse")), Weighted(weights, normalize))
        return {hit.id: hit.distance for hit in docs(client, first_stage=stage)(MILVUS_INDEX, top_k=None, candidates=9)}

    found = distances((1.0, 0.0), False)
    assert found["d3"] == pytest.approx(cosine(3), abs=1e-6)
    assert found["d8"] == pytest.approx(cosine(8), abs=1e-6)
    assert distances((0.5, 0.0), False)["d3"] == pytest.approx(cosine(3) / 2, abs=1e-6)
    assert distances((1.0, 0.0), True)["d3"] == pytest.approx((1 + cosine(3)) / 2, abs=1e-6)


def test_hybrid_search_for_many_queries_with_filter_and_partition(client):
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


def test_searches_with_one_embedder_share_its_vectors(client):
    calls = []

    def counted(queries):
        calls.append(queries)
        return embed(queries)

    stage = Hybrid((DENSE, Dense("dense", params={"params": {}}), FullText("sparse")))
    docs(client, first_stage=stage, embed=counted)(MILVUS_INDEX)
    assert calls == [[MILVUS_INDEX]]


def test_a_search_may_have_its_own_embedder(client):
    def backwards(queries):
        return [vector(80 - ANGLES[query]) for query in queries]

    stage = Hybrid((DENSE, Dense("dense", embed=backwards)), Weighted((0.0, 1.0), normalize=False))
    for vectors in (None, [vector(0)]):  # ready vectors are for the searches that have no embedder
        answer = docs(client, first_stage=stage)(MILVUS_INDEX, top_k=None, candidates=9, vectors=vectors)
        assert {hit.id: hit.distance for hit in answer}["d6"] == pytest.approx(cosine(6, SEARCH_RESULTS), abs=1e-6)


def test_search_parameters_reach_milvus(client):
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
def test_ready_vectors_need_no_embedder(client, vectors):
    answer = docs(client, embed=None)("milvus", vectors=vectors, top_k=1, candidates=3)
    assert ids(answer) == ["d2"]
    assert answer[0].distance == pytest.approx(cosine(2), abs=1e-6)


def test_ready_vectors_go_before_the_embedder(client):
    [best] = docs(client)(MILVUS_INDEX, vectors=[vector(80)], top_k=1, candidates=1)
    assert best.id == "d8"


@pytest.fixture(scope="module")
def bags(client):
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
def test_sparse_query_vectors(bags, shape):
    matrix = scipy.sparse.csr_matrix(([2.0, 1.0], ([0, 0], [3, 50])), shape=(1, 100))
    vectors = {"dict": [{3: 2.0, 50: 1.0}], "matrix": matrix, "rows": [matrix]}[shape]
    found = {hit.id: hit.distance for hit in bags("bread", vectors=vectors)}
    assert found == pytest.approx({0: 0.5, 1: 0.5, 2: 0.5, 3: 2.5})


def test_sparse_query_vectors_of_many_queries(bags):
    matrix = scipy.sparse.csr_matrix(([2.0, 1.0, 3.0], ([0, 0, 1], [3, 50, 1])), shape=(2, 100))
    first, second = bags(["bread", "vectors"], vectors=matrix)
    assert {hit.id: hit.distance for hit in first}[3] == pytest.approx(2.5)
    assert {hit.id: hit.distance for hit in second} == pytest.approx({1: 3.0})


def test_a_hit_without_text_is_an_error_that_names_it(client):
    with pytest.raises(HitError, match=r"hit 1 \(id 'd1'\): field 'note' is null; the hit has the fields \['note'\]"):
        docs(client, text_field="note")("note", vectors=[vector(0)])


def test_a_hit_without_text_is_skipped_or_put_last(client):
    def found(missing):
        answer = docs(client, text_field="note", missing=missing)("4", vectors=[vector(0)], top_k=5, candidates=5)
        return [(hit.id, hit.score) for hit in answer]

    assert found("skip") == [("d4", 1.0), ("d0", 0.0), ("d2", 0.0)]
    assert found("last") == [("d4", 1.0), ("d0", 0.0), ("d2", 0.0), ("d1", None), ("d3", None)]


def test_the_rerankers_error_is_raised_unless_asked_otherwise(client):
    error = KeyError("plugin")
    with pytest.raises(KeyError) as caught:
        docs(client, reranker=Failing(error))(MILVUS_INDEX)
    assert caught.value is error


def test_the_first_stage_order_is_returned_on_request_and_marked(client, caplog):
    error = ConnectionError("the service is away")
    with caplog.at_level(logging.WARNING, logger="milvus_rerank"):
        answer = docs(client, reranker=Failing(error), on_rerank_error="first_stage")(MILVUS_INDEX, top_k=3)
    assert [(hit.id, hit.score, hit.index) for hit in answer] == [("d0", None, 0), ("d1", None, 1), ("d2", None, 2)]
    assert answer[1].distance == pytest.approx(cosine(1), abs=1e-6)
    assert answer.reranked is False
    assert answer.error is error
    assert [record.getMessage() for record in caplog.records if record.name.startswith("milvus_rerank")] == [
        "the reranker failed (ConnectionError: the service is away); returning the first stage's order"
    ]


def test_the_first_stage_order_follows_missing(client):
    def found(missing):
        search = docs(
            client, text_field="note", missing=missing, reranker=Failing(OSError("x")), on_rerank_error="first_stage"
        )
        return ids(search("4", vectors=[vector(0)], top_k=5, candidates=5))

    assert found("skip") == ["d0", "d2", "d4"]
    assert found("last") == ["d0", "d1", "d2", "d3", "d4"]


def test_wrong_scores_are_a_failure_of_the_reranker(client):
    class Short(BaseRerankFunction):
        def score_requests(self, requests, stop):
            return [[1.0] for _ in requests]

    answer = docs(client, reranker=Short(), on_rerank_error="first_stage")(MILVUS_INDEX, top_k=1)
    assert ids(answer) == ["d0"]
    assert str(answer.error) == "the reranker returned 1 scores for 9 documents"


@pytest.mark.parametrize("kind", [StoppedError, KeyboardInterrupt])
def test_stopping_is_no_failure_of_the_reranker(client, kind):
    with pytest.raises(kind):
        docs(client, reranker=Failing(kind("stop")), on_rerank_error="first_stage")(MILVUS_INDEX)


def test_a_wrong_text_field_is_no_failure_of_the_reranker(client, caplog):
    with pytest.raises(HitError, match=r"'body' is missing"):
        docs(client, text_field="body", on_rerank_error="first_stage")(MILVUS_INDEX)
    assert caplog.messages == []


def test_timings_are_those_of_the_stages(client):
    times = iter([100.0, 101.0, 103.0, 107.0])
    answer = docs(client, clock=lambda: next(times))(MILVUS_INDEX)
    assert answer.timings == Timings(embed=1.0, search=2.0, rerank=4.0)
    assert answer.timings.total == 7.0


def test_an_answer_is_a_sequence_and_json(client):
    answer = docs(client)(MILVUS_INDEX, top_k=2, candidates=6)
    assert (len(answer), answer[0].id, answer[-1].id, ids(answer[:1]), answer[1] in answer) == (
        2,
        "d4",
        "d5",
        ["d4"],
        True,
    )
    values = json.loads(json.dumps(answer.to_dict()))
    assert (values["query"], values["reranked"], values["error"]) == (MILVUS_INDEX, True, None)
    assert values["results"][0] == {
        "text": TEXTS[4],
        "score": 1.0,
        "index": 4,
        "id": "d4",
        "distance": pytest.approx(cosine(4), abs=1e-6),
        "entity": {"text": TEXTS[4]},
    }
    assert set(values["timings"]) == {"embed", "search", "rerank"}
    assert all(seconds >= 0 for seconds in values["timings"].values())
    with pytest.raises(dataclasses.FrozenInstanceError):
        answer.query = "other"


def test_a_failed_rerank_is_json_too(client):
    answer = docs(client, reranker=Failing(OSError("away")), on_rerank_error="first_stage")(MILVUS_INDEX, top_k=1)
    assert (answer.to_dict()["reranked"], answer.to_dict()["error"]) == (False, "OSError: away")


def test_a_search_shows_what_it_searches(client):
    assert repr(docs(client, first_stage=FullText())) == (
        "TwoStageSearch('docs', reranker=LexicalRerankFunction(), "
        "first_stage=FullText(field='sparse', params={}), text_field='text')"
    )


@pytest.mark.filterwarnings("ignore::pymilvus.decorators.PyMilvusDeprecationWarning")
def test_an_orm_collection_needs_no_name(client, folder):
    with orm_collection(str(folder / "lite.db"), "docs") as collection:
        options = {"reranker": LexicalRerankFunction(), "embed": embed}
        dense = TwoStageSearch(collection, first_stage=DENSE, **options)
        hybrid = TwoStageSearch(collection, "docs", first_stage=Hybrid((DENSE, FullText())), **options)
        answer = dense(MILVUS_INDEX, filter="year > 2016", partitions=["_default"], top_k=3, output_fields=["year"])
        fused = hybrid([SEARCH_RESULTS, MILVUS_INDEX], filter="year > 2021", top_k=None)
    assert [(hit.id, hit.score, hit.entity["year"]) for hit in answer] == [
        ("d4", 1.0, 2019),
        ("d5", 1.0, 2020),
        ("d2", 0.5, 2017),
    ]
    assert [sorted(ids(one)) for one in fused] == [["d7", "d8"], ["d7", "d8"]]


def test_inputs_are_checked_before_anything_is_sent(client):
    counted = CountingClient(client)
    search = TwoStageSearch(counted, "docs", reranker=LexicalRerankFunction(), embed=embed)
    with pytest.raises(InputError, match="query must be a string, got NoneType"):
        search(None)
    assert counted.calls == []
