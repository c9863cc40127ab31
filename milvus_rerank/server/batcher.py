"""Batches across requests: one thread for a device, which takes what waits, whoever asked for it.

Whose turn it is: the clock counts tokens served, a request is due when as many have been served since it came as it has
itself, and the one that is due first makes the next batch. So a request of 5 documents does not stand behind one of
1000, and the latter is overtaken by about as many tokens as its own at most. (To share the device evenly among all that
wait would be as simple, but with 16 clients it made requests of 5000 tokens take 11 s that need 0.7 s alone.)

A batch is cut by a budget of tokens from that request's pairs, and filled with pairs of others that are nearly as wide.
"""

import logging
import threading
import time
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from itertools import count
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from milvus_rerank.errors import OutOfMemoryError, StoppedError

logger = logging.getLogger(__name__)

_MEMORY = 0.9
"""How much of the former figure stays in the running mean of the speed after each batch."""

_PADDING = 0.08
"""How much of a batch's budget may be padding: a batch more costs about as much as that."""


class Batchable(Protocol):
    """A model as the batcher sees it."""

    @property
    def max_batch_tokens(self) -> int:
        """The budget of a batch, padding included; smaller after the device ran out of memory."""
        ...

    def run(self, rows: Sequence[Any]) -> NDArray[np.float32]:
        """Score rows within the budget.

        :param rows: pairs as the model itself prepared them.
        :returns: one logit for each.
        :raises OutOfMemoryError: if they do not fit the device; the budget is then smaller than it was.
        """
        ...


@dataclass(eq=False, slots=True)
class Job:
    """One request's pairs on their way through a batcher.

    :param model: what scores them.
    :param rows: the pairs as the model prepared them.
    :param widths: how many tokens wide a batch must be to hold each.
    """

    model: Batchable
    rows: Sequence[Any]
    widths: Sequence[int]
    future: "Future[NDArray[np.float32]]" = field(default_factory=Future)
    logits: NDArray[np.float32] = field(init=False)
    left: int = field(init=False)
    due: float = 0.0  # when its turn comes, in tokens served
    arrived: float = 0.0
    started: float | None = None  # when its first batch began

    def __post_init__(self) -> None:
        self.logits = np.empty(len(self.rows), dtype=np.float32)
        self.left = len(self.rows)


class _Place(NamedTuple):
    """A pair that waits; sorted by width, then by arrival. Numbers differ, so jobs are never compared."""

    width: int
    number: int
    job: Job
    row: int


@dataclass(frozen=True, slots=True)
class BatchReport:
    """What a batch was, for metrics.

    :param pairs: how many pairs.
    :param tokens: its size, padding included.
    :param requests: how many requests they came from.
    :param seconds: how long the model took.
    """

    pairs: int
    tokens: int
    requests: int
    seconds: float


