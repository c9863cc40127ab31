"""Queue of the pairs that wait for a device, and the order of their requests.

Time is counted in served tokens. A request is due once the device has served as many tokens since the request's arrival
as the request has itself. The request that is due first forms the next batch. So a request of 5 documents does not wait
behind a request of 1000, and other requests overtake the latter by about as many tokens as it has. (Sharing the device
evenly among all waiting requests would be as simple, but with 16 clients, requests of 5000 tokens then took 11 s that
take 0.7 s alone.)

A batch takes pairs of that request up to a token budget; nearly as wide pairs of other requests fill it up.
"""

import math
from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from heapq import nsmallest
from itertools import count
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

_PADDING = 0.08
"""Fraction of a batch's budget that may be padding: another batch costs about as much."""


class Batchable(Protocol):
    """Interface of a model for the batcher."""

    @property
    def max_batch_tokens(self) -> int:
        """Token budget of a batch, padding included; smaller after the device ran out of memory."""
        ...

    def run(self, rows: Sequence[Any]) -> NDArray[np.float32]:
        """Return one logit per row of a batch within the budget."""
        ...


@dataclass(eq=False, slots=True)
class Job:
    """Pairs of one request for a batcher.

    :param model: the model that scores them.
    :param rows: the pairs as the model prepared them.
    :param widths: for each row, the width in tokens that a batch must have to hold it.
    :param seconds: the time limit in seconds from the job's arrival.
    """

    model: Batchable
    rows: Sequence[Any]
    widths: Sequence[int]
    seconds: float = math.inf
    future: "Future[NDArray[np.float32]]" = field(default_factory=Future)
    logits: NDArray[np.float32] = field(init=False)  # set by the queue, like all that follow
    left: int = 0  # the number of rows without a logit
    due: float = 0.0  # the count of served tokens at which its turn comes
    arrived: float = 0.0
    started: float | None = None  # start of its first batch
    promised: bool = False  # to finish in time: no later request may make it late


class WaitingRow(NamedTuple):
    """A waiting pair, sorted by width, then by arrival. Numbers are unique, so jobs are never compared."""

    width: int
    number: int
    job: Job
    row: int


class Queue:
    """Waiting pairs and those being scored. The class does no locking: the caller holds a lock."""

    def __init__(self) -> None:
        self.jobs: dict[Job, int] = {}  # unfinished jobs in the order of arrival, each with its waiting tokens
        self.tokens = 0  # the sum of these
        self.running = 0  # tokens of the batch that runs on the device
        self._waiting: dict[Batchable, list[WaitingRow]] = defaultdict(list)
        self._numbers = count()
        self._served = 0

    def add(self, job: Job) -> None:
        """Queue a request's pairs."""
        job.logits, job.left = np.empty(len(job.rows), dtype=np.float32), len(job.rows)
        tokens = sum(job.widths)
        job.due = self._served + tokens
        self.jobs[job] = tokens
        self.tokens += tokens
        waiting = self._waiting[job.model]
        waiting.extend(WaitingRow(width, next(self._numbers), job, row) for row, width in enumerate(job.widths))
        waiting.sort()  # a sorted run plus the new rows: about linear time

    def schedule(self, new: Job) -> Iterator[tuple[Job, int]]:
        """Yield the new request and those due after it, each with the tokens to serve until it is finished."""
        new_tokens = sum(new.widths)
        due = self._served + new_tokens
        ahead = self.running + sum(tokens for job, tokens in self.jobs.items() if job.due <= due) + new_tokens
        yield new, ahead
        for job, tokens in sorted(self.jobs.items(), key=lambda item: item[0].due):
            if tokens and job.due > due:
                ahead += tokens
                yield job, ahead

    def take(self) -> list[WaitingRow]:
        """Take the next batch; an empty list if no pairs wait.

        It holds the widest pairs of the request that is due first, then nearly as wide pairs of other requests, up to
        the budget. The request's pairs come first: pairs of others are always waiting and would delay it without end.
        Of the other requests, those that are due next come first: starting many requests delays them all.
        """
        self.running = 0
        if not self.tokens:
            return []
        first = min((job for job, tokens in self.jobs.items() if tokens), key=lambda job: job.due)
        waiting = self._waiting[first.model]
        first_rows = [index for index, row in enumerate(waiting) if row.job is first]
        widest = waiting[first_rows[-1]].width
        most_rows = max(1, first.model.max_batch_tokens // widest)
        padding = int(first.model.max_batch_tokens * _PADDING)
        taken: list[int] = []

        def take(indices: Iterable[int]) -> None:
            nonlocal padding
            for index in indices:
                cost = widest - waiting[index].width
                if cost > padding or len(taken) == most_rows:
                    break
                padding -= cost
                taken.append(index)

        take(reversed(first_rows))
        if len(taken) < most_rows:
            near = bisect_left(waiting, widest - padding // (most_rows - len(taken)), key=lambda row: row.width)
            end = bisect_right(waiting, widest, key=lambda row: row.width)
            others = (index for index in range(near, end) if waiting[index].job is not first)
            take(nsmallest(most_rows - len(taken), others, key=lambda index: waiting[index].job.due))
            take(index for index in range(near - 1, -1, -1) if waiting[index].job is not first)
        batch = [waiting[index] for index in sorted(taken)]
        for index in sorted(taken, reverse=True):
            self.jobs[waiting[index].job] -= waiting[index].width
            del waiting[index]
        if not waiting:
            del self._waiting[first.model]  # an instruction's model may never come again
        self.running = sum(row.width for row in batch)
        self.tokens -= self.running
        self._served += self.running
        return batch

    def put_back(self, batch: Sequence[WaitingRow]) -> None:
        """Queue the pairs of a batch again, except those of requests that have left the queue."""
        for row in batch:
            if row.job in self.jobs:
                self.jobs[row.job] += row.width
                self.tokens += row.width
                self._waiting[row.job.model].append(row)
        self._waiting[batch[0].job.model].sort()

    def forget(self, job: Job) -> None:
        """Remove a request and its waiting pairs."""
        if tokens := self.jobs.pop(job, 0):
            self.tokens -= tokens
            waiting = self._waiting[job.model]
            waiting[:] = [row for row in waiting if row.job is not job]
            if not waiting:
                del self._waiting[job.model]
