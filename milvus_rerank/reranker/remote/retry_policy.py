"""How long, how often and how much at once a service is asked; and the clock that this is measured with."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

from milvus_rerank.errors import InputError
from milvus_rerank.inputs import check_count


@dataclass(frozen=True, slots=True)
class Policy:
    """What one call may take.

    :param timeout: seconds for one attempt, from connecting to the end of the answer. A plain call looks at the clock
        only when something has come, so a service that trickles its headers may hold it for longer.
    :param deadline: seconds for a whole call, all its requests, attempts and pauses; None for no limit.
    :param attempts: how often a request is sent before it is given up.
    :param concurrency: how many requests of one call are under way at once.
    :param max_wait: the longest pause in seconds; a service that asks for a longer one is given up at once.
    """

    timeout: float = 30.0
    deadline: float | None = None
    attempts: int = 4
    concurrency: int = 4
    max_wait: float = 30.0

    def __post_init__(self) -> None:
        _check_seconds(self.timeout, "timeout")
        if self.deadline is not None:
            _check_seconds(self.deadline, "deadline")
        _check_seconds(self.max_wait, "max_wait")
        check_count(self.attempts, "attempts")
        check_count(self.concurrency, "concurrency")


@dataclass(frozen=True, slots=True)
class Clock:
    """The time, as an argument, so that tests need not wait.

    :param now: seconds that only grow, for deadlines.
    :param utc: seconds since 1970, for the dates of services that do not say what time they have.
    :param pause: called with the seconds to wait instead of waiting; None to wait.
    """

    now: Callable[[], float] = time.monotonic
    utc: Callable[[], float] = time.time
    pause: Callable[[float], object] | None = None


def _check_seconds(value: object, name: str) -> None:
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not number or not math.isfinite(value) or value <= 0:  # type: ignore[arg-type, operator]
        raise InputError(f"{name} must be a positive number of seconds, got {value!r}")
