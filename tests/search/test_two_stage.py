"""TwoStageSearch on the embedded Milvus: candidates, answers, filters and fields."""

import asyncio
import dataclasses
import json
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from milvus_fixtures import (
    MILVUS_INDEX,
    SEARCH_RESULTS,
    TEXTS,
    cosine,
    document,
    embed,
    make_plain,
    orm_collection,
    vector,
)
from present import present
from pymilvus import MilvusClient
from two_stage_docs import DENSE, CountingClient, Failing, docs, ids

from milvus_rerank.errors import InputError
from milvus_rerank.reranker import LexicalRerankFunction
from milvus_rerank.scoring import Request
from milvus_rerank.search import FullText, Hybrid, SearchAnswer, Timings, TwoStageSearch

pytestmark = pytest.mark.compat


class Counting(LexicalRerankFunction):
    """Count passes and what was in them."""

    def __init__(self) -> None:
        self.passes: list[Any] = []

    def score_requests(self, requests: Sequence[Request], stop: threading.Event) -> list[list[float]]:
        self.passes.append([(query, len(texts)) for query, texts in requests])
        return super().score_requests(requests, stop)


class Instructed(LexicalRerankFunction):
    """Note the instructions of calls."""

    takes_instruction = True

    def __init__(self) -> None:
        self.instructions: list[str] = []

    def _instructed(self, instruction: str) -> "Instructed":
        self.instructions.append(instruction)
        return self


def test_reranking_brings_up_what_the_first_stage_put_low(client: MilvusClient) -> None:
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


def test_only_candidates_are_reranked(client: MilvusClient) -> None:
    reranker = Counting()
    assert ids(docs(client, reranker=reranker)(MILVUS_INDEX, top_k=2, candidates=5)) == ["d4", "d2"]
    assert reranker.passes == [[(MILVUS_INDEX, 5)]]


@pytest.mark.parametrize("everything", [0, None])
def test_top_k_zero_or_none_returns_all_candidates(client: MilvusClient, everything: int | None) -> None:
    answer = docs(client)(MILVUS_INDEX, top_k=everything, candidates=6)
    assert ids(answer) == ["d4", "d5", "d2", "d0", "d1", "d3"]


def test_threshold_is_on_the_rerank_score(client: MilvusClient) -> None:
    assert ids(docs(client)(MILVUS_INDEX, threshold=0.5)) == ["d4", "d5", "d2"]


def test_many_queries_take_one_search_and_one_rerank_pass(client: MilvusClient) -> None:
    reranker, counted = Counting(), CountingClient(client)
    search = TwoStageSearch(counted, "docs", reranker=reranker, embed=embed, first_stage=DENSE)
    first, second = search([MILVUS_INDEX, SEARCH_RESULTS], top_k=2, candidates=6)
    assert ids(first) == ["d4", "d5"]
    assert ids(second) == ["d8", "d7"]
    assert second[1].distance == pytest.approx(cosine(7, SEARCH_RESULTS), abs=1e-6)
    assert [name for name, _ in counted.calls] == ["search"]
    assert reranker.passes == [[(MILVUS_INDEX, 6), (SEARCH_RESULTS, 6)]]


def test_a_list_of_one_query_gives_a_list_of_one_answer(client: MilvusClient) -> None:
    answers = docs(client)([MILVUS_INDEX], top_k=1)
    assert [ids(answer) for answer in answers] == [["d4"]]


def test_no_queries_give_no_answers_without_a_call(client: MilvusClient) -> None:
    counted = CountingClient(client)
    assert TwoStageSearch(counted, "docs", reranker=LexicalRerankFunction(), embed=embed)([]) == []
    assert counted.calls == []


def test_no_hits_give_an_empty_answer(client: MilvusClient) -> None:
    answer = docs(client)(MILVUS_INDEX, filter="year > 3000")
    assert (len(answer), list(answer), answer.reranked, bool(answer)) == (0, [], True, False)


def test_a_filter_limits_the_candidates(client: MilvusClient) -> None:
    assert ids(docs(client)(MILVUS_INDEX, filter="year > 2019", top_k=2)) == ["d5", "d6"]


def test_partitions_limit_the_candidates(client: MilvusClient) -> None:
    assert ids(docs(client)(SEARCH_RESULTS, partitions=["late"], top_k=None)) == ["d8", "d7", "d6"]


def test_the_text_field_is_all_that_comes_back_unasked(client: MilvusClient) -> None:
    assert docs(client)(MILVUS_INDEX, top_k=1)[0].entity == {"text": TEXTS[4]}


def test_output_fields_come_with_the_text(client: MilvusClient) -> None:
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


def test_all_output_fields(client: MilvusClient) -> None:
    [best] = docs(client)(MILVUS_INDEX, top_k=1, output_fields=["*"])
    entity = present(best.entity)
    assert entity["dense"] == pytest.approx(vector(40), abs=1e-6)
    assert (entity["pk"], entity["tag"], entity["text"]) == ("d4", "t4", TEXTS[4])


