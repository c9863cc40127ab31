"""Services that fail, lie, hang and refuse: how often each is asked, and what the caller is told."""

import asyncio
import gc
import json
import logging
import os
import re
import shutil
import ssl
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from email.utils import formatdate
from pathlib import Path
from typing import Any

import pytest
from fault_server import HANG, KEY, Answer, FaultServer, Time, by_length, fault_server, remote, scored

from milvus_rerank.errors import RerankError, ServiceError, StoppedError
from milvus_rerank.reranker.remote.failures import retry_after
from milvus_rerank.reranker.remote.function import RemoteRerankFunction

TEXTS = ["a", "bbb", "cc"]

Ask = Callable[[RemoteRerankFunction], list[float]]


@pytest.fixture
def server() -> Iterator[FaultServer]:
    with fault_server() as running:
        yield running


def plainly(function: RemoteRerankFunction) -> list[float]:
    with function:
        return function.score("q", TEXTS)


def in_a_loop(function: RemoteRerankFunction) -> list[float]:
    return asyncio.run(function.ascore("q", TEXTS))


@pytest.fixture(params=[plainly, in_a_loop])
def ask(request: pytest.FixtureRequest) -> Ask:
    return request.param


def failing(ask: Ask, function: RemoteRerankFunction) -> ServiceError:
    with pytest.raises(ServiceError) as caught:
        ask(function)
    return caught.value


# Trying again


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
def test_a_status_that_may_pass_is_tried_again(server: FaultServer, ask: Ask, status: int) -> None:
    server.answers = [Answer({"message": "later"}, status), Answer({"message": "later"}, status)]
    clock = Time()
    assert ask(remote(server.address, time=clock)) == [1.0, 3.0, 2.0]
    assert len(server.received) == 3
    assert 0.25 <= clock.pauses[0] <= 1.0
    assert 0.25 <= clock.pauses[1] <= 2.0
    assert server.received[0].body == server.received[2].body


def test_pauses_grow_and_differ(server: FaultServer) -> None:
    server.then = lambda _: Answer({}, 500)
    clock = Time()
    function = remote(server.address, time=clock, attempts=7)
    for _ in range(10):
        failing(plainly, function)
    by_attempt = [clock.pauses[place::6] for place in range(6)]
    for place, (most, pauses) in enumerate(zip([1, 2, 4, 8, 8, 8], by_attempt, strict=True)):
        assert len(set(pauses)) == 10, place
        assert 0.25 <= min(pauses) <= max(pauses) <= most
    assert max(by_attempt[3]) > 2


@pytest.mark.parametrize("status", [400, 401, 403, 404, 405, 409, 413, 415, 418, 422, 501])
def test_other_refusals_are_not_tried_again(server: FaultServer, ask: Ask, status: int) -> None:
    server.answers = [Answer({"message": "no"}, status, {"retry-after": "1"})]
    clock = Time()
    error = failing(ask, remote(server.address, time=clock))
    assert (error.status, error.retry_after, len(server.received), clock.pauses) == (status, 1.0, 1, [])
    assert str(error).startswith(f"{server.address}/v1/rerank answered {status} (no)")


def test_a_service_that_stays_down_is_given_up_after_so_many_attempts(server: FaultServer, ask: Ask) -> None:
    server.then = lambda _: Answer({"error": "Model is overloaded", "error_type": "Overloaded"}, 503)
    error = failing(ask, remote(server.address, time=Time(), attempts=3))
    assert str(error) == f"{server.address}/v1/rerank answered 503 (Model is overloaded) at attempt 3 of 3"
    assert (error.status, error.retry_after, len(server.received)) == (503, None, 3)
    assert isinstance(error, RuntimeError)  # as pymilvus.model raises


def test_one_attempt_means_one(server: FaultServer, ask: Ask) -> None:
    server.then = lambda _: Answer({}, 500)
    clock = Time()
    failing(ask, remote(server.address, time=clock, attempts=1))
    assert (len(server.received), clock.pauses) == (1, [])


def test_retry_after_in_seconds_is_the_pause(server: FaultServer, ask: Ask) -> None:
    server.answers = [Answer({}, 429, {"retry-after": "7"}), Answer({}, 503, {"Retry-After": "0.5"})]
    clock = Time()
    assert ask(remote(server.address, time=clock)) == [1.0, 3.0, 2.0]
    assert clock.pauses == [7.0, 0.5]


