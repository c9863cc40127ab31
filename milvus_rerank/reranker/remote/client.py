"""Asking a service: attempts, pauses and deadlines, the same lines for plain calls and for an event loop.

The core is asynchronous. A plain call drives it too: on its line nothing ever suspends, it blocks instead.
"""

import asyncio
import json
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import Protocol

import anyio
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception, wait_random_exponential

from milvus_rerank.driving import run_here
from milvus_rerank.errors import RerankError
from milvus_rerank.reranker.remote.api_formats import Question, UnreadableError
from milvus_rerank.reranker.remote.failures import AttemptError, clean, refusal
from milvus_rerank.reranker.remote.providers import Endpoint
from milvus_rerank.reranker.remote.retry_policy import Clock, Policy
from milvus_rerank.reranker.remote.transport import Connections, Reply
from milvus_rerank.scoring import check_stop

_BACKOFF = wait_random_exponential(multiplier=1.0, max=8.0, min=0.25)  # up to 1, 2, 4 and 8 s
_LOOK = 0.1  # seconds between two looks, during a pause, at whether anybody still waits


class Line(Protocol):
    """A way to a service: blocking or not."""

    async def post(self, content: bytes, seconds: float) -> Reply:
        """Send a request."""
        ...

    async def pause(self, seconds: float) -> None:
        """Wait."""
        ...

    def check(self) -> None:
        """Raise if nobody waits any more."""
        ...


@dataclass(frozen=True, slots=True)
class PlainLine:
    """The way of a caller that blocks.

    :param connections: what it goes over.
    :param clock: how it waits.
    :param stops: any of them set ends it.
    """

    connections: Connections
    clock: Clock
    stops: Sequence[threading.Event]

    async def post(self, content: bytes, seconds: float) -> Reply:
        """Send a request."""
        return self.connections.post(content, seconds)

    async def pause(self, seconds: float) -> None:
        """Wait, unless nobody does any more."""
        if self.clock.pause is not None:
            self.clock.pause(seconds)
        else:
            end = self.clock.now() + seconds
            while (left := end - self.clock.now()) > 0:
                self.check()
                self.stops[0].wait(min(left, _LOOK))
        self.check()

    def check(self) -> None:
        """Raise if nobody waits any more."""
        for stop in self.stops:
            check_stop(stop)


@dataclass(frozen=True, slots=True)
class LoopLine:
    """The way of a task in an event loop; to stop it, it is cancelled.

    :param connections: what it goes over.
    :param clock: how it waits.
    """

    connections: Connections
    clock: Clock

    async def post(self, content: bytes, seconds: float) -> Reply:
        """Send a request."""
        return await self.connections.apost(content, seconds)

    async def pause(self, seconds: float) -> None:
        """Wait."""
        if self.clock.pause is not None:
            self.clock.pause(seconds)
            seconds = 0.0
        await asyncio.sleep(seconds)

    def check(self) -> None:
        """Do nothing: who no longer waits cancels the task."""


