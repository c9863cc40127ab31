"""FallbackRerankFunction: rerankers in their order of preference; the next ranks if one fails or is too slow.

This module depends on the registry because rerankers may be given by name.
"""

import asyncio
import concurrent.futures
import contextvars
import copy
import logging
import math
import os
import threading
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from milvus_rerank.cascade import Reranker, ready
from milvus_rerank.errors import (
    DeadlineError,
    DeviceError,
    FallbackError,
    InputError,
    OutOfMemoryError,
    OverloadedError,
    ScoreError,
    ServiceError,
    StageError,
    StoppedError,
)
from milvus_rerank.registry import find_loader
from milvus_rerank.reranker.base import BaseRerankFunction
from milvus_rerank.reranker.call import CheckedCall
from milvus_rerank.results import DocumentScores, check_scores
from milvus_rerank.scoring import Request
from milvus_rerank.validation import check_list, describe

if TYPE_CHECKING:
    from typing_extensions import Self

T = TypeVar("T")
logger = logging.getLogger(__name__)

FAILURES = (
    ConnectionError,
    DeadlineError,
    DeviceError,
    FallbackError,
    MemoryError,
    OutOfMemoryError,
    OverloadedError,
    ScoreError,
    ServiceError,
    TimeoutError,
    asyncio.TimeoutError,  # the builtin since Python 3.11
    concurrent.futures.TimeoutError,
)
"""Exceptions after which the next reranker is tried. Any other shows a mistake in the program, and is raised."""

_TABLE_KEYS = ("name", "model", "timeout", "api_key_env", "options")