def test_retry_after_as_a_date_is_reckoned_by_the_services_clock(server: FaultServer, ask: Ask) -> None:
    wrong_by_a_year = time.time() - 365 * 86400
    headers = {
        "retry-after": formatdate(wrong_by_a_year + 9, usegmt=True),
        "date": formatdate(wrong_by_a_year, usegmt=True),
    }
    server.answers = [Answer({}, 429, headers)]
    clock = Time()
    assert ask(remote(server.address, time=clock)) == [1.0, 3.0, 2.0]
    assert clock.pauses == [9.0]


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"retry-after": "3"}, 3.0),
        ({"retry-after": " 0 "}, 0.0),
        ({"retry-after": formatdate(1012, usegmt=True)}, 12.0),
        ({"retry-after": formatdate(1012, usegmt=True), "date": "nonsense"}, 12.0),
        ({"retry-after": formatdate(900, usegmt=True)}, 0.0),
        ({"retry-after": "-3"}, None),
        ({"retry-after": "nan"}, None),
        ({"retry-after": "inf"}, None),
        ({"retry-after": "soon"}, None),
        ({"retry-after": "Wed, 99 Foo 2026"}, None),
    ],
)
def test_what_retry_after_may_say(headers: dict[str, str], seconds: float | None) -> None:
    assert retry_after(headers, utc=1000.0) == seconds


def test_a_service_that_asks_for_a_long_pause_is_given_up_at_once(server: FaultServer, ask: Ask) -> None:
    server.answers = [Answer({"detail": "quota"}, 429, {"retry-after": "3600"})]
    clock = Time()
    error = failing(ask, remote(server.address, time=clock))
    assert str(error) == (
        f"{server.address}/v1/rerank answered 429 (quota) and wants to be asked again after 3600 s, "
        "which is too long to wait here; ask less at once: concurrency is 4"
    )
    assert (error.retry_after, clock.pauses, len(server.received)) == (3600.0, [], 1)


def test_the_deadline_ends_the_attempts(server: FaultServer, ask: Ask) -> None:
    server.then = lambda _: Answer({}, 503, {"retry-after": "4"})
    clock = Time()
    error = failing(ask, remote(server.address, time=clock, deadline=10.0, attempts=9))
    assert clock.pauses == [4.0, 4.0]
    assert len(server.received) == 3
    assert str(error).endswith("answered 503, and the call's deadline of 10 s leaves no time to ask again")


def test_the_deadline_is_that_of_all_requests_of_a_call(server: FaultServer, ask: Ask) -> None:
    server.answers = [Answer({}, 503, {"retry-after": "6"}), scored(1.0), Answer({}, 503, {"retry-after": "6"})]
    clock = Time()
    error = failing(ask, remote(server.address, time=clock, deadline=10.0, max_documents=1, concurrency=1))
    assert len(server.received) == 3
    assert "deadline of 10 s" in str(error)


def test_no_request_is_sent_after_the_deadline(server: FaultServer, ask: Ask) -> None:
    clock = Time()

    def slow(received: Any) -> Answer:
        clock.pause(11.0)
        return by_length(received)

    server.then = slow
    error = failing(
        ask, remote(server.address, time=clock, deadline=10.0, timeout=60.0, max_documents=2, concurrency=1)
    )
    assert len(server.received) == 1
    assert "deadline of 10 s" in str(error) or "did not answer" in str(error)


# No answer, or half of one


def test_a_service_that_hangs_is_left_after_the_timeout(server: FaultServer, ask: Ask) -> None:
    server.answers = [HANG, HANG]
    clock = Time()
    start = time.monotonic()
    error = failing(ask, remote(server.address, time=clock, timeout=0.1, attempts=2))
    assert 0.2 <= time.monotonic() - start < 2
    assert str(error) == (
        f"{server.address}/v1/rerank did not answer within 0.1 s at attempt 2 of 2; "
        "raise timeout=..., or deadline=... if there is one, or send less at once with max_documents=..."
    )
    assert (error.status, len(server.received), len(clock.pauses)) == (None, 2, 1)


def test_a_service_that_hangs_once_is_asked_again(server: FaultServer, ask: Ask) -> None:
    server.answers = [HANG]
    assert ask(remote(server.address, time=Time(), timeout=0.2)) == [1.0, 3.0, 2.0]


