"""Batches across requests: one thread for a device, which takes what waits, whoever asked for it.

A request is taken if it will be done in time and makes none late that was taken before: what waits, whose turn it is
(see :mod:`milvus_rerank.server.queue`) and how many tokens the device does in a second tell so beforehand.
"""

import logging
import threading
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from milvus_rerank.errors import OutOfMemoryError, OverloadedError, StoppedError
from milvus_rerank.server.queue import Job, Queue, WaitingRow

logger = logging.getLogger(__name__)

_MEMORY = 0.9
"""How much of what former batches say of the speed stays after each batch."""

_HEADROOM = 0.6
"""A request is taken if it will be done in this part of its time: a shorter queue keeps a device as busy as a long one.

The speed is not the same from minute to minute: with 0.75, and other work on the machine, 36 of 402 taken were late."""

_TIGHT = 0.75
"""Nothing may overtake a request that would then need more than this part of the time it still has."""


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
        self._queue = Queue()
        self._tokens = self._seconds = 0.0  # of the last batches, the last one counting most: their ratio is the speed
        self._mark = 0.0  # since when the device has been at what it does now
        self._closed = False
        self._thread = threading.Thread(target=self._work, name=f"batcher-{name}", daemon=True)
        self._thread.start()

    @property
    def waiting_tokens(self) -> int:
        """Tokens of pairs that are not in a batch yet."""
        with self._changed:
            return self._queue.tokens

    @property
    def waiting_requests(self) -> int:
        """Requests that have pairs without a score."""
        with self._changed:
            return len(self._queue)

    def submit(self, job: Job) -> None:
        """Queue a request's pairs; ``job.future`` gets their logits.

        :param job: one with at least one pair.
        :raises OverloadedError: if it would be late, or make another late that was promised to be in time.
        :raises StoppedError: if the batcher is closed.
        """
        with self._changed:
            if self._closed:
                raise StoppedError("the server is shutting down")
            job.arrived = self._clock()
            self._check(job)
            self._queue.add(job)
            self._changed.notify_all()

    def _check(self, new: Job) -> None:
        """Refuse at once what would only wait to be late; where nothing waits, any request gets its chance."""
        for job, tokens in self._queue.schedule(new) if self._tokens else ():
            seconds = tokens * self._seconds / self._tokens
            if job is new:
                new.promised = seconds <= _HEADROOM * new.seconds
                if not new.promised and self._queue.tokens:
                    raise OverloadedError(
                        f"with what waits already this request would take about {seconds:.1f} s "
                        f"of the {new.seconds:.1f} s it has",
                        seconds - _HEADROOM * new.seconds,
                    )
            elif job.promised and seconds > _TIGHT * (job.arrived + job.seconds - new.arrived):
                raise OverloadedError("requests that wait already would be late because of this one", seconds)

    def drop(self, job: Job) -> None:
        """Forget what waits of a request whose client is gone; what is in a batch is run in vain."""
        with self._changed:
            self._queue.forget(job)
            self._changed.notify_all()
        job.future.cancel()

    def close(self, seconds: float) -> None:
        """Take nothing more, finish what waits, and refuse what is left after so many seconds."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
            self._changed.wait_for(lambda: not len(self._queue), timeout=seconds)
            left = list(self._queue)
            for job in left:
                self._queue.forget(job)
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

    def _next(self) -> list[WaitingRow] | None:
        """Wait for pairs and take a batch; None when closed and done."""
        with self._changed:
            self._queue.running = 0
            idle = not self._queue.tokens
            self._changed.wait_for(lambda: self._queue.tokens or self._closed)
            batch = self._queue.take()
            now = self._clock()
            if idle:
                self._mark = now
            for place in batch:
                if place.job.started is None:
                    place.job.started = now
            return batch or None

    def _run(self, batch: list[WaitingRow]) -> None:
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
        self._done(batch, logits, started)

    def _put_back(self, batch: list[WaitingRow], error: OutOfMemoryError) -> None:
        """Queue a batch that did not fit again; a pair that does not fit alone fails its request."""
        if len(batch) == 1:
            self._finish(batch[0].job, error)
            return
        with self._changed:
            self._queue.put_back(batch)

    def _run_apart(self, batch: list[WaitingRow], error: Exception) -> None:
        """Run each request's pairs of a failed batch alone, so that one request does not bring down the others."""
        groups: dict[Job, list[WaitingRow]] = defaultdict(list)
        for place in batch:
            groups[place.job].append(place)
        if len(groups) == 1:
            self._finish(batch[0].job, error)
            return
        for group in groups.values():
            self._run(group)

    def _done(self, batch: list[WaitingRow], logits: NDArray[np.float32], started: float) -> None:
        for place, logit in zip(batch, logits, strict=True):
            place.job.logits[place.row] = logit
            place.job.left -= 1
        jobs = {place.job for place in batch}
        now = self._clock()
        self._report(
            BatchReport(len(batch), max(place.width for place in batch) * len(batch), len(jobs), now - started)
        )
        with self._changed:
            self._tokens = _MEMORY * self._tokens + sum(place.width for place in batch)
            self._seconds, self._mark = _MEMORY * self._seconds + now - self._mark, now
        for job in jobs:
            if not job.left:
                self._finish(job, None)

    def _finish(self, job: Job, error: BaseException | None) -> None:
        with self._changed:
            self._queue.forget(job)
            self._changed.notify_all()
        if error is not None:
            _fail(job, error)
        elif not job.future.done() and job.future.set_running_or_notify_cancel():
            job.future.set_result(job.logits)


def _fail(job: Job, error: BaseException) -> None:
    if not job.future.done() and job.future.set_running_or_notify_cancel():
        job.future.set_exception(error)