class Batcher:
    """Score the pairs of many requests on one device.

    :param name: the device's, for the thread.
    :param report: told of each batch.
    :param clock: seconds; another one in tests.
    """

    def __init__(
        self,
        name: str,
        *,
        report: Callable[[BatchReport], object] = lambda report: None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._report = report
        self._clock = clock
        self._changed = threading.Condition()
        self._waiting: dict[Batchable, list[_Place]] = defaultdict(list)
        self._jobs: dict[Job, int] = {}  # those without an answer, each with its tokens that wait
        self._numbers = count()
        self._served = 0
        self._speed: float | None = None
        self._closed = False
        self._thread = threading.Thread(target=self._work, name=f"batcher-{name}", daemon=True)
        self._thread.start()

    @property
    def waiting_tokens(self) -> int:
        """Tokens of pairs that are not in a batch yet."""
        with self._changed:
            return sum(self._jobs.values())

    @property
    def waiting_requests(self) -> int:
        """Requests that have pairs without a score."""
        with self._changed:
            return len(self._jobs)

    def seconds_for(self, tokens: int) -> float | None:
        """Return how long a request of so many tokens would take from now at most, None as long as nobody knows.

        First come those that are due before it, and then later ones may overtake it by as many tokens as its own.
        """
        with self._changed:
            if self._speed is None:
                return None
            ahead = sum(own for job, own in self._jobs.items() if job.due <= self._served + tokens)
            return (ahead + tokens + (tokens if self._jobs else 0)) / self._speed

    def submit(self, job: Job) -> None:
        """Queue a request's pairs; ``job.future`` gets their logits.

        :param job: one with at least one pair.
        :raises StoppedError: if the batcher is closed.
        """
        places = [_Place(width, next(self._numbers), job, row) for row, width in enumerate(job.widths)]
        tokens = sum(job.widths)
        with self._changed:
            if self._closed:
                raise StoppedError("the server is shutting down")
            job.arrived = self._clock()
            job.due = self._served + tokens
            self._jobs[job] = tokens
            waiting = self._waiting[job.model]
            waiting.extend(places)
            waiting.sort()  # two sorted runs and a few: about linear
            self._changed.notify_all()

    def drop(self, job: Job) -> None:
        """Forget what waits of a request whose client is gone; what is in a batch is run in vain."""
        with self._changed:
            self._forget(job)
        job.future.cancel()

    def close(self, seconds: float) -> None:
        """Take nothing more, finish what waits, and refuse what is left after so many seconds."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
            self._changed.wait_for(lambda: not self._jobs, timeout=seconds)
            left = list(self._jobs)
            for job in left:
                self._forget(job)
        for job in left:
            _fail(job, StoppedError("the server is shutting down"))
        self._thread.join(timeout=1.0)  # a batch that runs now is not worth more: nobody waits for it

    def _work(self) -> None:
        while (batch := self._next()) is not None:
            try:
                self._run(batch)
            except BaseException as error:  # whatever it was: those who wait must hear of it, and others go on
                logger.error("a batch failed: %s", type(error).__name__)  # a message might hold somebody's text
                for job in {place.job for place in batch}:
                    self._finish(job, error)

    def _next(self) -> list[_Place] | None:
        """Wait for pairs and take a batch; None when closed and done."""
        with self._changed:
            self._changed.wait_for(lambda: any(self._jobs.values()) or self._closed)
            ready = [job for job, tokens in self._jobs.items() if tokens]
            if not ready:
                return None
            batch = self._cut(min(ready, key=lambda job: job.due))
            now = self._clock()
            for place in batch:
                if place.job.started is None:
                    place.job.started = now
                self._jobs[place.job] -= place.width
            self._served += sum(place.width for place in batch)
            return batch

    def _cut(self, first: Job) -> list[_Place]:
        """Take a request's widest pairs, then those of others that are nearly as wide, up to the budget.

        Its own first: pairs of others in their stead would delay it without end, as there are always some.
        """
        waiting = self._waiting[first.model]
        budget = first.model.max_batch_tokens
        own = [index for index, place in enumerate(waiting) if place.job is first]
        widest = waiting[own[-1]].width
        rows = max(1, budget // widest)
        padding = int(budget * _PADDING)
        end = bisect_right(waiting, widest, key=lambda place: place.width)
        others = (index for index in range(end - 1, -1, -1) if waiting[index].job is not first)
        taken: list[int] = []
        for candidates in (reversed(own), others):
            for index in candidates:
                cost = widest - waiting[index].width
                if cost > padding or len(taken) == rows:
                    break
                padding -= cost
                taken.append(index)
        batch = [waiting[index] for index in sorted(taken)]
        for index in sorted(taken, reverse=True):
            del waiting[index]
        return batch

    def _run(self, batch: list[_Place]) -> None:
        model = batch[0].job.model
        started = self._clock()
        try:
            logits = model.run([place.job.rows[place.row] for place in batch])
        except OutOfMemoryError as error:
            self._put_back(batch, error)
            return
        except Exception as error:
            self._run_apart(batch, error)
            return
        self._done(batch, logits, self._clock() - started)

    def _put_back(self, batch: list[_Place], error: OutOfMemoryError) -> None:
        """Queue a batch that did not fit again; a pair that does not fit alone fails its request."""
        if len(batch) == 1:
            self._finish(batch[0].job, error)
            return
        with self._changed:
            for place in batch:
                if place.job in self._jobs:
                    self._jobs[place.job] += place.width
                    self._waiting[place.job.model].append(place)
            self._waiting[batch[0].job.model].sort()

    def _run_apart(self, batch: list[_Place], error: Exception) -> None:
        """Run each request's pairs of a failed batch alone, so that one request does not bring down the others."""
        groups: dict[Job, list[_Place]] = defaultdict(list)
        for place in batch:
            groups[place.job].append(place)
        if len(groups) == 1:
            self._finish(batch[0].job, error)
            return
        for group in groups.values():
            self._run(group)

    def _done(self, batch: list[_Place], logits: NDArray[np.float32], seconds: float) -> None:
        for place, logit in zip(batch, logits, strict=True):
            place.job.logits[place.row] = logit
            place.job.left -= 1
        jobs = {place.job for place in batch}
        self._report(BatchReport(len(batch), max(place.width for place in batch) * len(batch), len(jobs), seconds))
        if seconds > 0:
            speed = sum(place.width for place in batch) / seconds
            with self._changed:
                self._speed = speed if self._speed is None else _MEMORY * self._speed + (1 - _MEMORY) * speed
        for job in jobs:
            if not job.left:
                self._finish(job, None)

    def _finish(self, job: Job, error: BaseException | None) -> None:
        with self._changed:
            self._forget(job)
        if error is not None:
            _fail(job, error)
        elif not job.future.done() and job.future.set_running_or_notify_cancel():
            job.future.set_result(job.logits)

    def _forget(self, job: Job) -> None:
        if self._jobs.pop(job, None):  # it has pairs that wait
            waiting = self._waiting[job.model]
            waiting[:] = [place for place in waiting if place.job is not job]
        self._changed.notify_all()


def _fail(job: Job, error: BaseException) -> None:
    if not job.future.done() and job.future.set_running_or_notify_cancel():
        job.future.set_exception(error)