def test_an_answer_that_drips_is_left_after_the_timeout(server: FaultServer, ask: Ask) -> None:
    slow = scored(1.0, 2.0, 3.0)
    slow.drip = 0.02  # each byte comes in time, all of them do not
    server.answers = [slow]
    function = remote(server.address, timeout=0.2, attempts=1)
    start = time.monotonic()
    assert "did not answer within 0.2 s" in str(failing(ask, function))
    assert time.monotonic() - start < 1


def test_an_answer_that_is_cut_is_asked_for_again(server: FaultServer, ask: Ask) -> None:
    cut = scored(1.0, 2.0, 3.0)
    cut.cut = 20
    server.answers = [cut]
    assert ask(remote(server.address, time=Time())) == [1.0, 3.0, 2.0]
    server.answers = [cut, cut]
    error = failing(ask, remote(server.address, time=Time(), attempts=2))
    assert f"{server.address}/v1/rerank broke off its answer (" in str(error)
    assert len(server.received) == 4


def test_a_service_that_is_not_there_is_named(ask: Ask) -> None:
    with fault_server() as gone:
        pass
    clock = Time()
    error = failing(ask, remote(gone.address, time=clock))
    advice = r"is it running, and is the address right\?"
    assert re.fullmatch(rf"{gone.address}/v1/rerank cannot be reached \(.+\) at attempt 4 of 4; {advice}", str(error))
    assert (error.status, len(clock.pauses)) == (None, 3)


# Answers that cannot be used


def rows(*pairs: tuple[Any, Any]) -> Answer:
    return Answer({"results": [{"index": index, "relevance_score": score} for index, score in pairs]})


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (rows((0, 1.0), (1, 1.0), (3, 1.0)), "its result 2 has the index 3, expected 0 to 2"),
        (rows((0, 1.0), (-1, 1.0), (2, 1.0)), "its result 1 has the index -1, expected 0 to 2"),
        (rows(("0", 1.0)), "its result 0 has the index '0', expected 0 to 2"),
        (rows((True, 1.0)), "its result 0 has the index True, expected 0 to 2"),
        (rows((0.0, 1.0)), "its result 0 has the index 0.0, expected 0 to 2"),
        (rows((None, 1.0)), "its result 0 has the index None, expected 0 to 2"),
        (rows((0, 1.0), (1, 1.0), (1, 0.5)), "it has document 1 twice"),
        (rows((0, 1.0), (1, 1.0), (2, 1.0), (0, 1.0)), "it has document 0 twice"),
        (rows((0, 1.0), (1, 1.0), (2, 1.0), (3, 1.0)), "its result 3 has the index 3, expected 0 to 2"),
        (rows((1, 1.0)), "2 of 3 documents have no score: 0, 2"),
        (rows(), "3 of 3 documents have no score: 0, 1, 2"),
        (
            Answer(b'{"results": [{"index": 0, "relevance_score": NaN}]}'),
            "of document 0 is nan, expected a finite number",
        ),
        (Answer(b'{"results": [{"index": 0, "relevance_score": 1e999}]}'), "of document 0 is inf, expected a finite"),
        (Answer(b'{"results": [{"index": 0, "relevance_score": 1%s}]}' % (b"0" * 400)), "of document 0 is 1000"),
        (rows((0, "0.9")), "the relevance_score of document 0 is '0.9', expected a finite number"),
        (rows((0, None)), "the relevance_score of document 0 is None, expected a finite number"),
        (rows((0, True)), "the relevance_score of document 0 is True, expected a finite number"),
        (Answer({"results": [[0, 1.0]]}), "its result 0 is [0, 1.0], expected an object"),
        (Answer({"results": {"0": 1.0}}), "expected the list 'results' of results, got an object with 'results'"),
        (Answer({"data": []}), "expected the list 'results' of results, got an object with 'data'"),
        (Answer([]), "expected the list 'results' of results, got []"),
        (Answer(None, headers={"x": "y"}), "expected the list 'results' of results, got None"),
        (Answer(b'{"results": ['), "expected JSON, got '{\"results\": [' (application/json)"),
        (
            Answer(b"<html>\n<b>Sign in</b>", headers={"content-type": "text/html"}),
            "'<html> <b>Sign in</b>' (text/html)",
        ),
        (Answer(b""), "expected JSON, got an empty body"),
        (Answer(b"[" * 100_000), "expected JSON, got '[[[["),
        (Answer(b"\xff\xfe\xff"), "expected JSON, got"),
        (Answer(b"x" * 2_000_000), "it is larger than 10488"),
        (Answer(b"gzip?", headers={"content-encoding": "gzip"}), "its answer cannot be read"),
    ],
)
def test_an_answer_that_cannot_be_used_is_an_error_that_says_why(
    server: FaultServer, ask: Ask, answer: Answer, words: str
) -> None:
    server.answers = [answer]
    clock = Time()
    error = failing(ask, remote(server.address, time=clock))
    assert words in str(error)
    assert str(error).startswith(f"{server.address}/v1/rerank ")
    assert len(str(error)) < 600
    assert (len(server.received), clock.pauses) == (1, [])


