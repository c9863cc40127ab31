"""Retry settings, time limits, and the clock."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

from milvus_rerank.errors import InputError
from milvus_rerank.validation import check_count


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """Number of attempts of a request, and the pauses between them.

    :param attempts: the most attempts of a request.
    :param max_wait: the longest pause in seconds. Pauses are random: up to 1, 2, 4, ... seconds.
    :param max_retry_after: the longest ``Retry-After`` to wait for, in seconds. A longer value fails at once.
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
    """Limits of a call.

    :param timeout: the seconds for an attempt, from connecting to the end of the answer. A sync call checks the clock
        only when data arrives, so a service that sends its headers slowly may exceed the limit.
    :param deadline: the seconds for a whole call, with all its requests, attempts and pauses; None for no limit.
    :param attempts: the most attempts of a request, or a :class:`RetryPolicy`.
    :param concurrency: the most concurrent requests of a call.
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
    """A clock; tests pass a fake and do not wait.

    :param now: returns monotonic seconds, for deadlines.
    :param utc: returns seconds since 1970, to compare with dates from services that do not send the current time.
    :param pause: called with the seconds instead of waiting; None to wait.
    """

    now: Callable[[], float] = time.monotonic
    utc: Callable[[], float] = time.time
    pause: Callable[[float], None] | None = None


def _check_seconds(value: object, name: str) -> None:
    number = float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else math.nan
    if not math.isfinite(number) or number <= 0:
        raise InputError(f"{name} must be a positive number of seconds, got {value!r}")
