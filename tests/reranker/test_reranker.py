"""What every reranker does with queries, documents and options, on the lexical reranker and on scorers made here."""

import asyncio
import json
import math
import threading
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from milvus_rerank import BaseRerankFunction, LexicalRerankFunction, RerankResult
from milvus_rerank.errors import InputError, ScoreError, StoppedError
from milvus_rerank.reranker.custom import wrap

RERANKER = LexicalRerankFunction()
DOCUMENTS = ["nothing here", "logic machine", "the logic theorist machine", "theorist"]
QUERY = "logic theorist machine"


class Fixed:
    """Give the scores it was made with."""

    def __init__(self, scores: Any) -> None:
        self.scores = scores

    def score(self, query: str, texts: Sequence[str]) -> Any:
        return self.scores


def test_a_call_returns_the_best_documents_first() -> None:
    assert RERANKER(QUERY, DOCUMENTS, top_k=2) == [
        RerankResult("the logic theorist machine", 1.0, 2),
        RerankResult("logic machine", 2 / 3, 1),
    ]


def test_top_k_is_five_unless_said_otherwise() -> None:
    assert len(RERANKER(QUERY, ["x"] * 9)) == 5


@pytest.mark.parametrize("everything", [0, None, np.int64(0)])
def test_top_k_of_zero_or_none_returns_all(everything: Any) -> None:
    assert [result.index for result in RERANKER(QUERY, DOCUMENTS, top_k=everything)] == [2, 1, 3, 0]


def test_top_k_may_be_a_numpy_integer_or_larger_than_the_input() -> None:
    assert len(RERANKER(QUERY, DOCUMENTS, top_k=np.int32(3))) == 3
    assert len(RERANKER(QUERY, DOCUMENTS, top_k=99)) == 4


def test_threshold_drops_lower_scores() -> None:
    assert [result.index for result in RERANKER(QUERY, DOCUMENTS, threshold=0.5)] == [2, 1]


def test_numpy_strings_and_numbers_are_taken_and_become_pythons() -> None:
    texts: Any = np.array(["logic", "x"])
    found = RERANKER("logic", texts, threshold=np.float32(0.5))
    assert found == [RerankResult("logic", 1.0, 0)]
    assert type(found[0].text) is str


def test_score_keeps_input_order_and_gives_python_floats() -> None:
    scores = RERANKER.score(QUERY, DOCUMENTS)
    assert scores == [0.0, 2 / 3, 1.0, 1 / 3]
    assert all(type(score) is float for score in scores)


def test_numpy_scores_become_json() -> None:
    made = wrap(Fixed(np.array([0.25, 0.5], dtype=np.float32)), "fixed")("q", ["a", "b"])
    assert json.loads(json.dumps([result.to_dict() for result in made]))[0]["score"] == 0.5


def test_score_pairs_may_mix_and_repeat_queries() -> None:
    pairs = [("a b", "a"), ("c", "c"), ("a b", "a b"), ("c", "x")]
    assert RERANKER.score_pairs(pairs) == [0.5, 1.0, 1.0, 0.0]
    assert RERANKER.score_pairs(iter(pairs)) == [0.5, 1.0, 1.0, 0.0]


def test_many_queries_are_scored_in_one_pass() -> None:
    class Counting(LexicalRerankFunction):
        passes = 0

        def score_requests(self, requests: Any, stop: threading.Event) -> list[list[float]]:
            self.passes += 1
            return super().score_requests(requests, stop)

    counting = Counting()
    found = counting.rerank_many(["a", "b"], [["x", "a"], ["b", "y", "b"]], top_k=2)
    assert [[result.index for result in some] for some in found] == [[1, 0], [0, 2]]
    assert counting.passes == 1


def test_nothing_in_gives_nothing_out() -> None:
    assert RERANKER(QUERY, []) == []
    assert RERANKER.score(QUERY, []) == []
    assert RERANKER.score_pairs([]) == []
    assert RERANKER.rerank_many([], []) == []
    assert RERANKER.rerank_many(["a", "b"], [[], ["b"]]) == [[], [RerankResult("b", 1.0, 0)]]
    assert RERANKER.rerank_hits(QUERY, []) == []
    assert RERANKER.rerank_search_result([], []) == []


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((None, ["a"]), "query must be a string, got NoneType: None"),
        ((b"q", ["a"]), "query must be a string, got bytes"),
        (("q", "one string"), r"documents must be a list of strings, got a single string; write \['one string'\]"),
        (("q", None), "documents must be a list of strings, got NoneType"),
        (("q", {"a": 1}), "documents must be a list of strings, got dict"),
        (("q", ["a", "b", 3]), r"documents\[2\] must be a string, got int: 3"),
        (("q", ["a", None]), r"documents\[1\] must be a string, got NoneType"),
        (("q", ["a"], -1), "top_k must not be negative, got -1; 0 or None returns all"),
        (("q", ["a"], 1.5), "top_k must be an integer, 0 or None for all results, got float: 1.5"),
        (("q", ["a"], "3"), "top_k must be an integer"),
        (("q", ["a"], True), "top_k must be an integer"),
        (("q", ["a"], 1, math.nan), "threshold must be a number or None, got float: nan"),
        (("q", ["a"], 1, "0.5"), "threshold must be a number or None, got str"),
        (("q", ["a"], 1, 10**400), "threshold must be a number or None, got int"),
        (("q", ["ok", "a\ud83d"]), r"documents\[1\] holds half of a surrogate pair at position 1"),
        (("\udc00", ["a"]), "query holds half of a surrogate pair at position 0"),
    ],
)
def test_bad_input_says_what_was_given_and_what_was_expected(arguments: tuple[Any, ...], words: str) -> None:
    with pytest.raises(InputError, match=words):
        RERANKER(*arguments)
    with pytest.raises(InputError, match=words):
        asyncio.run(RERANKER.arerank(*arguments))


