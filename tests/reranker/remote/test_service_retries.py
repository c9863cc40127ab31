"""Services that fail or hang: how often each is asked, and for how long."""

import re
import time
from email.utils import formatdate
from typing import Any

import pytest
from fault_server import HANG, Answer, FaultServer, Time, by_length, fault_server, remote, scored
from service_calls import Ask, failing, plainly

from milvus_rerank.errors import ServiceError, ServiceTimeoutError
from milvus_rerank.reranker.remote.failures import retry_after

# Trying again


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
def test_a_status_that_may_pass_is_tried_again(faults: FaultServer, ask: Ask, status: int) -> None:
    faults.answers = [Answer({"message": "later"}, status), Answer({"message": "later"}, status)]
    clock = Time()
    assert ask(remote(faults.address, time=clock)) == [1.0, 3.0, 2.0]
    assert len(faults.received) == 3
    assert 0.25 <= clock.pauses[0] <= 1.0
    assert 0.25 <= clock.pauses[1] <= 2.0
    assert faults.received[0].body == faults.received[2].body


def test_pauses_grow_and_differ(faults: FaultServer) -> None:
    faults.then = lambda _: Answer({}, 500)
    clock = Time()
    function = remote(faults.address, time=clock, attempts=7)
    for _ in range(10):
        failing(plainly, function)
    by_attempt = [clock.pauses[place::6] for place in range(6)]
    for place, (most, pauses) in enumerate(zip([1, 2, 4, 8, 8, 8], by_attempt, strict=True)):
        assert len(set(pauses)) == 10, place
        assert 0.25 <= min(pauses) <= max(pauses) <= most
    assert max(by_attempt[3]) > 2


@pytest.mark.parametrize("status", [400, 401, 403, 404, 405, 409, 413, 415, 418, 422, 501])
def test_other_refusals_are_not_tried_again(faults: FaultServer, ask: Ask, status: int) -> None:
    faults.answers = [Answer({"message": "no"}, status, {"retry-after": "1"})]
    clock = Time()
    error = failing(ask, remote(faults.address, time=clock))
    assert (error.status, error.retry_after, len(faults.received), clock.pauses) == (status, 1.0, 1, [])
    assert str(error).startswith(f"{faults.address}/v1/rerank answered {status} (no)")


def test_a_service_that_stays_down_is_given_up_after_so_many_attempts(faults: FaultServer, ask: Ask) -> None:
    faults.then = lambda _: Answer({"error": "Model is overloaded", "error_type": "Overloaded"}, 503)
    error = failing(ask, remote(faults.address, time=Time(), attempts=3))
    assert str(error) == f"{faults.address}/v1/rerank answered 503 (Model is overloaded) at attempt 3 of 3"
    assert (error.status, error.retry_after, len(faults.received)) == (503, None, 3)
    assert isinstance(error, RuntimeError)  # as pymilvus.model raises


def test_one_attempt_means_one(faults: FaultServer, ask: Ask) -> None:
    faults.then = lambda _: Answer({}, 500)
    clock = Time()
    failing(ask, remote(faults.address, time=clock, attempts=1))
    assert (len(faults.received), clock.pauses) == (1, [])


def test_retry_after_in_seconds_is_the_pause(faults: FaultServer, ask: Ask) -> None:
    faults.answers = [Answer({}, 429, {"retry-after": "7"}), Answer({}, 503, {"Retry-After": "0.5"})]
    clock = Time()
    assert ask(remote(faults.address, time=clock)) == [1.0, 3.0, 2.0]
    assert clock.pauses == [7.0, 0.5]


def test_retry_after_as_a_date_is_reckoned_by_the_services_clock(faults: FaultServer, ask: Ask) -> None:
    wrong_by_a_year = time.time() - 365 * 86400
    headers = {
        "retry-after": formatdate(wrong_by_a_year + 9, usegmt=True),
        "date": formatdate(wrong_by_a_year, usegmt=True),
    }
    faults.answers = [Answer({}, 429, headers)]
    clock = Time()
    assert ask(remote(faults.address, time=clock)) == [1.0, 3.0, 2.0]
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


def test_a_service_that_asks_for_a_long_pause_is_given_up_at_once(faults: FaultServer, ask: Ask) -> None:
    faults.answers = [Answer({"detail": "quota"}, 429, {"retry-after": "3600"})]
    clock = Time()
    error = failing(ask, remote(faults.address, time=clock))
    assert str(error) == (
        f"{faults.address}/v1/rerank answered 429 (quota) and wants to be asked again after 3600 s, "
        "which is too long to wait here; ask less at once: concurrency is 4"
    )
    assert (error.retry_after, clock.pauses, len(faults.received)) == (3600.0, [], 1)


