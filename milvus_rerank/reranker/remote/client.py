"""The client of a rerank service: it splits requests into batches, sends several at once, and retries."""

import asyncio
import json
import random
import threading
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import chain, count, islice
from typing import Any, NamedTuple

import anyio

from milvus_rerank.reranker.remote.api_formats import InvalidAnswerError
from milvus_rerank.reranker.remote.failures import AttemptError, clean, refusal
from milvus_rerank.reranker.remote.options import Clock, ServiceOptions
from milvus_rerank.reranker.remote.providers import Endpoint
from milvus_rerank.reranker.remote.transport import Answer, Connections
from milvus_rerank.scoring import Request, check_stop

_MIN_WAIT = 0.25  # seconds
_random = random.SystemRandom()  # forked processes must not wait for the same time


class Deadline(NamedTuple):
    """Time limit of a call: its length in seconds, and its end on the client's clock."""

    seconds: float
    end: float


class RerankClient:
    """Score documents with a service. Copies share the user's httpx client; pickles have none."""

    def __init__(
        self,
        endpoint: Endpoint,
        model: str | None,
        parameters: Mapping[str, Any],
        options: ServiceOptions,
        clock: Clock | None = None,
    ) -> None:
        self.connections = Connections(endpoint, options.client)
        self._endpoint, self._model, self._parameters = endpoint, model, parameters
        self._options, self._clock = options, clock or Clock()

    def __reduce__(self) -> tuple[Any, ...]:
        return RerankClient, (self._endpoint, self._model, self._parameters, replace(self._options, client=None))

    def __deepcopy__(self, memo: object) -> "RerankClient":
        return RerankClient(self._endpoint, self._model, self._parameters, self._options, self._clock)

    def score(self, requests: Sequence[Request], stop: threading.Event) -> list[list[float]]:
        """Return the scores of each request's documents; several HTTP requests are sent at once."""
        return self.connections.run(lambda: self._score(requests, stop), stop)

    async def ascore(self, requests: Sequence[Request], seconds: float | None = None) -> list[list[float]]:
        """Do the same as :meth:`score` in the running event loop, within ``seconds``; cancelling stops it."""
        return await self.connections.arun(lambda: self._score(requests, threading.Event(), seconds))

    async def _score(
        self, requests: Sequence[Request], stop: threading.Event, seconds: float | None = None
    ) -> list[list[float]]:
        self._endpoint.check_key()
        limits = [limit for limit in (seconds, self._options.deadline) if limit is not None]
        deadline = Deadline(min(limits), self._clock.now() + min(limits)) if limits else None
        slots, size = asyncio.Semaphore(self._options.concurrency), self._endpoint.max_documents
        scores: dict[int, list[float]] = {}
        failures: list[Exception] = []

        async def score_batch(number: int, query: str, texts: Sequence[str]) -> None:
            try:
                async with slots:
                    body = self._endpoint.api_format.body(query, texts, self._model, self._parameters)
                    content = json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode()
                    scores[number] = await self._retry(content, len(texts), deadline, stop)
            except Exception as error:  # noqa: BLE001  raised below, by itself: the group would raise a group of errors
                failures.append(error)
                tasks.cancel_scope.cancel()

        batches = [
            (query, texts[start : start + size]) for query, texts in requests for start in range(0, len(texts), size)
        ]
        # anyio's group lets connections close when the caller is cancelled by a scope, which cancels again and again.
        async with anyio.create_task_group() as tasks:
            for number, batch in enumerate(batches):
                tasks.start_soon(score_batch, number, *batch)
        if failures:
            error = failures[0]
            raise error.service_error(self._endpoint) if isinstance(error, AttemptError) else error
        joined = chain.from_iterable(scores[number] for number in range(len(batches)))
        return [list(islice(joined, len(texts))) for _, texts in requests]

    async def _retry(self, content: bytes, size: int, deadline: Deadline | None, stop: threading.Event) -> list[float]:
        """Send a request until it has an answer, or another attempt cannot help."""
        retries = self._options.retries
        for attempt in count(1):
            check_stop(stop)
            try:
                return self._read(await self.connections.send(content, self._seconds(deadline)), size)
            except AttemptError as error:
                failure = error
            longest, asked = min(retries.max_wait, 2.0 ** min(attempt - 1, 10)), failure.retry_after
            pause = _random.uniform(min(_MIN_WAIT, longest), longest) if asked is None else asked
            if not failure.retryable:
                raise failure
            if attempt >= retries.attempts:
                raise replace(failure, gave_up=f" at attempt {attempt} of {retries.attempts}")
            if asked is not None and asked > retries.max_retry_after:
                reason = f" and wants to be asked again after {asked:g} s, which is too long to wait here"
                raise replace(failure, gave_up=reason)
            if deadline is not None and self._clock.now() + pause >= deadline.end:
                reason = f", and the call's deadline of {deadline.seconds:g} s leaves no time to ask again"
                raise replace(failure, gave_up=reason)
            if self._clock.pause is not None:
                self._clock.pause(pause)
            await asyncio.sleep(0.0 if self._clock.pause else pause)
        raise AssertionError("the loop has no end")

    def _seconds(self, deadline: Deadline | None) -> float:
        """Return the most seconds of the next attempt."""
        if deadline is None:
            return self._options.timeout
        left = deadline.end - self._clock.now()
        if left <= 0:
            raise AttemptError(f"was not asked: the call's deadline of {deadline.seconds:g} s is over", timed_out=True)
        return min(self._options.timeout, left)

    def _read(self, answer: Answer, size: int) -> list[float]:
        endpoint, body = self._endpoint, bytes(answer.body)
        if not 200 <= answer.status < 300:
            concurrency, utc = self._options.concurrency, self._clock.utc()
            raise refusal(answer.status, answer.headers, body, endpoint, concurrency, utc)
        if answer.encoding:
            encoding = clean(answer.encoding, endpoint)
            raise AttemptError(
                f"sent the content encoding {encoding!r}, although requests ask for none: its answer cannot be read",
                "let no gateway on the way compress answers",
                answer.status,
            )
        try:
            if len(body) > answer.max_bytes:
                raise InvalidAnswerError(f"it is larger than {answer.max_bytes} bytes")
            return endpoint.api_format.read(json.loads(body), size, endpoint.redact)
        except InvalidAnswerError as error:
            problem = str(error)
        except (ValueError, RecursionError):  # RecursionError: deeply nested JSON
            content_type = clean(answer.headers.get("content-type", ""), endpoint) or "no content type"
            text = clean(body[:65536].decode("utf-8", "replace"), endpoint)
            problem = f"expected JSON, got {f'{text!r} ({content_type})' if body else 'an empty body'}"
        advice = f"does it speak the dialect {endpoint.api_format.name!r}, and is the address right?"
        raise AttemptError(f"gave an answer that cannot be used: {problem}", advice, answer.status)
