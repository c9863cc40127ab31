"""Steps after the reranker of a two-stage search, on the embedded Milvus."""

import asyncio
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from milvus_fixtures import MILVUS_INDEX, SEARCH_RESULTS
from pymilvus import MilvusClient
from two_stage_docs import CountingClient, Failing, docs, ids

from milvus_rerank import FallbackRerankFunction, LexicalRerankFunction, Pipeline, diversify, fuse
from milvus_rerank.errors import InputError, ServiceError
from milvus_rerank.steps import Boost, Decay, Diversify, Fuse, GroupBy, LostInTheMiddle, Threshold

NEWEST = Decay("year", "linear", origin=2023, scale=8)


def test_steps_run_over_all_candidates_before_top_k(client: MilvusClient) -> None:
    plain = docs(client)(MILVUS_INDEX, top_k=9, candidates=9)
    search = docs(client, steps=[NEWEST, Threshold(0.2)])
    answer = search(MILVUS_INDEX, top_k=2, candidates=9)
    factors = {result.id: 1 - 0.5 * (2023 - 2015 - int(str(result.id)[1:])) / 8 for result in plain}
    expected = sorted(((result.score * factors[result.id], result.id) for result in plain), reverse=True)[:2]
    assert [(pytest.approx(result.score), result.id) for result in answer] == expected
    assert [result.extra for result in answer] == [
        {"rerank_score": result.score} for wanted in answer for result in plain if result.id == wanted.id
    ]
    assert [list(answer) for answer in asyncio.run(search.asearch([MILVUS_INDEX] * 2, top_k=2, candidates=9))] == [
        list(answer)
    ] * 2


def test_the_search_asks_milvus_for_the_fields_of_the_steps(client: MilvusClient) -> None:
    search = docs(client, steps=[{"type": "boost", "filter": "tag == 't5' and year > 2000", "weight": 3}])
    answer = search(MILVUS_INDEX, top_k=2)
    assert ids(answer) == ["d5", "d4"]
    assert set(answer[0].entity) == {"text", "tag", "year"}
    assert set(docs(client, steps=[Diversify("dense")])(MILVUS_INDEX, top_k=1)[0].entity) == {"text", "dense"}


def test_steps_are_the_functions_of_the_same_name(client: MilvusClient) -> None:
    plain = docs(client)(SEARCH_RESULTS, top_k=9, candidates=9, output_fields=["dense"])
    fused = docs(client, steps=[Fuse("COSINE")])(SEARCH_RESULTS, top_k=9, candidates=9, output_fields=["dense"])
    assert list(fused) == fuse(plain, metric="COSINE")
    varied = docs(client, steps=[Diversify("dense", 0.2)])(SEARCH_RESULTS, top_k=4, candidates=9)
    assert ids(varied) == ids(diversify(plain, "dense", 4, 0.2))


def test_groups_and_the_order_from_both_ends_come_after_the_cut(client: MilvusClient) -> None:
    answer = docs(client, steps=[LostInTheMiddle()])(MILVUS_INDEX, top_k=3)
    best = ids(docs(client)(MILVUS_INDEX, top_k=3))
    assert ids(answer) == [best[0], best[2], best[1]]
    one = docs(client, steps=[GroupBy("pk")])(MILVUS_INDEX, top_k=9)
    assert ids(one) == ids(docs(client)(MILVUS_INDEX, top_k=9))


def test_the_threshold_of_a_call_is_for_the_rerankers_score(client: MilvusClient) -> None:
    search = docs(client, steps=[Boost("year > 0", 0.1)])
    answer = search(MILVUS_INDEX, top_k=9, threshold=0.5)
    assert ids(answer) == ids(docs(client)(MILVUS_INDEX, top_k=9, threshold=0.5)) != []
    assert all(result.score < 0.5 for result in answer)


def test_the_order_of_the_first_stage_after_a_failure_has_no_steps(client: MilvusClient) -> None:
    failing = Failing(ServiceError("away"))
    search = docs(client, steps=[NEWEST, LostInTheMiddle()], reranker=failing, on_rerank_error="first_stage")
    answer = search(MILVUS_INDEX, top_k=3)
    assert (ids(answer), answer.reranked) == (["d0", "d1", "d2"], False)


def test_an_error_of_a_step_is_no_failure_of_the_reranker(client: MilvusClient) -> None:
    search = docs(client, steps=[Decay("labels", "exp", 0, 1)], on_rerank_error="first_stage")
    with pytest.raises(InputError, match=r"step 1 of 1 \(decay\): field 'labels' of results\[0\] .* must be a number"):
        search(MILVUS_INDEX)
    with pytest.raises(InputError, match=r"step 1 of 1 \(decay\): there is no key 'x'"):
        docs(client, steps=[{"type": "decay", "x": 1}])


def test_the_answer_of_a_search_says_which_reranker_ranked(client: MilvusClient) -> None:
    chain = FallbackRerankFunction([(Failing(ServiceError("away")), 5.0), LexicalRerankFunction()])
    answer = docs(client, reranker=chain, steps=Pipeline([NEWEST]))(MILVUS_INDEX, top_k=2)
    assert answer.reranked
    for result in answer:
        assert result.extra is not None
        assert result.extra["ranked_by"] == "LexicalRerankFunction()"
        assert "ServiceError: away" in result.extra["rerank_failures"][0]
        assert result.extra["rerank_score"] >= result.score
    assert answer.to_hits()[0]["ranked_by"] == "LexicalRerankFunction()"


def test_threads_share_a_search_with_steps(client: MilvusClient) -> None:
    search = docs(client, steps=[NEWEST, GroupBy("tag"), LostInTheMiddle()])
    expected = {query: list(search(query, top_k=4)) for query in (MILVUS_INDEX, SEARCH_RESULTS)}

    def work(number: int) -> Any:
        query = (MILVUS_INDEX, SEARCH_RESULTS)[number % 2]
        return list(search(query, top_k=4)) == expected[query]

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(work, range(40)))


def test_a_search_without_steps_asks_for_nothing_more(client: MilvusClient) -> None:
    counting = CountingClient(client)
    answer = docs(counting)(MILVUS_INDEX, top_k=2)
    assert set(answer[0].entity) == {"text"}
    assert len(counting.calls) == 1
