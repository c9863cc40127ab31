"""Options of services: limits, retries, the user's client; and the clock."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypedDict

from milvus_rerank.errors import InputError
from milvus_rerank.validation import check_count

if TYPE_CHECKING:
    from milvus_rerank.reranker.remote.transport import HttpxClient


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
class ServiceOptions:
    """Options that all services take as keyword arguments.

    :param max_documents: the most documents of a request; longer lists are split. None for the service's limit.
    :param timeout: the seconds for an attempt, from connecting to the end of the answer.
    :param deadline: the seconds for a whole call, with all its requests, attempts and pauses; None for no limit.
    :param attempts: the most attempts of a request, or a :class:`RetryPolicy`, which also sets the pauses.
    :param concurrency: the most concurrent requests of a call.
    :param allow_http: allow sending the key unencrypted to other machines.
    :param pickle_key: include the key in pickles; otherwise they read a hosted service's key from the environment.
    :param client: an ``httpx.Client`` for sync calls, or an ``httpx.AsyncClient`` for the ``a``-methods, with proxies,
        hooks or certificates; the caller closes it. ``timeout`` replaces the client's. None opens clients.
    """

    max_documents: int | None = None
    timeout: float = 30.0
    deadline: float | None = None
    attempts: int | RetryPolicy = 4
    concurrency: int = 4
    allow_http: bool = False
    pickle_key: bool = False
    client: "HttpxClient | None" = None

    def __post_init__(self) -> None:
        _check_seconds(self.timeout, "timeout")
        if self.deadline is not None:
            _check_seconds(self.deadline, "deadline")
        if self.max_documents is not None:
            check_count(self.max_documents, "max_documents")
        check_count(self.concurrency, "concurrency")
        check_count(self.retries.attempts, "attempts")

    @property
    def retries(self) -> RetryPolicy:
        """The retry settings."""
        return self.attempts if isinstance(self.attempts, RetryPolicy) else RetryPolicy(self.attempts)


class ServiceKeywords(TypedDict, total=False):
    """The types of the keyword arguments of :class:`ServiceOptions`."""

    max_documents: int | None
    timeout: float
    deadline: float | None
    attempts: int | RetryPolicy
    concurrency: int
    allow_http: bool
    pickle_key: bool
    client: "HttpxClient | None"


@dataclass(frozen=True, slots=True)
class Clock:
    """A clock; tests pass a fake and do not wait."""

    now: Callable[[], float] = time.monotonic  # for deadlines
    utc: Callable[[], float] = time.time  # to compare with dates of services that do not send the current time
    pause: Callable[[float], None] | None = None  # called instead of waiting


def _check_seconds(value: object, name: str) -> None:
    number = float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else math.nan
    if not math.isfinite(number) or number <= 0:
        raise InputError(f"{name} must be a positive number of seconds, got {value!r}")