def test_another_text_field(client: MilvusClient) -> None:
    [best] = docs(client, text_field="tag")("t3", vectors=[vector(0)], top_k=1)
    assert (best.id, best.text, best.score, best.entity) == ("d3", "t3", 1.0, {"tag": "t3"})


def test_the_only_vector_field_needs_no_name(client: MilvusClient) -> None:
    rows = [{"id": i, "vector": vector(10 * i), "text": TEXTS[i]} for i in range(6)]
    make_plain(client, "plain", rows)
    search = TwoStageSearch(client, "plain", reranker=LexicalRerankFunction(), embed=embed)
    assert ids(search(MILVUS_INDEX, top_k=3)) == [4, 5, 2]


def test_timings_are_those_of_the_stages(client: MilvusClient) -> None:
    times = iter([100.0, 101.0, 103.0, 107.0])
    answer = docs(client, clock=lambda: next(times))(MILVUS_INDEX)
    assert answer.timings == Timings(embed=1.0, search=2.0, rerank=4.0)
    assert answer.timings.total == 7.0


def test_an_answer_is_a_sequence_and_json(client: MilvusClient) -> None:
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
        answer.query = "other"  # type: ignore[misc]


def test_a_failed_rerank_is_json_too(client: MilvusClient) -> None:
    answer = docs(client, reranker=Failing(OSError("away")), on_rerank_error="first_stage")(MILVUS_INDEX, top_k=1)
    assert (answer.to_dict()["reranked"], answer.to_dict()["error"]) == (False, "OSError: away")


def test_a_search_shows_what_it_searches(client: MilvusClient) -> None:
    assert repr(docs(client, first_stage=FullText())) == (
        "TwoStageSearch('docs', reranker=LexicalRerankFunction(), "
        "first_stage=FullText(field='sparse', params={}), text_field='text')"
    )


@pytest.mark.filterwarnings("ignore::pymilvus.decorators.PyMilvusDeprecationWarning")
def test_an_orm_collection_needs_no_name(client: MilvusClient, folder: Path) -> None:
    with orm_collection(str(folder / "lite.db"), "docs") as collection:
        options: dict[str, Any] = {"reranker": LexicalRerankFunction(), "embed": embed}
        dense = TwoStageSearch(collection, first_stage=DENSE, **options)
        hybrid = TwoStageSearch(collection, "docs", first_stage=Hybrid((DENSE, FullText())), **options)
        answer = dense(MILVUS_INDEX, filter="year > 2016", partitions=["_default"], top_k=3, output_fields=["year"])
        fused = hybrid([SEARCH_RESULTS, MILVUS_INDEX], filter="year > 2021", top_k=None)
    assert [(hit.id, hit.score, present(hit.entity)["year"]) for hit in answer] == [
        ("d4", 1.0, 2019),
        ("d5", 1.0, 2020),
        ("d2", 0.5, 2017),
    ]
    assert [sorted(ids(one)) for one in fused] == [["d7", "d8"], ["d7", "d8"]]


def test_inputs_are_checked_before_anything_is_sent(client: MilvusClient) -> None:
    counted = CountingClient(client)
    search = TwoStageSearch(counted, "docs", reranker=LexicalRerankFunction(), embed=embed)
    with pytest.raises(InputError, match="query must be a string, got NoneType"):
        search(None)  # type: ignore[call-overload]
    assert counted.calls == []


def test_several_fields_make_the_text_and_are_asked_for(client: MilvusClient) -> None:
    answer = docs(client, text_field=["pk", "text"])(MILVUS_INDEX, top_k=1)
    assert [(result.id, result.text) for result in answer] == [("d4", f"d4\n{TEXTS[4]}")]
    template = docs(client, text_field="{note}: {text}", missing="skip")(MILVUS_INDEX, top_k=0, candidates=9)
    assert {result.text for result in template} == {
        f"{row['note']}: {row['text']}" for row in map(document, range(len(TEXTS))) if row["note"] is not None
    }
    with pytest.raises(InputError, match=r"text_field '{text' is no template"):
        docs(client, text_field="{text")


def test_an_instruction_reaches_the_reranker(client: MilvusClient) -> None:
    reranker = Instructed()
    docs(client, reranker=reranker)(MILVUS_INDEX, instruction="find code")
    asyncio.run(docs(client, reranker=reranker).asearch(MILVUS_INDEX, instruction="find prose"))
    docs(client, reranker=reranker)(MILVUS_INDEX)
    assert reranker.instructions == ["find code", "find prose"]
    with pytest.raises(InputError, match=r"LexicalRerankFunction.* takes no instruction"):
        docs(client)(MILVUS_INDEX, instruction="find code")
    with pytest.raises(InputError, match="instruction must be a string, got int: 5"):
        docs(client, reranker=reranker)(MILVUS_INDEX, instruction=5)  # type: ignore[call-overload]
