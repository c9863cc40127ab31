"""The client of a rerank service: it splits requests into batches, sends several at once, and retries."""

import asyncio
import json
import random
import threading
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import chain, count, islice
from typing import Any

from milvus_rerank.reranker.remote.api_formats import InvalidAnswerError
from milvus_rerank.reranker.remote.failures import AttemptError, clean, refusal
from milvus_rerank.reranker.remote.options import Clock, ServiceOptions
from milvus_rerank.reranker.remote.providers import Endpoint
from milvus_rerank.reranker.remote.transport import Answer, Connections
from milvus_rerank.scoring import Request, check_stop

_MIN_WAIT = 0.25  # seconds
_random = random.SystemRandom()  # forked processes must not wait for the same time


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

    async def ascore(self, requests: Sequence[Request]) -> list[list[float]]:
        """Do the same as :meth:`score` in the running event loop; cancelling stops it."""
        return await self.connections.arun(lambda: self._score(requests, threading.Event()))

    async def _score(self, requests: Sequence[Request], stop: threading.Event) -> list[list[float]]:
        self._endpoint.check_key()
        deadline = None if self._options.deadline is None else self._clock.now() + self._options.deadline
        slots, size = asyncio.Semaphore(self._options.concurrency), self._endpoint.max_documents

        async def score_batch(query: str, texts: Sequence[str]) -> list[float]:
            async with slots:
                body = self._endpoint.api_format.body(query, texts, self._model, self._parameters)
                content = json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode()
                return await self._retry(content, len(texts), deadline, stop)

        tasks = [
            asyncio.ensure_future(score_batch(query, texts[start : start + size]))
            for query, texts in requests
            for start in range(0, len(texts), size)
        ]
        try:
            scores = chain.from_iterable(await asyncio.gather(*tasks))
            return [list(islice(scores, len(texts))) for _, texts in requests]
        except AttemptError as failure:
            error = failure.service_error(self._endpoint)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        raise error

    async def _retry(self, content: bytes, size: int, deadline: float | None, stop: threading.Event) -> list[float]:
        """Send a request until it has an answer, or another attempt cannot help."""
        retries, options = self._options.retries, self._options
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
            if deadline is not None and self._clock.now() + pause >= deadline:
                reason = f", and the call's deadline of {options.deadline:g} s leaves no time to ask again"
                raise replace(failure, gave_up=reason)
            if self._clock.pause is not None:
                self._clock.pause(pause)
            await asyncio.sleep(0.0 if self._clock.pause else pause)
        raise AssertionError("the loop has no end")

    def _seconds(self, deadline: float | None) -> float:
        """Return the most seconds of the next attempt."""
        left = self._options.timeout if deadline is None else min(self._options.timeout, deadline - self._clock.now())
        if left <= 0:
            raise AttemptError(f"was not asked: the call's deadline of {self._options.deadline:g} s is over")
        return left

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
