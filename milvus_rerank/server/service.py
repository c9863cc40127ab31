"""The path of one request through the server: check, tokenise, queue, score, or raise the reason for a refusal."""

import asyncio
import contextlib
import contextvars
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import anyio
import anyio.to_thread
import numpy as np
from pydantic_core import to_json
from starlette.datastructures import State
from starlette.responses import Response

from milvus_rerank.errors import DeadlineError, InputError, ServiceTimeoutError, StoppedError
from milvus_rerank.results import rank
from milvus_rerank.scoring.encoder import Span
from milvus_rerank.server.body import ENGINE_KEYS, Body, Call, Scored, set_keys
from milvus_rerank.server.metrics import Metrics
from milvus_rerank.server.models import CustomModel, EngineModel, Model, ModelRequest, Models, ServiceModel
from milvus_rerank.server.queue import Job
from milvus_rerank.server.settings import Limits

if TYPE_CHECKING:
    from milvus_rerank.server.tracing import Traces

T = TypeVar("T")
TOKENIZERS = 4
"""The number of threads that tokenise."""


class Service:
    """Score requests within the server's limits.

    :param models: the server's models.
    :param limits: limits of requests.
    :param metrics: the server's metrics.
    :param traces: creates the spans of calls and stages; None for no traces.
    """

    def __init__(
        self,
        models: Models,
        limits: Limits,
        metrics: Metrics,
        traces: "Traces | None" = None,
    ) -> None:
        self.models = models
        self._limits = limits
        self._metrics = metrics
        self._traces = traces
        # Separate threads, not those that all libraries share: a load may take minutes and must not block the threads
        # that tokenise.
        self._tokenizers = ThreadPoolExecutor(TOKENIZERS, thread_name_prefix="tokenize")
        self._loading = anyio.CapacityLimiter(4)
        self._stops: set[threading.Event] = set()
        self._calls: dict[anyio.CancelScope, anyio.Event] = {}  # of services, each with an event for its end

    async def rerank(self, state: State, body: Body) -> Response:
        """Score the documents of a request and rank them.

        :param state: the request's state; its ``request_log`` is set to the facts for the log line.
        :param body: the request.
        :returns: the response in the request's format.
        :raises InputError: if the request exceeds the limits.
        :raises RegistryError: if the server does not have the model.
        :raises OverloadedError: if the server has too much work.
        :raises DeadlineError: if the request is not done within the deadline.
        """
        log: dict[str, Any] = {"model": "", "documents": 0, "tokens": 0}
        state.request_log = log
        call = body.call()
        call = replace(call, instruction=call.instruction or body.instruction or None)
        self._check(call)
        log["model"] = self.models.resolve(body.model)
        log["documents"] = sum(len(documents) for _, documents in call.requests)
        with self._traces.reranking(log["model"], call) if self._traces else contextlib.nullcontext() as record:
            scores, spans = await self._score_within_deadline(body, call, log)
            if record is not None:
                record(scores)
        self._metrics.documents.labels(log["model"]).inc(log["documents"])
        self._metrics.tokens.labels(log["model"]).inc(log["tokens"])
        answer = body.answer(Scored(log["model"], scores, rank(scores, call.top_k), log["tokens"], spans))
        return Response(to_json(answer), media_type="application/json")

    async def _score_within_deadline(
        self, body: Body, call: Call, log: dict[str, Any]
    ) -> tuple[list[float], dict[int, Span]]:
        """Return the score of each document, and the parts of long documents that have the scores, by position."""
        spans: dict[int, Span] = {}
        try:
            with anyio.fail_after(self._limits.deadline) as scope:
                model = self.models.loaded.get(log["model"]) or await self.load(log["model"])
                if call.instruction is not None:
                    model = await anyio.to_thread.run_sync(model.with_instruction, call.instruction)
                if not isinstance(model, EngineModel) and (call.limits is not None or call.scale == "raw"):
                    keys = ", ".join(map(repr, sorted(set_keys(body) & ENGINE_KEYS)))
                    raise InputError(f"the model {log['model']!r} cannot obey {keys}; leave them out")
                if isinstance(model, ServiceModel):
                    scores = await self._ask(model, call, log, scope.deadline)
                else:
                    scores, request = await self._score(model, call, log, scope)
                    if call.with_spans and request.spans is not None:
                        wanted = rank(scores, call.top_k)
                        found = await self._in_thread(request.spans, wanted)
                        spans = {index: span for index, span in zip(wanted, found, strict=True) if span is not None}
            return scores, spans
        except ServiceTimeoutError:
            raise
        except TimeoutError as error:
            raise DeadlineError(f"not done within the deadline of {self._limits.deadline:g} s") from error

    async def drain(self, seconds: float) -> None:
        """Finish the admitted requests; those that remain after so many seconds fail with a :class:`StoppedError`."""
        end = anyio.current_time() + seconds
        await asyncio.to_thread(self.models.close, seconds)
        with anyio.CancelScope(deadline=end):
            for ended in list(self._calls.values()):
                await ended.wait()
        for stop in list(self._stops):
            stop.set()
        for call in list(self._calls):
            call.cancel()
        self._tokenizers.shutdown(wait=False, cancel_futures=True)

    async def load(self, name: str) -> Model:
        """Load a model in a thread, unless it is loaded, and return it."""
        return await anyio.to_thread.run_sync(self.models.load, name, limiter=self._loading, abandon_on_cancel=True)

    async def _ask(self, model: ServiceModel, call: Call, log: dict[str, Any], end: float) -> list[float]:
        """Return a service's scores of all documents. If the client leaves or the deadline passes, the call ends."""
        log["tokens"] = model.tokens(call.requests)
        with anyio.CancelScope() as scope, self._stage("score"):
            self._calls[scope] = anyio.Event()
            try:
                return await model.score(call.requests, end)
            finally:
                self._calls.pop(scope).set()
        raise StoppedError("the server is shutting down")  # drain() has cancelled the scope

    async def _score(
        self, model: EngineModel | CustomModel, call: Call, log: dict[str, Any], scope: anyio.CancelScope
    ) -> tuple[list[float], ModelRequest]:
        """Return one score per document, in the order of the requests, and the prepared request."""
        with self._stage("tokenize"):
            request = await self._in_thread(model.prepare, call.requests, call.limits)
        log["tokens"] = request.tokens
        logits = np.empty(0, dtype=np.float32)
        if request.rows:
            batcher = self.models.batchers[model.device]
            job = Job(model.runner, request.rows, request.widths, scope.deadline - anyio.current_time())
            batcher.submit(job, self._limits.queue_tokens)
            try:
                with self._stage("score"):
                    logits = await asyncio.wrap_future(job.future)
            except asyncio.CancelledError:  # the client disconnected, or the deadline passed
                batcher.drop(job)
                raise
            if job.started is not None:
                self._metrics.stages.labels("queue").observe(job.started - job.arrived)
        return request.finish(logits, call.scale), request

    async def _in_thread(self, function: Callable[..., T], *arguments: Any) -> T:
        """Tokenise in a thread; the function gets an event that ends it. If the client leaves, the work ends first."""
        stop, context = threading.Event(), contextvars.copy_context()
        try:
            work = self._tokenizers.submit(context.run, partial(function, *arguments, stop))
        except RuntimeError as error:  # after close()
            raise StoppedError("the server is shutting down") from error
        self._stops.add(stop)
        waiting = asyncio.wrap_future(work)
        try:
            return await asyncio.shield(waiting)
        except asyncio.CancelledError:
            stop.set()
            if work.cancelled():  # by close()
                raise StoppedError("the server is shutting down") from None
            if not work.cancel():
                with anyio.CancelScope(shield=True):  # the texts are held until the thread lets them go
                    await asyncio.wait([waiting])
                waiting.exception()  # a StoppedError, which nobody waits for
            raise
        finally:
            self._stops.discard(stop)

    @contextlib.contextmanager
    def _stage(self, name: str) -> Iterator[None]:
        span = self._traces.span(name) if self._traces else contextlib.nullcontext()
        with self._metrics.stages.labels(name).time(), span:
            yield

    def _check(self, call: Call) -> None:
        count, most = sum(len(documents) for _, documents in call.requests), self._limits.text_characters
        if count > self._limits.documents:
            raise InputError(f"got {count} documents; this server takes at most {self._limits.documents} in a request")
        if len(call.instruction or "") > most:
            raise InputError(f"the instruction is longer than {most} characters, the most that this server takes")
        for query, documents in call.requests:
            if len(query) > most:
                raise InputError(f"the query has {len(query)} characters; this server takes at most {most}")
            for index, text in enumerate(documents):
                if len(text) > most:
                    raise InputError(f"document {index} has {len(text)} characters; this server takes at most {most}")