def test_bad_pairs_and_lists_are_named() -> None:
    with pytest.raises(InputError, match=r"pairs\[1\] must be a \(query, document\) pair of strings, got \('a',\)"):
        RERANKER.score_pairs([("a", "b"), ("a",)])  # type: ignore[list-item]
    with pytest.raises(InputError, match="got 2 queries, but documents for 1"):
        RERANKER.rerank_many(["a", "b"], [["x"]])
    with pytest.raises(InputError, match=r"documents\[1\]\[0\] must be a string, got int"):
        RERANKER.rerank_many(["a", "b"], [["x"], [3]])  # type: ignore[list-item]


class NanFor(BaseRerankFunction):
    """Score the length of a text, but NaN for one text."""

    def __init__(self, bad: str) -> None:
        self.bad = bad

    def score_requests(self, requests: Any, stop: threading.Event) -> list[list[float]]:
        return [[math.nan if text == self.bad else float(len(text)) for text in texts] for _, texts in requests]


def test_a_nan_score_names_its_document_as_the_caller_knows_it() -> None:
    reranker = NanFor("bad")
    with pytest.raises(ScoreError, match="score of document 1 is nan"):
        reranker("q", ["a", "bad"])
    with pytest.raises(ScoreError, match="score of document 1 of query 2 is nan"):
        reranker.rerank_many(["p", "q", "r"], [[], ["a"], ["b", "bad"]])
    with pytest.raises(ScoreError, match=r"score of pairs\[2\] is nan"):
        reranker.score_pairs([("a", "ok"), ("a", "ok"), ("b", "bad")])
    rows = [{"id": 7, "text": None}, {"id": 8, "text": "bad"}]
    with pytest.raises(ScoreError, match=r"score of hit 1 \(id 8\) is nan"):
        reranker.rerank_hits("q", rows, missing="skip")
    with pytest.raises(ScoreError, match=r"score of hit 1 \(id 8\) of query 0 is nan"):
        reranker.rerank_search_result(["q"], [rows], missing="skip")


@pytest.mark.parametrize("count", [0, 1, 3])
def test_a_reranker_that_forgets_a_query_is_an_error_and_hangs_nobody(count: int) -> None:
    class Forgetful(BaseRerankFunction):
        def score_requests(self, requests: Any, stop: threading.Event) -> list[list[float]]:
            return [[1.0]] * count

    words = f"returned scores for {count} queries, expected 2"
    with pytest.raises(ScoreError, match=words):
        Forgetful().rerank_many(["a", "b"], [["x"], ["y"]])
    with pytest.raises(ScoreError, match=words):
        asyncio.run(asyncio.wait_for(Forgetful().arerank_many(["a", "b"], [["x"], ["y"]]), 5))


@pytest.mark.parametrize("made", [None, 5, ["a", "b"], [None, 1.0], [[1.0], [2.0]]])
def test_what_a_plugin_returns_instead_of_numbers_is_named(made: Any) -> None:
    with pytest.raises(ScoreError, match="reranker 'fixed' must return one number per document, got"):
        wrap(Fixed(made), "fixed")("q", ["a", "b"])


@pytest.mark.parametrize("scores", [[], [1.0], [1.0, 2.0, 3.0]])
def test_a_wrong_number_of_scores_is_an_error(scores: list[float]) -> None:
    with pytest.raises(ScoreError, match=f"returned {len(scores)} scores for 2 documents"):
        wrap(Fixed(scores), "fixed")("q", ["a", "b"])


def test_async_calls_give_what_the_plain_ones_give() -> None:
    async def all_of_them() -> list[Any]:
        return [
            await RERANKER.arerank(QUERY, DOCUMENTS, 2),
            await RERANKER.ascore(QUERY, DOCUMENTS),
            await RERANKER.ascore_pairs([(QUERY, DOCUMENTS[1])]),
            await RERANKER.arerank_many([QUERY], [DOCUMENTS]),
            await RERANKER.arerank_hits(QUERY, [{"id": 1, "text": "logic"}]),
        ]

    assert asyncio.run(all_of_them()) == [
        RERANKER(QUERY, DOCUMENTS, 2),
        RERANKER.score(QUERY, DOCUMENTS),
        RERANKER.score_pairs([(QUERY, DOCUMENTS[1])]),
        RERANKER.rerank_many([QUERY], [DOCUMENTS]),
        RERANKER.rerank_hits(QUERY, [{"id": 1, "text": "logic"}]),
    ]


class Slow(BaseRerankFunction):
    """Count batches until stopped."""

    def __init__(self) -> None:
        self.batches = 0
        self.ended = threading.Event()

    def score_requests(self, requests: Any, stop: threading.Event) -> list[list[float]]:
        try:
            for _ in range(2000):
                if stop.wait(0.005):
                    raise StoppedError("stopped")
                self.batches += 1
        finally:
            self.ended.set()
        return [[0.0] * len(documents) for _, documents in requests]


def test_a_cancelled_call_stops_working_and_the_loop_never_waits() -> None:
    async def cancel_after_a_while(slow: Slow) -> int:
        task = asyncio.create_task(slow.arerank("q", ["a"]))
        ticks = 0
        while slow.batches < 5:
            await asyncio.sleep(0.001)
            ticks += 1
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        return ticks

    slow = Slow()
    assert asyncio.run(cancel_after_a_while(slow)) >= 5
    assert slow.ended.wait(5)
    assert slow.batches < 1000
