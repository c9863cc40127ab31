"""Batches across requests: what is computed, in which order, and that nobody waits for ever."""

import threading
import time
from collections.abc import Callable
from concurrent.futures import CancelledError

import numpy as np
import pytest

from milvus_rerank.errors import OutOfMemoryError, StoppedError
from milvus_rerank.server.batcher import Batcher, BatchReport, Job

TIMEOUT = 10.0


class Model:
    """Rows are (number, width); a row's logit is its number. Keeps its batches, and waits for ``go`` before each."""

    def __init__(self, max_batch_tokens: int = 100) -> None:
        self.max_batch_tokens = max_batch_tokens
        self.batches: list[list[tuple[float, int]]] = []
        self.go = threading.Semaphore(10**9)
        self.began = threading.Event()
        self.fails: Callable[[list[tuple[float, int]]], Exception | None] = lambda rows: None

    def run(self, rows):
        self.began.set()
        assert self.go.acquire(timeout=TIMEOUT)
        self.batches.append(list(rows))
        error = self.fails(rows)
        if error is not None:
            raise error
        return np.array([number for number, _ in rows], dtype=np.float32)

    def pause(self) -> None:
        self.go = threading.Semaphore(0)
        self.began.clear()


@pytest.fixture
def batcher():
    made = Batcher("test")
    yield made
    made.close(0)


def job(model: Model, *rows: tuple[float, int]) -> Job:
    return Job(model, list(rows), [width for _, width in rows])


def occupy(batcher: Batcher, model: Model) -> Job:
    """Submit a pair and hold the device with it, so that what is submitted next waits."""
    model.pause()
    first = job(model, (0, 1))
    batcher.submit(first)
    assert model.began.wait(TIMEOUT)
    return first


def test_every_request_gets_its_own_logits_in_its_own_order(batcher):
    model = Model()
    generator = np.random.default_rng(0)
    jobs = [
        job(
            model, *((float(number * 100 + row), int(width)) for row, width in enumerate(generator.integers(1, 60, 40)))
        )
        for number in range(8)
    ]
    for one in jobs:
        batcher.submit(one)
    for number, one in enumerate(jobs):
        assert one.future.result(TIMEOUT).tolist() == [number * 100 + row for row in range(40)]
    assert sum(map(len, model.batches)) == 320


def test_batches_keep_the_budget_and_are_filled_with_pairs_of_others_that_are_nearly_as_wide(batcher):
    model = Model(max_batch_tokens=100)
    first = occupy(batcher, model)
    jobs = [job(model, (1, 50), (2, 10)), job(model, (3, 49), (4, 10)), job(model, (5, 48), (6, 9))]
    for one in reversed(jobs):
        batcher.submit(one)
    model.go.release(10**6)
    for one in (first, *jobs):
        one.future.result(TIMEOUT)
    assert all(len(batch) * max(width for _, width in batch) <= 100 for batch in model.batches)
    # The smallest request is due first. Its 9 and the 10 of others do not go with its 48: they would be mostly padding.
    assert model.batches[1:] == [[(5, 48)], [(6, 9)], [(3, 49)], [(4, 10), (2, 10)], [(1, 50)]]


def test_a_request_is_done_before_those_that_are_due_later_get_their_turn(batcher):
    model = Model(max_batch_tokens=100)
    occupy(batcher, model)
    jobs = [job(model, *((number, 10 + row % 3) for row in range(12))) for number in range(1, 9)]
    for one in jobs:
        batcher.submit(one)
    model.go.release(10**6)
    for one in jobs:
        one.future.result(TIMEOUT)
    done = {number: place for place, batch in enumerate(model.batches) for number, _ in batch}
    # 12 pairs of 10 to 12 tokens are two batches: what is left of the second goes to the next ones.
    assert [done[number] for number in range(1, 9)] == sorted(done[number] for number in range(1, 9))
    assert done[1] == 2
    assert len(model.batches) <= 14


def test_a_pair_beyond_the_budget_is_a_batch_alone(batcher):
    model = Model(max_batch_tokens=10)
    one = job(model, (1, 500), (2, 500))
    batcher.submit(one)
    assert one.future.result(TIMEOUT).tolist() == [1, 2]
    assert [len(batch) for batch in model.batches] == [1, 1]


def test_a_small_request_does_not_stand_behind_a_large_one(batcher):
    model = Model(max_batch_tokens=10)
    first = occupy(batcher, model)
    large = job(model, *((row, 10) for row in range(200)))
    batcher.submit(large)
    small = job(model, *((1000 + row, 10) for row in range(5)))
    batcher.submit(small)
    model.go.release(10**6)
    assert small.future.result(TIMEOUT).tolist() == [1000, 1001, 1002, 1003, 1004]
    large.future.result(TIMEOUT)
    ran = [batch[0][0] for batch in model.batches]
    assert ran.index(1004) <= 6, "it had to wait for the large request"
    assert first.future.done()


def test_small_requests_without_end_do_not_put_a_large_one_off_for_ever(batcher):
    model = Model(max_batch_tokens=10)
    first = occupy(batcher, model)
    large = job(model, *((-1, 10) for _ in range(10)))
    batcher.submit(large)
    waiting = [job(model, (1, 10), (2, 10)) for _ in range(3)]
    for one in waiting:
        batcher.submit(one)
    small = 0
    while not large.future.done():  # whenever one is done, another comes: there are always three
        model.go.release()
        time.sleep(0.0005)
        for place, one in enumerate(waiting):
            if one.future.done():
                small += 1
                assert small < 100
                waiting[place] = job(model, (1, 10), (2, 10))
                batcher.submit(waiting[place])
    assert 3 <= small <= 7  # it has 100 tokens: of those that came later, at most five with 20 went before it
    assert first.future.done()
    model.go.release(10**6)