def test_an_answer_that_is_too_large_is_not_read_to_its_end(server: FaultServer, ask: Ask) -> None:
    server.answers = [Answer(b"x" * 50_000_000)]
    failing(ask, remote(server.address))
    assert server.left.wait(5)


def test_an_answer_may_repeat_the_documents(server: FaultServer) -> None:
    escaped = "\\u0416" * 300_000  # a letter of two bytes in six

    server.then = lambda _: Answer(
        b'{"results": [{"index": 0, "relevance_score": 1, "document": "%s"}]}' % escaped.encode()
    )
    with remote(server.address) as function:
        assert function.score("q", ["Ж" * 300_000]) == [1.0]
        assert "it is larger than" in str(failing(plainly, function))


def test_the_error_of_an_unusable_answer_has_its_status_and_says_what_to_look_at(server: FaultServer, ask: Ask) -> None:
    server.answers = [Answer({"data": []}, 201)]
    error = failing(ask, remote(server.address))
    assert error.status == 201
    assert str(error).endswith("; does it speak the dialect 'jina', and is the address right?")


def test_a_lost_document_in_one_of_several_requests_is_an_error(server: FaultServer, ask: Ask) -> None:
    server.answers = [scored(1.0), scored(1.0), rows()]
    assert "1 of 1 documents have no score: 0" in str(failing(ask, remote(server.address, max_documents=1)))


@pytest.mark.parametrize(
    ("status", "headers", "words"),
    [
        (302, {"location": "https://elsewhere/x?token=1"}, "it points to https://elsewhere/x: give that address"),
        (301, {}, "give the address it points to"),
        (401, {}, "is the key right? pass api_key=..."),
        (404, {}, "is the address right? The dialect 'jina' has the route /v1/rerank"),
        (413, {}, "lower max_documents: a request had up to 1000 documents (max_documents)"),
        (422, {}, "are model_name and dialect 'jina' right?"),
    ],
)
def test_a_refusal_says_what_to_do(
    server: FaultServer, ask: Ask, status: int, headers: dict[str, str], words: str
) -> None:
    server.answers = [Answer({"message": "no"}, status, headers)]
    error = failing(ask, remote(server.address))
    assert words in str(error)
    assert "token" not in str(error)
    assert len(server.received) == 1  # a redirection is not followed: the key and the texts go to one address only


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({"message": "cohere says"}, "(cohere says)"),
        ({"detail": "voyage says"}, "(voyage says)"),
        ({"error": "tei says", "error_type": "Validation"}, "(tei says)"),
        ({"error": {"message": "vllm says", "code": 400}}, "(vllm says)"),
        ({"code": "InvalidParameter", "message": "dashscope says", "request_id": "x"}, "(dashscope says)"),
        (
            {"detail": [{"loc": ["body", "texts"], "msg": "missing"}]},
            '([{"loc": ["body", "texts"], "msg": "missing"}])',
        ),
        (["odd"], '(["odd"])'),
        ({"code": 7}, '({"code": 7})'),
        ({}, "answered 400; "),
        (b"plain\nwords \x1b[31m", "(plain words [31m)"),
        (b"", "answered 400; "),
        (b"y" * 5000, "(" + "y" * 197 + "...)"),
    ],
)
def test_what_a_service_says_is_passed_on_in_short(server: FaultServer, ask: Ask, body: Any, words: str) -> None:
    server.answers = [Answer(body, 400)]
    assert words in str(failing(ask, remote(server.address)))


# Secrets