class FallbackRerankFunction(BaseRerankFunction):
    """Rerank with the first of several rerankers that succeeds, such as a service with a local model behind it.

    If a reranker fails (:data:`FAILURES`) or takes longer than its timeout, the next one scores all documents of the
    call. An invalid input, or any other exception, is raised at once. Each result says in ``extra["ranked_by"]`` which
    reranker scored it, and in ``extra["rerank_failures"]`` why those before did not, one text for each.

    Scores of two rerankers are on different scales: choose a ``threshold`` only if all have the same, or put them on
    one scale by a step. A reranker that was too slow is stopped before its next batch; a sync call does not wait for
    that. Rerankers are tried anew in each call.

    :param rerankers: the rerankers in their order: rerank functions, objects with ``score(query, texts)``, names for
        :func:`~milvus_rerank.load`, or pairs ``(reranker, timeout)`` with the seconds that one may take for a call;
        None for no limit. In a config file also tables with ``name``, ``model``, ``timeout``, ``api_key_env`` (the
        environment variable that holds a service's key) and ``options``.
    :param exceptions_to_handle: more classes of exceptions after which the next reranker is tried, such as those of
        another library's client.
    :raises InputError: for fewer than two rerankers, or an invalid one; the message names it.
    """

    pointwise = False  # parts of a call might get scores of different rerankers

    def __init__(
        self,
        rerankers: Sequence[Reranker | tuple[Reranker, float | None] | Mapping[str, Any]],
        *,
        exceptions_to_handle: Sequence[type[Exception]] = (),
    ) -> None:
        items = check_list(rerankers, "rerankers", "rerankers")
        if len(items) < 2:
            raise InputError(f"rerankers must hold at least two rerankers, got {len(items)}")
        handled = check_list(exceptions_to_handle, "exceptions_to_handle", "exception classes")
        for error in handled:
            if not isinstance(error, type) or not issubclass(error, Exception) or issubclass(error, InputError):
                raise InputError(f"exceptions_to_handle must hold classes of exceptions but InputError, got {error!r}")
        pairs = [_read(item, f"rerankers[{number}]") for number, item in enumerate(items)]
        self.rerankers = tuple(reranker for reranker, _ in pairs)
        self.timeouts = tuple(timeout for _, timeout in pairs)
        self.exceptions_to_handle: tuple[type[Exception], ...] = tuple(handled)  # type: ignore[arg-type]

    def score_documents(
        self, requests: Sequence[Request], top_k: int | None, stop: threading.Event
    ) -> list[DocumentScores]:
        """Score with the first reranker that succeeds.

        :param requests: checked queries, each with its documents; no list of documents is empty.
        :param top_k: the number of best documents of each query that need exact scores; None for all.
        :param stop: as for :meth:`score_requests`.
        :returns: one value per request, with the reranker's name.
        :raises FallbackError: if all rerankers fail.
        """

        def attempt(reranker: BaseRerankFunction, halt: threading.Event) -> list[DocumentScores]:
            return _checked(reranker.score_documents(requests, top_k, halt), requests)

        scores, extra = self._first(attempt, stop)
        return [replace(documents, extra=extra) for documents in scores]

    def score_requests(self, requests: Sequence[Request], stop: threading.Event) -> list[list[float]]:
        """Score with the first reranker that succeeds; only the log says which."""

        def attempt(reranker: BaseRerankFunction, halt: threading.Event) -> list[list[float]]:
            numbers = reranker.score_requests(requests, halt)
            return [list(documents.scores) for documents in _checked(list(map(DocumentScores, numbers)), requests)]

        return self._first(attempt, stop)[0]

    async def _ascore(self, checked: CheckedCall, instruction: str | None) -> list[DocumentScores]:
        """Score in the event loop: each reranker waits as its own ``a``-methods do, and is cancelled when too slow."""
        chain = self if instruction is None else self.with_instruction(instruction)
        failures: list[_Failure] = []
        for number, (reranker, timeout) in enumerate(zip(chain.rerankers, chain.timeouts, strict=True)):
            scoring: Awaitable[list[DocumentScores]] = reranker._ascore(checked, None)
            try:
                scores = await asyncio.wait_for(scoring, timeout)
            except Exception as error:  # noqa: BLE001  _note raises it again unless it is a failure
                chain._note(failures, number, error, timeout)
            else:
                extra = chain._extra(number, failures)
                return [replace(documents, extra=extra) for documents in scores]
        raise _all_failed(failures) from failures[-1].error

    def _first(
        self, attempt: Callable[[BaseRerankFunction, threading.Event], T], stop: threading.Event
    ) -> tuple[T, dict[str, Any]]:
        """Return the answer of the first reranker that succeeds, and the values for ``extra`` of its results."""
        failures: list[_Failure] = []
        for number, (reranker, timeout) in enumerate(zip(self.rerankers, self.timeouts, strict=True)):
            try:
                answer = _within(timeout, attempt, reranker, stop) if timeout else attempt(reranker, stop)
            except Exception as error:  # noqa: BLE001  _note raises it again unless it is a failure
                self._note(failures, number, error, timeout)
            else:
                return answer, self._extra(number, failures)
        raise _all_failed(failures) from failures[-1].error

    def _note(self, failures: list["_Failure"], number: int, error: Exception, timeout: float | None) -> None:
        """Note why a reranker did not rank; raise an error that is no failure of a reranker."""
        cause: BaseException | None = error
        while isinstance(cause, StageError):  # of a cascade; its cause says whether it is a failure
            cause = cause.__cause__
        if isinstance(cause, (InputError, StoppedError)) or not isinstance(
            cause, (*FAILURES, *self.exceptions_to_handle)
        ):
            raise error
        # A timeout of this chain has no message, other than those of services and clients.
        problem = str(error) or f"it took longer than its timeout of {timeout:g} s" if timeout else str(error)
        failures.append(_Failure(f"{self.rerankers[number]!r}: {type(error).__name__}: {problem}", error))
        # Without the error's message: that of a service may repeat texts, which do not belong in a server's log.
        kind = type(error).__name__
        logger.warning("rerankers[%d], %r, failed with %s; trying the next", number, self.rerankers[number], kind)

    def _extra(self, number: int, failures: Sequence["_Failure"]) -> dict[str, Any]:
        extra: dict[str, Any] = {"ranked_by": repr(self.rerankers[number])}
        return {**extra, "rerank_failures": [failure.text for failure in failures]} if failures else extra

    @property
    def takes_instruction(self) -> bool:
        """True if one of the rerankers takes instructions."""
        return any(reranker.takes_instruction for reranker in self.rerankers)

    def _instructed(self, instruction: str) -> "Self":
        """Return a chain with an instruction for those rerankers that take one."""
        other = copy.copy(self)
        other.rerankers = tuple(
            reranker.with_instruction(instruction) if reranker.takes_instruction else reranker
            for reranker in self.rerankers
        )
        return other

    def __repr__(self) -> str:
        pairs = zip(self.rerankers, self.timeouts, strict=True)
        return f"FallbackRerankFunction([{', '.join(f'({reranker!r}, {timeout})' for reranker, timeout in pairs)}])"