def test_the_deadline_ends_the_attempts(faults: FaultServer, ask: Ask) -> None:
    faults.then = lambda _: Answer({}, 503, {"retry-after": "4"})
    clock = Time()
    error = failing(ask, remote(faults.address, time=clock, deadline=10.0, attempts=9))
    assert clock.pauses == [4.0, 4.0]
    assert len(faults.received) == 3
    assert str(error).endswith("answered 503, and the call's deadline of 10 s leaves no time to ask again")


def test_the_deadline_is_that_of_all_requests_of_a_call(faults: FaultServer, ask: Ask) -> None:
    faults.answers = [Answer({}, 503, {"retry-after": "6"}), scored(1.0), Answer({}, 503, {"retry-after": "6"})]
    clock = Time()
    error = failing(ask, remote(faults.address, time=clock, deadline=10.0, max_documents=1, concurrency=1))
    assert len(faults.received) == 3
    assert "deadline of 10 s" in str(error)


def test_no_request_is_sent_after_the_deadline(faults: FaultServer, ask: Ask) -> None:
    clock = Time()

    def slow(received: Any) -> Answer:
        clock.pause(11.0)
        return by_length(received)

    faults.then = slow
    error = failing(
        ask, remote(faults.address, time=clock, deadline=10.0, timeout=60.0, max_documents=2, concurrency=1)
    )
    assert len(faults.received) == 1
    assert "deadline of 10 s" in str(error) or "did not answer" in str(error)


# No answer, or half of one


def test_a_service_that_hangs_is_left_after_the_timeout(faults: FaultServer, ask: Ask) -> None:
    faults.answers = [HANG, HANG]
    clock = Time()
    start = time.monotonic()
    error = failing(ask, remote(faults.address, time=clock, timeout=0.1, attempts=2))
    assert 0.2 <= time.monotonic() - start < 2
    assert str(error) == (
        f"{faults.address}/v1/rerank did not answer within 0.1 s at attempt 2 of 2; "
        "raise timeout=..., or deadline=... if there is one, or send less at once with max_documents=..."
    )
    assert (error.status, len(faults.received), len(clock.pauses)) == (None, 2, 1)


def test_a_service_that_hangs_once_is_asked_again(faults: FaultServer, ask: Ask) -> None:
    faults.answers = [HANG]
    assert ask(remote(faults.address, time=Time(), timeout=0.2)) == [1.0, 3.0, 2.0]


def test_an_answer_that_drips_is_left_after_the_timeout(faults: FaultServer, ask: Ask) -> None:
    slow = scored(1.0, 2.0, 3.0)
    slow.drip = 0.02  # each byte comes in time, all of them do not
    faults.answers = [slow]
    function = remote(faults.address, timeout=0.2, attempts=1)
    start = time.monotonic()
    assert "did not answer within 0.2 s" in str(failing(ask, function))
    assert time.monotonic() - start < 1


def test_an_answer_that_is_cut_is_asked_for_again(faults: FaultServer, ask: Ask) -> None:
    cut = scored(1.0, 2.0, 3.0)
    cut.cut = 20
    faults.answers = [cut]
    assert ask(remote(faults.address, time=Time())) == [1.0, 3.0, 2.0]
    faults.answers = [cut, cut]
    error = failing(ask, remote(faults.address, time=Time(), attempts=2))
    assert f"{faults.address}/v1/rerank broke off its answer (" in str(error)
    assert len(faults.received) == 4


def test_a_service_that_is_not_there_is_named(ask: Ask) -> None:
    with fault_server() as gone:
        pass
    clock = Time()
    error = failing(ask, remote(gone.address, time=clock))
    advice = r"is it running, and is the address right\?"
    assert re.fullmatch(rf"{gone.address}/v1/rerank cannot be reached \(.+\) at attempt 4 of 4; {advice}", str(error))
    assert (error.status, len(clock.pauses)) == (None, 3)


# Timeouts are an error of their own


@pytest.mark.parametrize("answer", [HANG, Answer({}, 504), Answer({}, 408)])
def test_a_timeout_is_an_error_of_its_own_kind(faults: FaultServer, ask: Ask, answer: Answer) -> None:
    faults.then = lambda _: answer
    error = failing(ask, remote(faults.address, time=Time(), timeout=0.1, attempts=2))
    assert isinstance(error, ServiceTimeoutError)
    assert isinstance(error, TimeoutError)
    assert str(error).startswith(f"{faults.address}/v1/rerank ")
    assert error.status == (None if answer is HANG else answer.status)


def test_the_end_of_the_deadline_is_a_timeout_and_other_failures_are_not(faults: FaultServer, ask: Ask) -> None:
    clock = Time()

    def slow(received: Any) -> Answer:
        clock.pause(11.0)
        return by_length(received)

    faults.then = slow
    function = remote(faults.address, time=clock, deadline=10.0, timeout=60.0, max_documents=2, concurrency=1)
    assert isinstance(failing(ask, function), ServiceTimeoutError)
    faults.then = lambda _: Answer({}, 503)
    assert type(failing(ask, remote(faults.address, time=Time()))) is ServiceError
