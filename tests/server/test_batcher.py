"""Batches across requests: what is computed, in which order, and that nobody waits for ever."""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import CancelledError
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from milvus_rerank.errors import OutOfMemoryError, OverloadedError, StoppedError
from milvus_rerank.server.batcher import Batcher, BatchReport
from milvus_rerank.server.queue import Job

Floats = npt.NDArray[np.float32]
TIMEOUT = 10.0


class Model:
    """Rows are (number, width); a row's logit is its number. Keeps its batches, and waits for ``go`` before each."""

    def __init__(self, max_batch_tokens: int = 100) -> None:
        self.max_batch_tokens = max_batch_tokens
        self.batches: list[list[tuple[float, int]]] = []
        self.go = threading.Semaphore(10**9)
        self.began = threading.Event()
        self.fails: Callable[[list[tuple[float, int]]], Exception | None] = lambda rows: None

    def run(self, rows: Sequence[Any]) -> Floats:
        self.began.set()
        assert self.go.acquire(timeout=TIMEOUT)
        self.batches.append(list(rows))
        error = self.fails(list(rows))
        if error is not None:
            raise error
        return np.array([number for number, _ in rows], dtype=np.float32)

    def pause(self) -> None:
        self.go = threading.Semaphore(0)
        self.began.clear()


@pytest.fixture
def batcher() -> Iterator[Batcher]:
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


def test_every_request_gets_its_own_logits_in_its_own_order(batcher: Batcher) -> None:
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


def test_batches_keep_the_budget_and_are_filled_with_pairs_of_others_that_are_nearly_as_wide(batcher: Batcher) -> None:
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


def test_a_request_is_done_before_those_that_are_due_later_get_their_turn(batcher: Batcher) -> None:
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


def test_a_pair_beyond_the_budget_is_a_batch_alone(batcher: Batcher) -> None:
    model = Model(max_batch_tokens=10)
    one = job(model, (1, 500), (2, 500))
    batcher.submit(one)
    assert one.future.result(TIMEOUT).tolist() == [1, 2]
    assert [len(batch) for batch in model.batches] == [1, 1]


def test_a_small_request_does_not_stand_behind_a_large_one(batcher: Batcher) -> None:
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


def test_small_requests_without_end_do_not_put_a_large_one_off_for_ever(batcher: Batcher) -> None:
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


def test_who_is_dropped_is_not_computed(batcher: Batcher) -> None:
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


