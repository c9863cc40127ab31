"""The client of a rerank service: it splits requests into batches, sends several at once, and retries."""

import asyncio
import json
import threading
from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from contextvars import copy_context
from functools import partial
from itertools import chain, islice
from typing import Any, cast

from tenacity import AsyncRetrying, RetryCallState, Retrying, retry_if_exception, wait_random_exponential

from milvus_rerank.reranker.remote.api_formats import InvalidAnswerError
from milvus_rerank.reranker.remote.failures import AttemptError, clean, redact, refusal
from milvus_rerank.reranker.remote.providers import Endpoint
from milvus_rerank.reranker.remote.retry_policy import CallLimits, Clock
from milvus_rerank.reranker.remote.transport import Answer, Connections, HttpxClient
from milvus_rerank.scoring import Request, check_stop

_MIN_WAIT = 0.25  # seconds
_POLL = 0.1  # seconds between checks, during a pause, if the call was stopped


class RerankClient:
    """Score documents with a service, over the user's httpx client or a client that it opens."""

    def __init__(
        self,
        endpoint: Endpoint,
        model: str | None,
        parameters: Mapping[str, Any],
        limits: CallLimits,
        clock: Clock,
        client: HttpxClient | None,
    ) -> None:
        self.connections = Connections(endpoint, clock.now, client)
        self._endpoint, self._model, self._parameters = endpoint, model, parameters
        self._limits, self._clock = limits, clock
        self._backoff = wait_random_exponential(max=limits.retries.max_wait, min=_MIN_WAIT)

    def score(self, requests: Sequence[Request], stop: threading.Event) -> list[list[float]]:
        """Return the scores of each request's documents; send several HTTP requests at once, in threads."""
        deadline, failed = self._deadline(), threading.Event()

        def check() -> None:
            check_stop(stop)
            check_stop(failed)

        def pause(seconds: float) -> None:
            end = self._clock.now() + seconds
            while (left := end - self._clock.now()) > 0:
                check()
                stop.wait(min(left, _POLL))

        def score_batch(batch: Request) -> list[float]:
            content = self._encode(batch)

            def attempt() -> list[float]:
                check()
                return self._read(self.connections.post(content, self._seconds(deadline)), len(batch[1]))

            return Retrying(sleep=self._clock.pause or pause, **self._retries(deadline))(attempt)

        batches = self._batches(requests)
        with self._service_errors():
            return _join(_map_in_threads(score_batch, batches, self._limits.concurrency, failed), requests)

    async def ascore(self, requests: Sequence[Request]) -> list[list[float]]:
        """Do the same as :meth:`score`, in tasks of the running event loop; cancelling stops it."""
        deadline, slots = self._deadline(), asyncio.Semaphore(self._limits.concurrency)

        async def score_batch(batch: Request) -> list[float]:
            async def attempt() -> list[float]:
                return self._read(await self.connections.apost(content, self._seconds(deadline)), len(batch[1]))

            async with slots:
                content = self._encode(batch)
                return await AsyncRetrying(sleep=self._pause_loop, **self._retries(deadline))(attempt)

        with self._service_errors():
            return _join(await _gather([score_batch(batch) for batch in self._batches(requests)]), requests)

    def _batches(self, requests: Sequence[Request]) -> list[Request]:
        size = self._endpoint.max_documents
        return [
            (query, texts[start : start + size]) for query, texts in requests for start in range(0, len(texts), size)
        ]

    def _encode(self, batch: Request) -> bytes:
        body = self._endpoint.api_format.body(*batch, self._model, self._parameters)
        return json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode()

    def _read(self, answer: Answer, count: int) -> list[float]:
        endpoint, api_format = self._endpoint, self._endpoint.api_format
        if not 200 <= answer.status < 300:
            concurrency, utc = self._limits.concurrency, self._clock.utc()
            raise refusal(answer.status, answer.headers, self._text(answer), endpoint, concurrency, utc)
        try:
            if len(answer.body) > answer.max_bytes:
                raise InvalidAnswerError(f"it is larger than {answer.max_bytes} bytes")
            return api_format.read(json.loads(answer.body), count)
        except InvalidAnswerError as error:
            problem = str(error)
        except (ValueError, RecursionError):  # RecursionError: deeply nested JSON
            content_type = clean(answer.headers.get("content-type", "")) or "no content type"
            body = f"{clean(self._text(answer)[:400])!r} ({content_type})" if answer.body else "an empty body"
            problem = f"expected JSON, got {body}"
        advice = f"does it speak the dialect {api_format.name!r}, and is the address right?"
        raise AttemptError(f"gave an answer that cannot be used: {problem}", advice, answer.status)

    def _text(self, answer: Answer) -> str:
        """Return an answer's text without the key. Call it before shortening, which could leave half a key."""
        return redact(answer.body.decode("utf-8", "replace"), self._endpoint.key)

    def _deadline(self) -> float | None:
        return None if self._limits.deadline is None else self._clock.now() + self._limits.deadline

    def _seconds(self, deadline: float | None) -> float:
        """Return the most seconds of the next attempt."""
        left = self._limits.timeout if deadline is None else min(self._limits.timeout, deadline - self._clock.now())
        if left <= 0:
            raise AttemptError(f"was not asked: the call's deadline of {self._limits.deadline:g} s is over")
        return left

    async def _pause_loop(self, seconds: float) -> None:
        if self._clock.pause is not None:
            self._clock.pause(seconds)
            seconds = 0.0
        await asyncio.sleep(seconds)

    def _retries(self, deadline: float | None) -> dict[str, Any]:
        """Return the arguments of tenacity's retry loops, sync or async."""
        return {
            "retry": retry_if_exception(lambda error: isinstance(error, AttemptError) and error.retryable),
            "wait": self._wait,
            "stop": partial(self._gives_up, deadline),
            "reraise": True,
        }

    def _wait(self, state: RetryCallState) -> float:
        asked = _failure(state).retry_after
        return self._backoff(state) if asked is None else asked

    def _gives_up(self, deadline: float | None, state: RetryCallState) -> bool:
        failure, pause, retries = _failure(state), state.upcoming_sleep, self._limits.retries
        if state.attempt_number >= retries.attempts:
            failure.gave_up = f" at attempt {state.attempt_number} of {retries.attempts}"
        elif (failure.retry_after or 0.0) > retries.max_retry_after:
            failure.gave_up = f" and wants to be asked again after {pause:g} s, which is too long to wait here"
        elif deadline is not None and self._clock.now() + pause >= deadline:
            limit = f"the call's deadline of {self._limits.deadline:g} s"
            failure.gave_up = f", and {limit} leaves no time to ask again"
        return bool(failure.gave_up)

    @contextmanager
    def _service_errors(self) -> Iterator[None]:
        try:
            yield
        except AttemptError as failure:
            raise failure.service_error(self._endpoint) from failure.__cause__


