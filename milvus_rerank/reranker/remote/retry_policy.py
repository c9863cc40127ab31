"""Retry settings, time limits, and the clock that measures them."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

from milvus_rerank.errors import InputError
from milvus_rerank.validation import check_count


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How often to send a request, and how long to wait in between.

    :param attempts: the most times a request is sent.
    :param max_wait: the longest pause in seconds. Pauses are random: up to 1, 2, 4, ... seconds.
    :param max_retry_after: the longest ``Retry-After`` to wait for, in seconds. A longer one is an error at once.
    """

    attempts: int = 4
    max_wait: float = 8.0
    max_retry_after: float = 30.0

    def __post_init__(self) -> None:
        check_count(self.attempts, "attempts")
        _check_seconds(self.max_wait, "max_wait")
        _check_seconds(self.max_retry_after, "max_retry_after")


@dataclass(frozen=True, slots=True)
class CallLimits:
    """Limits of one call.

    :param timeout: seconds for one attempt, from connecting to the end of the answer. A plain call checks the clock
        only when data arrives, so a service that trickles its headers may hold it longer.
    :param deadline: seconds for a whole call, with all its requests, attempts and pauses; None for no limit.
    :param attempts: the most times a request is sent, or a :class:`RetryPolicy`.
    :param concurrency: the most requests of one call at once.
    """

    timeout: float = 30.0
    deadline: float | None = None
    attempts: int | RetryPolicy = 4
    concurrency: int = 4

    def __post_init__(self) -> None:
        _check_seconds(self.timeout, "timeout")
        if self.deadline is not None:
            _check_seconds(self.deadline, "deadline")
        check_count(self.concurrency, "concurrency")
        check_count(self.retries.attempts, "attempts")

    @property
    def retries(self) -> RetryPolicy:
        """The retry settings."""
        return self.attempts if isinstance(self.attempts, RetryPolicy) else RetryPolicy(self.attempts)


@dataclass(frozen=True, slots=True)
class Clock:
    """The time; tests pass their own, and need not wait.

    :param now: monotonic seconds, for deadlines.
    :param utc: seconds since 1970, for the dates of services that do not say their own time.
    :param pause: called instead of waiting, with the seconds; None to wait.
    """

    now: Callable[[], float] = time.monotonic
    utc: Callable[[], float] = time.time
    pause: Callable[[float], None] | None = None


def _check_seconds(value: object, name: str) -> None:
    number = float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else math.nan
    if not math.isfinite(number) or number <= 0:
        raise InputError(f"{name} must be a positive number of seconds, got {value!r}")