class Caller:
    """Asks one service.

    :param endpoint: whom.
    :param policy: how long, how often, how much at once.
    :param clock: the time.
    """

    def __init__(self, endpoint: Endpoint, policy: Policy, clock: Clock) -> None:
        self.endpoint, self.policy, self.clock = endpoint, policy, clock
        self.connections = Connections(endpoint, clock)

    def ask_all(self, questions: Sequence[Question], stop: threading.Event) -> list[list[float]]:
        """Ask all, several at once in threads.

        :param questions: queries with no more documents each than a request may have.
        :param stop: set when the caller no longer waits.
        :returns: the scores of each.
        """
        if not questions:
            return []
        failed = threading.Event()
        work = _Queue(questions)
        line = PlainLine(self.connections, self.clock, (stop, failed))

        def run() -> None:
            try:
                run_here(self._work(line, work, end))
            except BaseException as error:
                work.errors.append(error)
                failed.set()
                raise

        end = self._end()
        size = min(self.policy.concurrency, len(questions))
        if size == 1:
            run()
            return work.scores
        pool = ThreadPoolExecutor(size, thread_name_prefix="rerank-service")
        try:
            wait([pool.submit(run) for _ in range(size)], return_when=FIRST_EXCEPTION)
        except BaseException:  # such as Ctrl-C, which only the main thread sees
            failed.set()
            raise
        finally:  # what the others still wait for, nobody wants any more
            pool.shutdown(wait=not failed.is_set(), cancel_futures=True)
        if work.errors:
            raise work.errors[0]
        return work.scores

    async def aask_all(self, questions: Sequence[Question]) -> list[list[float]]:
        """Like :meth:`ask_all`, several at once in tasks of the running event loop."""
        work = _Queue(questions)
        line, end = LoopLine(self.connections, self.clock), self._end()

        async def run() -> None:
            try:
                await self._work(line, work, end)
            except RerankError as error:  # the others are cancelled, and this one is raised by itself, in no group
                work.errors.append(error)
                tasks.cancel_scope.cancel()

        if len(questions) == 1:
            await self._work(line, work, end)
            return work.scores
        async with anyio.create_task_group() as tasks:
            for _ in range(min(self.policy.concurrency, len(questions))):
                tasks.start_soon(run)
        if work.errors:
            raise work.errors[0]
        return work.scores

    async def _work(self, line: Line, work: "_Queue", end: float | None) -> None:
        for place, question in work.waiting:
            work.scores[place] = await self._ask(line, question, end)

    async def _ask(self, line: Line, question: Question, end: float | None) -> list[float]:
        """Ask until there is an answer, or no hope or time for one."""
        content = json.dumps(self.endpoint.dialect.body(question), ensure_ascii=False, separators=(",", ":")).encode()

        async def attempt() -> list[float]:
            line.check()
            left = self.policy.timeout if end is None else min(self.policy.timeout, end - self.clock.now())
            if left <= 0:
                raise AttemptError(f"was not asked: the call's deadline of {self.policy.deadline:g} s is over")
            return self._read(await line.post(content, left), len(question.documents))

        retrying = AsyncRetrying(
            sleep=line.pause,
            retry=retry_if_exception(lambda error: isinstance(error, AttemptError) and error.again),
            wait=_wait,
            stop=lambda state: self._gives_up(state, end),
            reraise=True,
        )
        try:
            return await retrying(attempt)
        except AttemptError as failure:
            raise failure.error(self.endpoint) from failure.__cause__

    def _read(self, reply: Reply, count: int) -> list[float]:
        # A service may say the key; it is taken out before anything is shortened, which might leave its beginning.
        body = reply.body.replace(self.endpoint.key.encode(), b"***") if self.endpoint.key else reply.body
        if not 200 <= reply.status < 300:
            raise refusal(reply.status, reply.headers, body, self.endpoint, self.policy, self.clock.utc())
        advice = f"does it speak the dialect {self.endpoint.dialect.name!r}, and is the address right?"
        try:
            if not reply.whole:
                raise UnreadableError(f"it is larger than {len(reply.body) - 1} bytes")
            return self.endpoint.dialect.read(json.loads(reply.body), count)
        except UnreadableError as error:
            problem = str(error)
        except (ValueError, RecursionError):  # RecursionError: a thousand brackets
            kind = clean(reply.headers.get("content-type", "")) or "no content type"
            said = clean(body[:400].decode("utf-8", "replace"))
            problem = f"expected JSON, got {f'{said!r} ({kind})' if reply.body else 'an empty body'}"
        raise AttemptError(f"gave an answer that cannot be used: {problem}", advice=advice, status=reply.status)

    def _gives_up(self, state: RetryCallState, end: float | None) -> bool:
        failure, pause = _failure(state), state.upcoming_sleep
        if state.attempt_number >= self.policy.attempts:
            failure.end = f" at attempt {state.attempt_number} of {self.policy.attempts}"
        elif pause > self.policy.max_wait:
            failure.end = f" and wants to be asked again after {pause:g} s, which is too long to wait here"
        elif end is not None and self.clock.now() + pause >= end:
            failure.end = f", and the call's deadline of {self.policy.deadline:g} s leaves no time to ask again"
        return bool(failure.end)

    def _end(self) -> float | None:
        return None if self.policy.deadline is None else self.clock.now() + self.policy.deadline


class _Queue:
    """What the workers of one call share: each takes the next question that waits."""

    def __init__(self, questions: Sequence[Question]) -> None:
        self.waiting: Iterator[tuple[int, Question]] = enumerate(questions)
        self.scores: list[list[float]] = [[] for _ in questions]
        self.errors: list[BaseException] = []


def _wait(state: RetryCallState) -> float:
    asked = _failure(state).retry_after
    return _BACKOFF(state) if asked is None else asked


def _failure(state: RetryCallState) -> AttemptError:
    failure = None if state.outcome is None else state.outcome.exception()
    if not isinstance(failure, AttemptError):
        raise RuntimeError("only failures are tried again")
    return failure