def test_a_device_that_runs_out_of_memory_gets_smaller_batches(batcher: Batcher) -> None:
    model = Model(max_batch_tokens=100)

    def fails(rows: list[tuple[float, int]]) -> Exception | None:
        if len(rows) > 2:
            model.max_batch_tokens = min(model.max_batch_tokens, len(rows) * 10 // 2)
            return OutOfMemoryError("too much")
        return None

    model.fails = fails
    one = job(model, *((row, 10) for row in range(30)))
    batcher.submit(one)
    assert one.future.result(TIMEOUT).tolist() == list(range(30))
    assert [len(batch) for batch in model.batches][:3] == [10, 5, 2]


def test_a_pair_that_never_fits_fails_its_request_alone(batcher: Batcher) -> None:
    model = Model(max_batch_tokens=30)

    def fails(rows: list[tuple[float, int]]) -> Exception | None:
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


def test_a_failure_reaches_those_whose_pairs_fail_and_no_others(batcher: Batcher) -> None:
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


def test_too_few_logits_are_an_error_and_not_a_hang(batcher: Batcher) -> None:
    class Short(Model):
        def run(self, rows: Sequence[Any]) -> Floats:
            return super().run(rows)[:-1]

    one = job(Short(), (1, 10), (2, 10))
    batcher.submit(one)
    with pytest.raises(ValueError, match="zip"):
        one.future.result(TIMEOUT)
    other = job(Model(), (3, 10))
    batcher.submit(other)
    assert other.future.result(TIMEOUT).tolist() == [3]


def test_closing_finishes_what_waits_and_takes_nothing_more() -> None:
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


def test_what_is_not_done_when_closing_takes_too_long_is_refused() -> None:
    batcher, model = Batcher("test"), Model(max_batch_tokens=10)
    first = occupy(batcher, model)
    one = job(model, (1, 10), (2, 10))
    batcher.submit(one)
    batcher.close(0.05)
    for waiting in (first, one):
        with pytest.raises(StoppedError, match="shutting down"):
            waiting.future.result(0)
    model.go.release(10**6)


class Clock:
    """A model of 25 tokens a second, on a clock of its own; ``meanwhile`` is called in each batch."""

    def __init__(self) -> None:
        self.now = 0.0
        self.model = Model()
        self.reports: list[BatchReport] = []
        self.meanwhile: Callable[[], object] = lambda: None
        self.model.fails = self._pass
        self.batcher = Batcher("test", report=self.reports.append, clock=lambda: self.now)

    def _pass(self, rows: list[tuple[float, int]]) -> None:
        self.now += sum(width for _, width in rows) / 25
        self.meanwhile()

    def job(self, seconds: float, *widths: int) -> Job:
        return Job(self.model, [(float(row), width) for row, width in enumerate(widths)], widths, seconds)

    def warm(self) -> None:
        first = self.job(100, 26, 24)
        self.batcher.submit(first)
        first.future.result(TIMEOUT)


@pytest.fixture
def clock() -> Iterator[Clock]:
    made = Clock()
    yield made
    made.model.go.release(10**6)
    made.batcher.close(TIMEOUT)


def test_what_would_be_late_is_refused_and_told_how_late(clock: Clock) -> None:
    clock.warm()
    assert clock.reports == [BatchReport(pairs=2, tokens=52, requests=1, seconds=2.0)]
    occupied = occupy(clock.batcher, clock.model)  # 1 token is with the device
    clock.batcher.submit(clock.job(100, *[10] * 20))
    # 51 tokens take 2.04 s; the 200 that wait are due later.
    with pytest.raises(OverloadedError, match=r"about 2\.0 s of the 3\.3 s it has") as caught:
        clock.batcher.submit(clock.job(3.3, 50))
    assert caught.value.retry_after == 1
    soon = clock.job(3.5, 50)
    clock.batcher.submit(soon)
    # 400 tokens are due last: 651 take 26.04 s.
    with pytest.raises(OverloadedError, match=r"about 26\.0 s of the 30\.0 s it has") as caught:
        clock.batcher.submit(clock.job(30, *[40] * 10))
    assert caught.value.retry_after == 9  # 26.04 less 0.6 of 30
    clock.model.go.release(10**6)
    assert occupied.future.result(TIMEOUT).tolist() == [0]
    assert soon.future.result(TIMEOUT).tolist() == [0]


def test_nothing_may_overtake_a_request_that_would_then_be_late(clock: Clock) -> None:
    clock.warm()
    occupy(clock.batcher, clock.model)
    tight = clock.job(17, *[30] * 8)  # 241 tokens take 9.6 s of its 17; 0.75 of them are 318 tokens
    clock.batcher.submit(tight)
    small = clock.job(100, *[10] * 5)
    clock.batcher.submit(small)
    with pytest.raises(OverloadedError, match="would be late because of this one"):
        clock.batcher.submit(clock.job(100, 30))
    clock.model.go.release(10**6)
    tight.future.result(TIMEOUT)
    assert clock.now - tight.arrived <= 17


def test_a_request_too_large_for_its_time_gets_its_chance_alone_and_holds_nobody_up(clock: Clock) -> None:
    clock.warm()
    occupy(clock.batcher, clock.model)
    large = clock.job(1, *[10] * 20)  # 8 s of work
    clock.batcher.submit(large)
    small = clock.job(100, 10)
    clock.batcher.submit(small)
    clock.model.go.release(10**6)
    assert len(large.future.result(TIMEOUT)) == 20
    assert small.future.result(TIMEOUT).tolist() == [0]


@pytest.mark.parametrize("often", [0.5, 4])
def test_what_was_taken_is_done_in_time_however_much_comes(clock: Clock, often: int) -> None:
    generator = np.random.default_rng(1)
    came = clock.now
    taken: list[Job] = []
    ends: dict[Job, float] = {}
    refused = 0

    def done(job: Job, future: object) -> None:
        ends.setdefault(job, clock.now)

    def arrive() -> None:
        nonlocal came, refused
        while came <= min(clock.now, 2000):  # some requests are 5 times larger than others
            count = int(generator.choice([4, 8, 20]))
            came += generator.exponential(count * 20 / 25 / often)
            new = clock.job(120, *(int(width) for width in generator.integers(10, 30, count)))
            try:
                clock.batcher.submit(new)
            except OverloadedError:
                refused += 1
            else:
                taken.append(new)
                new.future.add_done_callback(partial(done, new))

    clock.warm()
    clock.meanwhile = arrive
    deadline = time.monotonic() + 60
    while came < 2000 or clock.batcher.waiting_requests:
        assert time.monotonic() < deadline
        if clock.batcher.waiting_requests:
            time.sleep(0.001)
        else:  # nothing to do until the next one comes
            clock.now = max(clock.now, came)
            arrive()
    assert len(ends) == len(taken) > 50
    assert max(end - one.arrived for one, end in ends.items()) <= 120
    assert (refused > len(taken)) == (often == 4)
