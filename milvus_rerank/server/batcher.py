"""Batching across requests: one thread per device takes batches from the pairs of all waiting requests.

A request is admitted if it will finish in time and delays no admitted request beyond its deadline. The batcher predicts
this from the waiting pairs, their order (see :mod:`milvus_rerank.server.queue`) and the device's tokens per second.
"""

import logging
import math
import threading
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass

from milvus_rerank.errors import OutOfMemoryError, OverloadedError, StoppedError
from milvus_rerank.server.queue import Job, Queue, WaitingRow

logger = logging.getLogger(__name__)

_MEMORY = 0.9
"""Weight that the measurements of earlier batches keep in the speed estimate after each batch."""

_HEADROOM = 0.6
"""Fraction of its time limit in which a request must be predicted to finish to be admitted.

A short queue keeps a device as busy as a long one. The speed varies from minute to minute: with 0.75, and other work on
the machine, 36 of 402 admitted requests were late."""

_TIGHT = 0.75
"""No request may overtake another that would then need more than this fraction of its remaining time."""


@dataclass(frozen=True, slots=True)
class BatchReport:
    """Size and duration of a batch, for metrics.

    :param pairs: the number of pairs.
    :param tokens: the number of tokens, padding included.
    :param requests: the number of requests that the pairs came from.
    :param seconds: the duration of the forward pass in seconds.
    """

    pairs: int
    tokens: int
    requests: int
    seconds: float


class Batcher:
    """Score the pairs of many requests on one device.

    :param name: the device's name, for the thread's name.
    :param report: called with a report after each batch.
    :param clock: returns seconds; tests pass their own.
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
        self._tokens = self._seconds = 0.0  # decayed sums over past batches: their ratio is the speed
        self._mark = 0.0  # when the device began its current work
        self._closed = False
        self._thread = threading.Thread(target=self._work, name=f"batcher-{name}", daemon=True)
        self._thread.start()

    @property
    def waiting_tokens(self) -> int:
        """Number of tokens of pairs that are not in a batch yet."""
        return self._queue.tokens

    @property
    def waiting_requests(self) -> int:
        """Number of requests that have pairs without a score."""
        return len(self._queue.jobs)

    def submit(self, new: Job, most_tokens: float = math.inf) -> None:
        """Queue a request's pairs; ``new.future`` gets their logits. With an empty queue, any request is admitted.

        :param new: a job with at least one pair.
        :param most_tokens: the most tokens that may wait.
        :raises OverloadedError: if too many tokens wait, or the request would be late, or would delay another that was
            promised to finish in time.
        :raises StoppedError: if the batcher is closed.
        """
        with self._changed:
            if self._closed:
                raise StoppedError("the server is shutting down")
            waiting, tokens = self._queue.tokens, sum(new.widths)
            if waiting and waiting + tokens > most_tokens:
                raise OverloadedError(f"{waiting} tokens are waiting already, and this request has {tokens}", 1)
            new.arrived = self._clock()
            for job, ahead in self._queue.schedule(new) if self._tokens else ():
                seconds = ahead * self._seconds / self._tokens
                if job is new:
                    new.promised = seconds <= _HEADROOM * new.seconds
                    if not new.promised and waiting:
                        raise OverloadedError(
                            f"with what waits already this request would take about {seconds:.1f} s "
                            f"of the {new.seconds:.1f} s it has",
                            seconds - _HEADROOM * new.seconds,
                        )
                elif job.promised and seconds > _TIGHT * (job.arrived + job.seconds - new.arrived):
                    raise OverloadedError("requests that wait already would be late because of this one", seconds)
            self._queue.add(new)
            self._changed.notify_all()

    def drop(self, job: Job) -> None:
        """Drop the waiting pairs of a request whose client has left; its pairs in a running batch finish unused."""
        with self._changed:
            self._queue.forget(job)
            self._changed.notify_all()
        job.future.cancel()

    def close(self, seconds: float) -> None:
        """Refuse new requests, finish waiting ones, and fail those that remain after this many seconds."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
            self._changed.wait_for(lambda: not self._queue.jobs, timeout=seconds)
            unfinished = list(self._queue.jobs)
        for job in unfinished:
            self._finish(job, StoppedError("the server is shutting down"))
        self._thread.join(timeout=1.0)  # do not wait longer for a running batch: its requests have failed already

    def _work(self) -> None:
        while batch := self._next():
            try:
                self._run(batch)
            except BaseException as error:  # noqa: BLE001  any error at all must reach the waiting requests; the thread goes on
                logger.error("a batch failed: %s", type(error).__name__)  # the message might hold a user's text
                for job in {row.job for row in batch}:
                    self._finish(job, error)

    def _next(self) -> list[WaitingRow]:
        """Wait for pairs and take a batch; it is empty when the batcher is closed and the queue is empty."""
        with self._changed:
            self._queue.running = 0
            idle = not self._queue.tokens
            self._changed.wait_for(lambda: self._queue.tokens or self._closed)
            batch = self._queue.take()
            now = self._clock()
            if idle:
                self._mark = now
            for row in batch:
                if row.job.started is None:
                    row.job.started = now
            return batch

    def _run(self, batch: list[WaitingRow]) -> None:
        started = self._clock()
        try:
            logits = batch[0].job.model.run([waiting.job.rows[waiting.row] for waiting in batch])
        except Exception as error:  # noqa: BLE001  out of memory among others; _recover decides
            self._recover(batch, error)
            return
        for waiting, logit in zip(batch, logits, strict=True):
            waiting.job.logits[waiting.row] = logit
            waiting.job.left -= 1
        jobs = {row.job for row in batch}
        now = self._clock()
        self._report(BatchReport(len(batch), max(row.width for row in batch) * len(batch), len(jobs), now - started))
        with self._changed:
            self._tokens = _MEMORY * self._tokens + sum(row.width for row in batch)
            self._seconds, self._mark = _MEMORY * self._seconds + now - self._mark, now
        for job in jobs:
            if not job.left:
                self._finish(job)

    def _recover(self, batch: list[WaitingRow], error: Exception) -> None:
        """Queue a batch that did not fit into memory again; run the requests of another failed batch separately.

        So one request does not fail the others. A pair that does not fit alone fails its request.
        """
        if isinstance(error, OutOfMemoryError) and len(batch) > 1:
            with self._changed:
                self._queue.put_back(batch)
            return
        rows_by_job: dict[Job, list[WaitingRow]] = defaultdict(list)
        for row in batch:
            rows_by_job[row.job].append(row)
        if len(rows_by_job) == 1:
            self._finish(batch[0].job, error)
            return
        for rows in rows_by_job.values():
            self._run(rows)

    def _finish(self, job: Job, error: BaseException | None = None) -> None:
        with self._changed:
            self._queue.forget(job)
            self._changed.notify_all()
        if not job.future.done() and job.future.set_running_or_notify_cancel():
            if error is None:
                job.future.set_result(job.logits)
            else:
                job.future.set_exception(error)
