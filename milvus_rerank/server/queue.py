"""What waits for a device, and whose turn it is.

The clock counts tokens served, a request is due when as many have been served since it came as it has itself, and the
one that is due first makes the next batch. So a request of 5 documents does not stand behind one of 1000, and the
latter is overtaken by about as many tokens as its own. (To share the device evenly among all that wait would be as
simple, but with 16 clients it made requests of 5000 tokens take 11 s that need 0.7 s alone.)

A batch is cut by a budget of tokens from that request's pairs, and filled with pairs of others that are nearly as wide.
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
    :param seconds: how long it may take from its arrival.
    """

    model: Batchable
    rows: Sequence[Any]
    widths: Sequence[int]
    seconds: float = math.inf
    future: "Future[NDArray[np.float32]]" = field(default_factory=Future)
    logits: NDArray[np.float32] = field(init=False)
    left: int = field(init=False)
    due: float = 0.0  # when its turn comes, in tokens served
    arrived: float = 0.0
    started: float | None = None  # when its first batch began
    promised: bool = False  # that it will be done in time: nothing that comes later may make it late

    def __post_init__(self) -> None:
        self.logits = np.empty(len(self.rows), dtype=np.float32)
        self.left = len(self.rows)


class WaitingRow(NamedTuple):
    """A pair that waits; sorted by width, then by arrival. Numbers differ, so jobs are never compared."""

    width: int
    number: int
    job: Job
    row: int


class Queue:
    """The pairs that wait, and those being scored. It has no lock of its own."""

    def __init__(self) -> None:
        self._waiting: dict[Batchable, list[WaitingRow]] = defaultdict(list)
        self._jobs: dict[Job, int] = {}  # those without an answer, each with its tokens that wait
        self._numbers = count()
        self._served = 0
        self.running = 0  # tokens of the batch that is with the device

    def __len__(self) -> int:
        """Return how many requests have pairs without a score."""
        return len(self._jobs)

    def __iter__(self) -> Iterator[Job]:
        """Return those requests, in the order of their arrival."""
        return iter(list(self._jobs))

    def __contains__(self, job: Job) -> bool:
        """Return whether a request has pairs without a score."""
        return job in self._jobs

    @property
    def tokens(self) -> int:
        """Tokens of pairs that are not in a batch yet."""
        return sum(self._jobs.values())

    def add(self, job: Job) -> None:
        """Queue a request's pairs."""
        tokens = sum(job.widths)
        job.due = self._served + tokens
        self._jobs[job] = tokens
        waiting = self._waiting[job.model]
        waiting.extend(WaitingRow(width, next(self._numbers), job, row) for row, width in enumerate(job.widths))
        waiting.sort()  # two sorted runs and a few: about linear

    def schedule(self, new: Job) -> Iterator[tuple[Job, int]]:
        """Return who is done when, were another request taken: itself and those behind it, with tokens until then."""
        tokens = sum(new.widths)
        due = self._served + tokens
        ahead = self.running + sum(own for job, own in self._jobs.items() if job.due <= due) + tokens
        yield new, ahead
        for job, own in sorted(self._jobs.items(), key=lambda item: item[0].due):
            if own and job.due > due:
                ahead += own
                yield job, ahead

    def take(self) -> list[WaitingRow]:
        """Take the next batch; an empty one if nothing waits."""
        ready = [job for job, tokens in self._jobs.items() if tokens]
        batch = self._cut(min(ready, key=lambda job: job.due)) if ready else []
        for place in batch:
            self._jobs[place.job] -= place.width
        self.running = sum(place.width for place in batch)
        self._served += self.running
        return batch

    def _cut(self, first: Job) -> list[WaitingRow]:
        """Take a request's widest pairs, then those of others that are nearly as wide, up to the budget.

        Its own first: pairs of others in their stead would delay it without end, as there are always some. Among others
        those that are due next: to begin many requests delays them all.
        """
        waiting = self._waiting[first.model]
        own = [index for index, place in enumerate(waiting) if place.job is first]
        widest = waiting[own[-1]].width
        rows = max(1, first.model.max_batch_tokens // widest)
        padding = int(first.model.max_batch_tokens * _PADDING)
        taken: list[int] = []

        def take(indices: Iterable[int]) -> None:
            nonlocal padding
            for index in indices:
                cost = widest - waiting[index].width
                if cost > padding or len(taken) == rows:
                    break
                padding -= cost
                taken.append(index)

        take(reversed(own))
        if len(taken) < rows:
            near = bisect_left(waiting, widest - padding // (rows - len(taken)), key=lambda place: place.width)
            end = bisect_right(waiting, widest, key=lambda place: place.width)
            others = (index for index in range(near, end) if waiting[index].job is not first)
            take(nsmallest(rows - len(taken), others, key=lambda index: waiting[index].job.due))
            take(index for index in range(near - 1, -1, -1) if waiting[index].job is not first)
        batch = [waiting[index] for index in sorted(taken)]
        for index in sorted(taken, reverse=True):
            del waiting[index]
        return batch

    def put_back(self, batch: Sequence[WaitingRow]) -> None:
        """Queue pairs of a batch again, but for those of requests that are gone."""
        for place in batch:
            if place.job in self._jobs:
                self._jobs[place.job] += place.width
                self._waiting[place.job.model].append(place)
        self._waiting[batch[0].job.model].sort()

    def forget(self, job: Job) -> None:
        """Take a request out, whatever of it waits."""
        if self._jobs.pop(job, None):  # it has pairs that wait
            waiting = self._waiting[job.model]
            waiting[:] = [place for place in waiting if place.job is not job]
