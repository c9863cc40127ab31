"""A chain of rerankers: the next ranks if one fails or is too slow, and the results say so."""

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from fault_server import HANG, Answer, fault_server
from stubborn import Stubborn
from two_stage_docs import Failing

from milvus_rerank import CascadeRerankFunction, FallbackRerankFunction, LexicalRerankFunction, TEIRerankFunction
from milvus_rerank.errors import (
    FallbackError,
    HitError,
    InputError,
    ModelError,
    OutOfMemoryError,
    OverloadedError,
    ScoreError,
    ServiceError,
    ServiceTimeoutError,
    StageError,
    StoppedError,
)
from milvus_rerank.reranker import BaseRerankFunction
from milvus_rerank.scoring import Request

QUERY, TEXTS = "a cat", ["a dog", "a cat", "a cat that sleeps"]
LEXICAL = LexicalRerankFunction()

Call = Callable[[BaseRerankFunction], Any]


def sync(reranker: BaseRerankFunction) -> Any:
    return reranker(QUERY, TEXTS)


def in_a_loop(reranker: BaseRerankFunction) -> Any:
    return asyncio.run(reranker.arerank(QUERY, TEXTS))


both = pytest.mark.parametrize("call", [sync, in_a_loop])


def numbers(results: Any) -> list[tuple[int, float]]:
    return [(result.index, result.score) for result in results]


def out_of_a_cascade() -> BaseRerankFunction:
    return CascadeRerankFunction([("lexical", 2), (Failing(ServiceError("away", 500)), None)])


@both
def test_the_first_reranks_while_it_works(call: Call) -> None:
    results = call(FallbackRerankFunction([LEXICAL, Failing(KeyError("never asked"))]))
    assert numbers(results) == numbers(LEXICAL(QUERY, TEXTS))
    assert [result.extra for result in results] == [{"ranked_by": "LexicalRerankFunction()"}] * 3


