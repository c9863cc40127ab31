"""Calls to Milvus end in time, whatever the client does."""

import asyncio
import threading
import time

import pytest

from milvus_rerank.concurrency import bounded

SHORT = 0.05


def test_a_blocking_call_is_given_up_when_its_time_is_up() -> None:
    release = threading.Event()
    started = time.monotonic()
    with pytest.raises(TimeoutError):
        bounded(release.wait, SHORT)()
    assert time.monotonic() - started < 5
    release.set()


def test_an_asynchronous_call_is_cancelled_when_its_time_is_up() -> None:
    ended = []

    async def wait_on() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            ended.append(True)

    with pytest.raises(TimeoutError):
        asyncio.run(bounded(wait_on, SHORT)())
    assert ended == [True]


def test_what_ends_in_time_gives_its_result_or_its_error() -> None:
    async def soon() -> int:
        return 8

    assert bounded(lambda: 7, 5)() == 7
    assert asyncio.run(bounded(soon, 5)()) == 8
    with pytest.raises(ZeroDivisionError):
        bounded(lambda: 1 / 0, 5)()


def test_without_a_timeout_the_call_is_left_as_it_is() -> None:
    work = threading.Event().is_set
    assert bounded(work, None) is work