def test_the_key_and_the_addresss_query_are_in_no_message_no_repr_and_no_log(
    server: FaultServer, ask: Ask, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    server.answers = [
        Answer({"message": f"the key {KEY} is not known"}, 401),
        Answer({"message": "x" * 190 + f" {KEY}"}, 401),  # what is shown ends within the key
        Answer({"message": "no"}, 500),
        Answer({"a": KEY, KEY: 1}),
    ]
    function = remote(f"{server.address}/v1/rerank?secret=hidden", time=Time(), attempts=1)
    told = [failing(ask, function) for _ in range(4)]
    assert KEY[:6] not in str(told[1])
    assert server.address in caplog.text
    for logged in (KEY, "hidden"):
        assert logged not in caplog.text
    caplog.set_level(logging.WARNING)  # what a service repeats in its headers, httpcore logs
    server.answers = [
        Answer(f"<html>{KEY}".encode(), headers={"content-type": f"text/{KEY}"}),
        Answer({"message": "moved"}, 302, {"location": f"/{KEY}/x"}),
    ]
    told += [failing(ask, function) for _ in range(2)]
    for error in told:
        written = "".join(traceback.format_exception(error)) + repr(error)
        assert server.address in written
        assert KEY not in written
        assert "hidden" not in written
    assert "the key *** is not known" in str(told[0])
    assert [one.headers["authorization"] for one in server.received] == [f"Bearer {KEY}"] * 6
    assert {one.path for one in server.received} == {"/v1/rerank?secret=hidden"}
    for one in (function, function.endpoint, vars(function)):
        assert KEY not in repr(one)
        assert "hidden" not in repr(one)


# Stopping and sharing


def test_a_cancelled_call_stops_at_once_and_leaves_the_service(server: FaultServer) -> None:
    server.answers = [HANG, HANG]

    async def main() -> float:
        function = remote(server.address, max_documents=2)
        task = asyncio.create_task(function.arerank("q", TEXTS))
        while not server.hanging.is_set():
            await asyncio.sleep(0.005)
        start = time.monotonic()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        return time.monotonic() - start

    assert asyncio.run(main()) < 1
    assert server.left.wait(5)
    assert len(server.received) <= 2


def test_a_call_cancelled_in_a_pause_asks_no_more(server: FaultServer) -> None:
    server.then = lambda _: Answer({}, 503, {"retry-after": "20"})

    async def main() -> None:
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(remote(server.address).arerank("q", TEXTS), 0.3)

    start = time.monotonic()
    asyncio.run(main())
    assert time.monotonic() - start < 2
    assert len(server.received) == 1


def test_stop_ends_the_work_between_requests(server: FaultServer) -> None:
    stop = threading.Event()

    def then_stop(received: Any) -> Answer:
        stop.set()
        return by_length(received)

    server.then = then_stop
    with remote(server.address, max_documents=1, concurrency=1) as function:
        with pytest.raises(StoppedError):
            function.score_requests([("q", TEXTS)], stop)
        assert len(server.received) == 1
        with pytest.raises(StoppedError):
            function.score_requests([("q", TEXTS)], stop)
    assert len(server.received) == 1


def test_stop_ends_a_pause_between_attempts(server: FaultServer) -> None:
    server.then = lambda _: Answer({}, 503, {"retry-after": "20"})
    stop = threading.Event()
    threading.Timer(0.2, stop.set).start()
    start = time.monotonic()
    with remote(server.address) as function, pytest.raises(StoppedError):
        function.score_requests([("q", TEXTS)], stop)
    assert time.monotonic() - start < 2
    assert len(server.received) == 1


def test_one_failed_request_ends_the_others_of_its_call(server: FaultServer, ask: Ask) -> None:
    def refuse_the_second(received: Any) -> Answer:
        if received.body["documents"] == ["bbb"]:
            return Answer({"message": "no"}, 400)
        return Answer({}, 503, {"retry-after": "20"})

    server.then = refuse_the_second
    start = time.monotonic()
    error = failing(ask, remote(server.address, max_documents=1, concurrency=3))
    assert error.status == 400
    assert time.monotonic() - start < 2
    asked = [one.body["documents"] for one in server.received]
    assert all(asked.count([text]) <= 1 for text in TEXTS)


def test_no_more_requests_of_a_call_than_concurrency_are_under_way(server: FaultServer) -> None:
    lock, active, most = threading.Lock(), [0], [0]

    def counted(received: Any) -> Answer:
        with lock:
            active[0] += 1
            most[0] = max(most[0], active[0])
        time.sleep(0.02)
        with lock:
            active[0] -= 1
        return by_length(received)

    server.then = counted
    texts = ["x" * size for size in range(1, 13)]
    for concurrency, at_least in ((1, 1), (3, 2)):
        for run in (lambda f: f.score("q", texts), lambda f: asyncio.run(f.ascore("q", texts))):
            most[0] = 0
            with remote(server.address, max_documents=1, concurrency=concurrency) as function:
                assert run(function) == [float(size) for size in range(1, 13)]
            assert at_least <= most[0] <= concurrency


def test_two_event_loops_one_after_the_other_and_plain_calls_between(server: FaultServer) -> None:
    function = remote(server.address)

    async def twice() -> list[list[float]]:
        return [await function.ascore("q", TEXTS), await function.ascore("q", TEXTS[:2])]

    for plain_connections in (0, 1, 1):
        assert asyncio.run(twice()) == [[1.0, 3.0, 2.0], [1.0, 3.0]]
        assert server.has_connections(plain_connections)  # those of the loop ended with it
        assert function.score("q", ["four"]) == [4.0]
    function.close()
    assert server.has_connections(0)


def test_eight_threads_and_eight_loops_share_one_object(server: FaultServer) -> None:
    function = remote(server.address, max_documents=3)
    wrong: list[Any] = []

    def work(number: int) -> None:
        for turn in range(10):
            texts = ["x" * (1 + (number * 7 + turn * 3 + place) % 40) for place in range(10)]
            made = function.score("q", texts) if number % 2 else asyncio.run(function.ascore("q", texts))
            if made != [float(len(text)) for text in texts]:
                wrong.append((number, turn, made))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert len(server.received) == 16 * 10 * 4
    function.close()


def test_connections_stay_open_between_calls_until_they_are_closed(server: FaultServer) -> None:
    async def loop() -> None:
        async with remote(server.address) as function:
            await function.ascore("q", TEXTS)
            await function.ascore("q", TEXTS)
            await function.aclose()
            assert server.has_connections(0)
            await function.ascore("q", TEXTS)
        assert server.has_connections(0)

    asyncio.run(loop())
    with remote(server.address) as function:
        for _ in range(3):
            function.score("q", TEXTS)
        assert server.has_connections(1)
    assert server.has_connections(0)
    assert function.score("q", TEXTS) == [1.0, 3.0, 2.0]
    function.close()
    ports = [one.port for one in server.received]
    assert ports[0] == ports[1] != ports[2]
    assert ports[3] == ports[4] == ports[5] != ports[6]


def test_an_object_that_is_dropped_closes_its_connections(server: FaultServer) -> None:
    function = remote(server.address)
    function.score("q", TEXTS)
    assert server.has_connections(1)
    del function
    gc.collect()
    assert server.has_connections(0)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
@pytest.mark.needs("milvus_lite")
def test_a_forked_process_opens_connections_of_its_own(server: FaultServer) -> None:
    code = f"""
import os
from milvus_rerank import JinaRerankFunction
function = JinaRerankFunction(base_url={server.address!r})
assert function.score("parent", ["a"]) == [1.0]
child = os.fork()
if child == 0:
    assert function.score("child", ["bb"]) == [2.0]
    function.close()
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0
assert function.score("parent", ["ccc"]) == [3.0]
"""
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True)
    ports = {one.body["documents"][0]: one.port for one in server.received}
    assert ports["a"] == ports["ccc"] != ports["bb"]