@both
@pytest.mark.parametrize(
    "error",
    [
        ServiceError("it answered 500", 500),
        ServiceTimeoutError("it did not answer in time"),
        OutOfMemoryError("no room"),
        OverloadedError("full", 1.0),
        ScoreError("NaN"),
        ConnectionResetError("reset"),
        TimeoutError("late"),
        MemoryError("no room"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_the_next_reranks_after_a_failure_and_the_results_say_why(
    call: Call, error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    chain = FallbackRerankFunction([Failing(error), LEXICAL])
    with caplog.at_level(logging.WARNING, logger="milvus_rerank"):
        results = call(chain)
    assert numbers(results) == numbers(LEXICAL(QUERY, TEXTS))
    failure = f"{chain.rerankers[0]!r}: {type(error).__name__}: {error}"
    assert results[0].extra == {"ranked_by": "LexicalRerankFunction()", "rerank_failures": [failure]}
    assert [record.getMessage() for record in caplog.records if record.name == "milvus_rerank.fallback"] == [
        f"rerankers[0], {chain.rerankers[0]!r}, failed with {type(error).__name__}; trying the next"
    ]


@both
@pytest.mark.parametrize(
    "error",
    [InputError("bad"), HitError("bad"), KeyError("bug"), TypeError("bug"), ModelError("no file"), StoppedError()],
)
def test_mistakes_do_not_fall_through(call: Call, error: Exception) -> None:
    with pytest.raises(type(error)) as raised:
        call(FallbackRerankFunction([Failing(error), LEXICAL]))
    assert raised.value is error


@both
def test_bad_input_is_an_error_before_any_reranker(call: Call) -> None:
    stubborn = Stubborn()
    chain = FallbackRerankFunction([stubborn, LEXICAL])
    with pytest.raises(InputError, match=r"documents\[1\] must be a string"):
        chain(QUERY, ["a", 3])  # type: ignore[list-item]
    assert stubborn.scored == []


@both
def test_a_cascade_that_fails_is_judged_by_the_error_of_its_stage(call: Call) -> None:
    assert numbers(call(FallbackRerankFunction([out_of_a_cascade(), LEXICAL]))) == numbers(LEXICAL(QUERY, TEXTS))
    broken = CascadeRerankFunction([(Failing(KeyError("bug")), None)])
    with pytest.raises(StageError, match="KeyError"):
        call(FallbackRerankFunction([broken, LEXICAL]))


@both
def test_nan_and_a_wrong_number_of_scores_are_failures(call: Call) -> None:
    class Wrong:
        def __init__(self, scores: Sequence[float]) -> None:
            self.scores = scores

        def score(self, query: str, texts: Sequence[str]) -> Sequence[float]:
            return self.scores

    results = call(FallbackRerankFunction([Wrong([1.0]), Wrong([1.0, float("nan"), 2.0]), LEXICAL]))
    first, second = results[0].extra["rerank_failures"]
    assert "ScoreError: the reranker returned 1 scores for 3 documents" in first
    assert "ScoreError: the score of document 1 is nan" in second


@both
def test_other_exceptions_are_failures_if_asked(call: Call) -> None:
    chain = FallbackRerankFunction([Failing(KeyError("of a client")), LEXICAL], exceptions_to_handle=[LookupError])
    assert "KeyError: 'of a client'" in call(chain)[0].extra["rerank_failures"][0]


@both
def test_a_reranker_that_is_too_slow_is_left_and_stopped(call: Call) -> None:
    class Slow(BaseRerankFunction):
        stopped = threading.Event()

        def score_requests(self, requests: Sequence[Request], stop: threading.Event) -> list[list[float]]:
            end = time.monotonic() + 20
            while time.monotonic() < end:
                if stop.is_set():
                    self.stopped.set()
                    raise StoppedError("stopped")
                time.sleep(0.005)
            return [[0.0] * len(texts) for _, texts in requests]

    start = time.monotonic()
    results = call(FallbackRerankFunction([(Slow(), 0.05), LEXICAL]))
    assert time.monotonic() - start < 10
    assert numbers(results) == numbers(LEXICAL(QUERY, TEXTS))
    assert "TimeoutError: it took longer than its timeout of 0.05 s" in results[0].extra["rerank_failures"][0]
    assert Slow.stopped.wait(10)


@pytest.mark.needs("httpx")
@both
def test_a_local_reranker_stands_behind_a_service(call: Call) -> None:
    with fault_server() as server:
        service = TEIRerankFunction(server.address, attempts=1)
        chain = FallbackRerankFunction([(service, 1.0), LEXICAL])
        server.then = lambda received: Answer(
            [{"index": i, "score": float(-i)} for i in range(len(received.body["texts"]))]
        )
        results = call(chain)
        assert numbers(results) == [(0, 0.0), (1, -1.0), (2, -2.0)]
        assert results[0].extra == {"ranked_by": repr(service)}
        server.then = lambda received: Answer({"error": "overloaded"}, 429)
        results = call(chain)
        assert numbers(results) == numbers(LEXICAL(QUERY, TEXTS))
        assert "ServiceError" in results[0].extra["rerank_failures"][0]
        assert "429" in results[0].extra["rerank_failures"][0]
        server.then = lambda received: HANG
        results = call(FallbackRerankFunction([(service, 0.3), LEXICAL]))
        assert "timeout of 0.3 s" in results[0].extra["rerank_failures"][0]
        assert server.left.wait(10), "the connection of the slow service is closed"


@both
def test_if_all_fail_the_error_lists_all_and_a_chain_in_a_chain_goes_on(call: Call) -> None:
    inner = FallbackRerankFunction([Failing(ServiceError("first", 500)), Failing(OutOfMemoryError("second"))])
    with pytest.raises(FallbackError, match=r"none of 2 rerankers could rank: 1. .*first; 2. .*second") as raised:
        call(inner)
    assert isinstance(raised.value.__cause__, OutOfMemoryError)
    assert numbers(call(FallbackRerankFunction([inner, LEXICAL]))) == numbers(LEXICAL(QUERY, TEXTS))


def test_hits_keep_all_they_have_and_scores_alone_work() -> None:
    chain = FallbackRerankFunction([Failing(ServiceError("away")), "lexical"])
    hits = [{"id": i, "distance": 0.5, "entity": {"text": text, "n": i}, "offset": 7} for i, text in enumerate(TEXTS)]
    (first, *_) = chain.rerank_hits(QUERY, hits)
    assert (first.id, first.distance, first.entity["n"]) == (1, 0.5, 1)
    assert first.extra is not None
    assert (first.extra["offset"], first.extra["ranked_by"]) == (7, "LexicalRerankFunction()")
    assert first.to_dict()["extra"]["rerank_failures"] == first.extra["rerank_failures"]
    assert chain.score(QUERY, TEXTS) == LEXICAL.score(QUERY, TEXTS)
    assert asyncio.run(chain.ascore(QUERY, TEXTS)) == LEXICAL.score(QUERY, TEXTS)
    assert chain(QUERY, []) == asyncio.run(chain.arerank(QUERY, [])) == []
    many = chain.rerank_many(["a cat", "a dog"], [TEXTS, TEXTS])
    assert [results[0].index for results in many] == [1, 0]


def test_twenty_calls_at_once_lose_nothing() -> None:
    chain = FallbackRerankFunction([Failing(ServiceError("away")), (LEXICAL, 30.0)])

    async def work() -> Any:
        return await asyncio.gather(*(chain.arerank(QUERY, [*TEXTS, str(number)], None) for number in range(20)))

    for number, results in enumerate(asyncio.run(work())):
        assert numbers(results) == numbers(LEXICAL(QUERY, [*TEXTS, str(number)], None))


def test_a_cancelled_call_stops_and_tries_no_other() -> None:
    stubborn, second = Stubborn(), Stubborn()
    stubborn.hold.set()

    async def work() -> None:
        task = asyncio.create_task(FallbackRerankFunction([(stubborn, 60.0), second]).arerank(QUERY, TEXTS))
        await asyncio.to_thread(stubborn.busy.wait, 10)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        stubborn.hold.clear()

    asyncio.run(work())
    assert second.scored == []


def test_a_chain_of_tables_is_loaded_as_from_a_config_file(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("httpx")
    monkeypatch.setenv("MY_KEY", "sk-1")
    tables: list[Any] = [
        {"name": "tei", "timeout": 2.0, "api_key_env": "MY_KEY", "options": {"api_url": "http://localhost:1"}},
        {"model": "builtin/rerank", "options": {"device": "cpu"}},
    ]
    chain = FallbackRerankFunction(tables)
    assert isinstance(chain.rerankers[0], TEIRerankFunction)
    assert chain.timeouts == (2.0, None)
    assert "sk-1" not in repr(chain)


@pytest.mark.parametrize(
    ("rerankers", "options", "problem"),
    [
        ("lexical", {}, "rerankers must be a list of rerankers, got a single string"),
        (["lexical"], {}, "rerankers must hold at least two rerankers, got 1"),
        (["lexical", 3], {}, r"rerankers\[1\] must hold a rerank function such as .*, got 3"),
        (
            [("lexical", 0), "lexical"],
            {},
            r"rerankers\[0\] must have a timeout of a positive number of seconds, or None, g",
        ),
        ([("lexical", "2"), "lexical"], {}, r"rerankers\[0\] must have a timeout .* got '2'"),
        ([{"nam": "tei"}, "lexical"], {}, r"rerankers\[0\] has no key 'nam'; its keys are name, model, timeout"),
        ([{"timeout": 1}, "lexical"], {}, r"rerankers\[0\] needs a name or a model"),
        ([{"name": "tei", "options": 3}, "lexical"], {}, r"options of rerankers\[0\] must be a table, got int: 3"),
        (
            [{"name": "tei", "api_key_env": "NO_SUCH"}, "lexical"],
            {},
            "names the environment variable NO_SUCH, which is not",
        ),
        (["lexical"] * 2, {"exceptions_to_handle": [3]}, "must hold classes of exceptions but InputError, got 3"),
        (["lexical"] * 2, {"exceptions_to_handle": [InputError]}, "must hold classes of exceptions but InputError"),
    ],
)
def test_what_cannot_be_a_chain_is_named(rerankers: Any, options: Any, problem: str) -> None:
    with pytest.raises(InputError, match=problem):
        FallbackRerankFunction(rerankers, **options)