def test_who_is_dropped_is_not_computed(batcher):
    model = Model(max_batch_tokens=10)
    occupy(batcher, model)
    gone, stays = job(model, *((7, 10) for _ in range(50))), job(model, (1, 10))
    batcher.submit(gone)
    batcher.submit(stays)
    assert (batcher.waiting_tokens, batcher.waiting_requests) == (510, 3)
    batcher.drop(gone)
    assert (batcher.waiting_tokens, batcher.waiting_requests) == (10, 2)
    model.go.release(10**6)
    assert stays.future.result(TIMEOUT).tolist() == [1]
    assert all(number != 7 for batch in model.batches for number, _ in batch)
    with pytest.raises(CancelledError):
        gone.future.result(0)


def test_a_device_that_runs_out_of_memory_gets_smaller_batches(batcher):
    model = Model(max_batch_tokens=100)

    def fails(rows):
        if len(rows) > 2:
            model.max_batch_tokens = min(model.max_batch_tokens, len(rows) * 10 // 2)
            return OutOfMemoryError("too much")
        return None

    model.fails = fails
    one = job(model, *((row, 10) for row in range(30)))
    batcher.submit(one)
    assert one.future.result(TIMEOUT).tolist() == list(range(30))
    assert [len(batch) for batch in model.batches][:3] == [10, 5, 2]


def test_a_pair_that_never_fits_fails_its_request_alone(batcher):
    model = Model(max_batch_tokens=30)

    def fails(rows):
        if any(width == 30 for _, width in rows):
            return OutOfMemoryError("too much")
        return None

    model.fails = fails
    bad, good = job(model, (1, 30), (2, 5)), job(model, (3, 5))
    occupied = occupy(batcher, model)
    batcher.submit(bad)
    batcher.submit(good)
    model.go.release(10**6)
    assert good.future.result(TIMEOUT).tolist() == [3]
    with pytest.raises(OutOfMemoryError):
        bad.future.result(TIMEOUT)
    assert occupied.future.done()


def test_a_failure_reaches_those_whose_pairs_fail_and_no_others(batcher):
    model = Model()
    model.fails = lambda rows: ValueError("no") if any(number == 13 for number, _ in rows) else None
    occupy(batcher, model)
    bad, good = job(model, (13, 10), (1, 10)), job(model, (2, 10))
    batcher.submit(bad)
    batcher.submit(good)
    model.go.release(10**6)
    assert good.future.result(TIMEOUT).tolist() == [2]
    with pytest.raises(ValueError, match="no"):
        bad.future.result(TIMEOUT)


def test_too_few_logits_are_an_error_and_not_a_hang(batcher):
    class Short(Model):
        def run(self, rows):
            return super().run(rows)[:-1]

    one = job(Short(), (1, 10), (2, 10))
    batcher.submit(one)
    with pytest.raises(ValueError, match="zip"):
        one.future.result(TIMEOUT)
    other = job(Model(), (3, 10))
    batcher.submit(other)
    assert other.future.result(TIMEOUT).tolist() == [3]


def test_closing_finishes_what_waits_and_takes_nothing_more():
    batcher, model = Batcher("test"), Model(max_batch_tokens=10)
    occupy(batcher, model)
    one = job(model, *((row, 10) for row in range(20)))
    batcher.submit(one)
    closing = threading.Thread(target=batcher.close, args=(TIMEOUT,))
    closing.start()
    while not batcher._closed:
        time.sleep(0.001)
    with pytest.raises(StoppedError):
        batcher.submit(job(model, (1, 1)))
    model.go.release(10**6)
    assert one.future.result(TIMEOUT).tolist() == list(range(20))
    closing.join(TIMEOUT)
    assert not closing.is_alive()


def test_what_is_not_done_when_closing_takes_too_long_is_refused():
    batcher, model = Batcher("test"), Model(max_batch_tokens=10)
    first = occupy(batcher, model)
    one = job(model, (1, 10), (2, 10))
    batcher.submit(one)
    batcher.close(0.05)
    for waiting in (first, one):
        with pytest.raises(StoppedError, match="shutting down"):
            waiting.future.result(0)
    model.go.release(10**6)


def test_the_time_a_request_will_take_follows_the_speed_and_who_waits():
    now = [0.0]
    reports: list[BatchReport] = []

    class Slow(Model):
        def run(self, rows):
            now[0] += 2.0  # seconds
            return super().run(rows)

    batcher, model = Batcher("test", report=reports.append, clock=lambda: now[0]), Slow()
    assert batcher.seconds_for(100) is None
    first = job(model, (1, 26), (2, 24))
    batcher.submit(first)
    first.future.result(TIMEOUT)
    assert reports == [BatchReport(pairs=2, tokens=52, requests=1, seconds=2.0)]
    assert batcher.seconds_for(100) == pytest.approx(4.0)  # 25 tokens a second
    occupied = occupy(batcher, model)
    batcher.submit(job(model, *((0, 10) for _ in range(20))))
    # 50 go before the 200 that wait, and others may go before them; 1000 go behind the 200.
    assert batcher.seconds_for(50) == pytest.approx(4.0)
    assert batcher.seconds_for(1000) == pytest.approx(88.0)
    model.go.release(10**6)
    assert occupied.future.result(TIMEOUT).tolist() == [0]
    batcher.close(TIMEOUT)