class _Failure(NamedTuple):
    """A reranker that did not rank, and why."""

    text: str
    error: Exception


class _Halt(threading.Event):
    """An event that is set, too, when the caller's is set."""

    def __init__(self, outer: threading.Event) -> None:
        super().__init__()
        self._outer = outer

    def is_set(self) -> bool:
        return super().is_set() or self._outer.is_set()


def _within(
    timeout: float,
    attempt: Callable[[BaseRerankFunction, threading.Event], T],
    reranker: BaseRerankFunction,
    stop: threading.Event,
) -> T:
    """Return the answer of an attempt in a thread; raise TimeoutError, and stop the attempt, after the timeout."""
    halt, answer = _Halt(stop), concurrent.futures.Future[T]()

    def run() -> None:
        try:
            answer.set_result(attempt(reranker, halt))
        except BaseException as error:  # noqa: BLE001  the waiting thread must get any exception
            answer.set_exception(error)

    context = contextvars.copy_context()  # a trace's span must reach the client
    threading.Thread(target=context.run, args=(run,), name="milvus-rerank-fallback", daemon=True).start()
    done, _ = concurrent.futures.wait([answer], timeout)
    if not done:
        halt.set()
        raise TimeoutError
    return answer.result()


def _all_failed(failures: Sequence[_Failure]) -> FallbackError:
    listed = "; ".join(f"{number}. {failure.text}" for number, failure in enumerate(failures, 1))
    return FallbackError(f"none of {len(failures)} rerankers could rank: {listed}")


def _checked(scores: Sequence[DocumentScores], requests: Sequence[Request]) -> list[DocumentScores]:
    """Return scores if there is a finite one for each document; else the reranker failed."""
    if len(scores) != len(requests):
        raise ScoreError(f"the reranker returned scores for {len(scores)} queries, expected {len(requests)}")
    for documents, (_, texts) in zip(scores, requests, strict=True):
        check_scores(documents.scores, len(texts), "document {}".format)
    return list(scores)


def _read(item: Any, name: str) -> tuple[BaseRerankFunction, float | None]:
    if isinstance(item, Mapping):
        reranker, timeout = _load_table(item, name), item.get("timeout")
    else:
        reranker, timeout = item if isinstance(item, (tuple, list)) and len(item) == 2 else (item, None)
    if timeout is None:
        return ready(reranker, name), None
    seconds = float(timeout) if isinstance(timeout, (int, float)) and not isinstance(timeout, bool) else math.nan
    if not math.isfinite(seconds) or seconds <= 0:
        raise InputError(f"{name} must have a timeout of a positive number of seconds, or None, got {timeout!r}")
    return ready(reranker, name), seconds


def _load_table(table: Mapping[str, Any], name: str) -> BaseRerankFunction:
    """Load a reranker that a table of a config file describes."""
    for key in table:
        if key not in _TABLE_KEYS:
            raise InputError(f"{name} has no key {key!r}; its keys are {', '.join(_TABLE_KEYS)}")
    if not (table.get("name") or table.get("model")):
        raise InputError(f"{name} needs a name or a model, got {describe(table)}")
    options, variable = table.get("options", {}), table.get("api_key_env")
    if not isinstance(options, Mapping):
        raise InputError(f"options of {name} must be a table, got {describe(options)}")
    if variable is None:
        return find_loader(table.get("name"), table.get("model"))(**options)
    if not isinstance(variable, str) or not os.environ.get(variable):
        raise InputError(f"api_key_env of {name} names the environment variable {variable}, which is not set")
    return find_loader(table.get("name"), table.get("model"))(**options, api_key=os.environ[variable])
