"""The path of one request through the server: check, tokenise, queue, score, or raise the reason for a refusal."""

import asyncio
import contextlib
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import anyio
import anyio.to_thread
import numpy as np

from milvus_rerank.errors import DeadlineError, InputError, OverloadedError
from milvus_rerank.results import check_scores, rank
from milvus_rerank.scoring import Request
from milvus_rerank.scoring.prepared import TokenLimits
from milvus_rerank.server.api_formats import Call, Scale, Scored
from milvus_rerank.server.batcher import Batcher
from milvus_rerank.server.metrics import Metrics
from milvus_rerank.server.models import Model, Models
from milvus_rerank.server.queue import Job
from milvus_rerank.server.settings import Limits
from milvus_rerank.validation import check_documents, check_query


@dataclass(slots=True)
class RequestLog:
    """Facts about a request, for its log line.

    :param model: the model's name.
    :param documents: the number of documents.
    :param tokens: the number of tokens of all documents, each with its query's.
    """

    model: str = ""
    documents: int = 0
    tokens: int = 0


def no_span(stage: str) -> AbstractContextManager[Any]:
    """Return a context manager that records nothing."""
    return contextlib.nullcontext()


class Service:
    """Score requests within the server's limits.

    :param models: the server's models.
    :param limits: limits of requests.
    :param metrics: the server's metrics.
    :param span: returns a trace span for a stage.
    """

    def __init__(
        self,
        models: Models,
        limits: Limits,
        metrics: Metrics,
        span: Callable[[str], AbstractContextManager[Any]] = no_span,
    ) -> None:
        self.models = models
        self._limits = limits
        self._metrics = metrics
        self._span = span
        # Separate limiters, not the default that all libraries share: a load may take minutes and must not block the
        # threads that tokenise.
        self._tokenizing = anyio.CapacityLimiter(4)
        self._loading = anyio.CapacityLimiter(4)

    async def rerank(self, call: Call, request_log: RequestLog) -> Scored:
        """Score the documents of a request and rank them.

        :param call: the request.
        :param request_log: filled in with the request's facts.
        :returns: scores and order.
        :raises InputError: if the request exceeds the limits.
        :raises RegistryError: if the server does not have the model.
        :raises OverloadedError: if the server has too much work.
        :raises DeadlineError: if the request is not done within the deadline.
        """
        scores = await self.score(
            call.model, [(call.query, call.documents)], request_log, scale=call.scale, limits=call.limits
        )
        return Scored(request_log.model, scores, rank(scores, call.top_k), request_log.tokens)

    async def score(
        self,
        name: str | None,
        requests: Sequence[Request],
        request_log: RequestLog,
        *,
        scale: Scale = "model",
        limits: TokenLimits | None = None,
    ) -> list[float]:
        """Score the documents of several queries.

        :param name: the model's name; None for the first model.
        :param requests: queries with their documents.
        :param request_log: filled in with the request's facts.
        :param scale: the scores to return.
        :param limits: token limits of this request.
        :returns: one score per document, in the order of the requests.
        :raises DeadlineError: if the request is not done within the deadline; other errors as in :meth:`rerank`.
        """
        self._check(requests)
        request_log.model = self.models.resolve(name)
        request_log.documents = sum(len(documents) for _, documents in requests)
        try:
            with anyio.fail_after(self._limits.deadline) as scope:
                return await self._score(requests, request_log, scale, limits, scope)
        except TimeoutError as error:
            raise DeadlineError(f"not done within the deadline of {self._limits.deadline:g} s") from error

    async def model(self, name: str) -> Model:
        """Return a model; load it in a thread at first use."""
        found = self.models.loaded.get(name)
        if found is not None:
            return found
        return await anyio.to_thread.run_sync(self.models.get, name, limiter=self._loading, abandon_on_cancel=True)

    async def _score(
        self,
        requests: Sequence[Request],
        request_log: RequestLog,
        scale: Scale,
        limits: TokenLimits | None,
        scope: anyio.CancelScope,
    ) -> list[float]:
        model = await self.model(request_log.model)
        stop = threading.Event()
        try:
            with self._stage("tokenize"):
                request = await anyio.to_thread.run_sync(
                    lambda: model.prepare(requests, limits, stop), limiter=self._tokenizing, abandon_on_cancel=True
                )
        except asyncio.CancelledError:  # the client disconnected, or the deadline passed
            stop.set()
            raise
        request_log.tokens = request.tokens
        logits = np.empty(0, dtype=np.float32)
        if request.rows:
            job = Job(model, request.rows, request.widths, scope.deadline - anyio.current_time())
            logits = await self._run(job, self.models.batchers[model.device])
        self._metrics.documents.labels(request_log.model).inc(request_log.documents)
        self._metrics.tokens.labels(request_log.model).inc(request_log.tokens)
        return check_scores(model.finish(request, logits, scale), request_log.documents, "document {}".format)

    async def _run(self, job: Job, batcher: Batcher) -> np.ndarray:
        waiting, tokens = batcher.waiting_tokens, sum(job.widths)
        if waiting and waiting + tokens > self._limits.queue_tokens:
            raise OverloadedError(f"{waiting} tokens are waiting already, and this request has {tokens}", 1)
        batcher.submit(job)
        try:
            with self._stage("score"):
                logits = await asyncio.wrap_future(job.future)
        except asyncio.CancelledError:  # the client disconnected, or the deadline passed
            batcher.drop(job)
            raise
        if job.started is not None:
            self._metrics.stages.labels("queue").observe(job.started - job.arrived)
        return logits

    @contextlib.contextmanager
    def _stage(self, name: str) -> Iterator[None]:
        with self._metrics.stages.labels(name).time(), self._span(name):
            yield

    def _check(self, requests: Sequence[Request]) -> None:
        count = sum(len(documents) for _, documents in requests)
        if count > self._limits.documents:
            raise InputError(f"got {count} documents; this server takes at most {self._limits.documents} in a request")
        most = self._limits.text_characters
        for query, documents in requests:
            check_query(query)  # JSON can hold lone surrogates
            check_documents(documents)
            if len(query) > most:
                raise InputError(f"the query has {len(query)} characters; this server takes at most {most}")
            for index, text in enumerate(documents):
                if len(text) > most:
                    raise InputError(f"document {index} has {len(text)} characters; this server takes at most {most}")