def _failure(state: RetryCallState) -> AttemptError:
    """Return the error of the last attempt; tenacity waits or stops only after a retryable failure."""
    return cast(AttemptError, cast(Any, state.outcome).exception())


def _join(scores: Iterable[list[float]], requests: Sequence[Request]) -> list[list[float]]:
    """Return the scores of consecutive batches as one list for each request."""
    flat = chain.from_iterable(scores)
    return [list(islice(flat, len(texts))) for _, texts in requests]


def _map_in_threads(
    function: Callable[[Request], list[float]], batches: Sequence[Request], threads: int, failed: threading.Event
) -> list[list[float]]:
    """Call a function with each batch, in threads with the caller's context; set ``failed`` at the first error."""
    if min(threads, len(batches)) <= 1:
        return [function(batch) for batch in batches]
    pool = ThreadPoolExecutor(min(threads, len(batches)), thread_name_prefix="rerank-service")
    try:
        futures = [pool.submit(copy_context().run, function, batch) for batch in batches]
        for future in as_completed(futures):
            future.result()
    except BaseException:  # such as Ctrl-C, which only the main thread sees
        failed.set()
        pool.shutdown(wait=False, cancel_futures=True)
        raise
    pool.shutdown()
    return [future.result() for future in futures]


async def _gather(coroutines: Sequence[Coroutine[Any, Any, list[float]]]) -> list[list[float]]:
    """Await all coroutines; the first error cancels the others."""
    tasks = [asyncio.ensure_future(coroutine) for coroutine in coroutines]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