# TLS


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl makes the certificate")
def test_tls_is_checked(ask: Ask, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = ["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "1"]
    names = [
        "-subj",
        "/CN=localhost",
        "-addext",
        "subjectAltName=DNS:localhost",
        "-keyout",
        "key.pem",
        "-out",
        "cert.pem",
    ]
    subprocess.run(["openssl", *made, *names], cwd=tmp_path, check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "cert.pem", tmp_path / "key.pem")
    with fault_server(lambda raw: context.wrap_socket(raw, server_side=True)) as server:
        clock = Time()
        error = failing(ask, remote(server.address, time=clock))
        assert "CERTIFICATE_VERIFY_FAILED" in str(error)
        assert "set SSL_CERT_FILE to the authority's" in str(error)
        assert (server.received, clock.pauses) == ([], [])
        monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "cert.pem"))
        assert ask(remote(server.address)) == [1.0, 3.0, 2.0]


def test_errors_of_services_are_this_packages_and_survive_pickling() -> None:
    import pickle

    error = ServiceError("it failed", 503, 2.0)
    again = pickle.loads(pickle.dumps(error))
    assert (str(again), again.status, again.retry_after) == ("it failed", 503, 2.0)
    assert isinstance(error, RerankError)
    assert json.dumps(str(error)) == '"it failed"'
