"""The models that a server scores with: loaded at startup or at first use, one at a time, and batched by device."""

import threading
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from contextvars import Context, copy_context
from dataclasses import dataclass, field
from typing import Any

import anyio
import numpy as np
from numpy.typing import NDArray

from milvus_rerank.errors import InputError, RegistryError
from milvus_rerank.reranker.base import BaseRerankFunction
from milvus_rerank.reranker.local import EngineRerankFunction
from milvus_rerank.reranker.remote.function import RemoteRerankFunction
from milvus_rerank.results import check_scores
from milvus_rerank.scoring import Request
from milvus_rerank.scoring.activation import Activation, raw, sigmoid
from milvus_rerank.scoring.encoder import Span
from milvus_rerank.scoring.prepared import Logits, TokenLimits, distinct_pairs
from milvus_rerank.server.batcher import Batcher, BatchReport
from milvus_rerank.server.body import Scale
from milvus_rerank.server.queue import Batchable


@dataclass(frozen=True, slots=True)
class ModelRequest:
    """A request prepared for a model.

    :param rows: the rows to score.
    :param widths: for each row, the width in tokens that a batch must have to hold it.
    :param tokens: the number of tokens of all documents, each with its query's, without padding; an estimate if the
        model does not count tokens.
    :param finish: a function from the rows' logits to the scores of all documents, in the order of the requests.
    :param spans: a function from positions of documents of the only request to the parts that have their scores, once
        ``finish`` was called; None if documents are read whole.
    """

    rows: Sequence[Any]
    widths: Sequence[int]
    tokens: int
    finish: Callable[[NDArray[np.float32], Scale], list[float]]
    spans: Callable[[Sequence[int], threading.Event], list[Span | None]] | None = None


class EngineModel:
    """A model that the server tokenises for and runs itself: a batch holds pairs of many requests.

    :param reranker: the reranker.
    """

    def __init__(self, reranker: EngineRerankFunction) -> None:
        if reranker.scorer.others:
            raise InputError(
                f"a server runs a model on one device, got {list(reranker.devices)!r}; start a server for each device"
            )
        self.runner: Batchable = reranker.scorer
        self.device = reranker.device
        self._scorer = reranker.scorer
        self._reranker = reranker

    def with_instruction(self, instruction: str) -> "EngineModel":
        """Return a model with an instruction; its requests share no batches with those of another."""
        return EngineModel(self._reranker.with_instruction(instruction))

    def info(self) -> dict[str, Any]:
        """Return the model's entry in ``/info``."""
        engine = self._scorer.engine
        return {
            "device": engine.device,
            "engine": engine.name,
            "dtype": engine.dtype,
            "max_length": self._scorer.encoder.max_length,
            "max_batch_tokens": self._scorer.max_batch_tokens,
            "takes_instruction": self._reranker.takes_instruction,
        }

    def prepare(self, requests: Sequence[Request], limits: TokenLimits | None, stop: threading.Event) -> ModelRequest:
        """Tokenise requests, except pairs whose logits are cached."""
        pairs, positions = distinct_pairs(requests)
        prepared = self._scorer.prepare(pairs, stop, limits)
        order = np.concatenate([*positions, np.empty(0, dtype=np.intp)])

        finished: list[Logits] = []

        def finish(logits: NDArray[np.float32], scale: Scale) -> list[float]:
            finished.append(self._scorer.finish(prepared, logits)[order])
            values = finished[0]["value"].copy()
            activations: dict[Scale, Activation] = {"raw": raw, "sigmoid": sigmoid, "model": self._scorer.activation}
            return [float(score) for score in activations[scale](values)]

        def spans(wanted: Sequence[int], stop: threading.Event) -> list[Span | None]:
            found = self._scorer.spans(requests[0], finished[0], wanted, stop)
            return [found[position] for position in wanted]

        tokens = int(prepared.logits["tokens"][order].sum())
        chunked = len(requests) == 1 and self._scorer.chunks is not None
        return ModelRequest(prepared.rows, prepared.widths, tokens, finish, spans if chunked else None)


@dataclass(eq=False, slots=True)
class CustomRow:
    """A query with documents that a custom reranker scores together.

    :param request: the query and its documents; a pointwise reranker gets one document per row.
    :param context: the context variables of the HTTP request.
    """

    request: Request
    context: Context
    scores: list[float] = field(default_factory=list)  # the batcher keeps one float32 per row; this keeps all scores


class CustomModel:
    """Any other reranker; its scores are returned unchanged.

    The pairs of a request share batches with those of others if the reranker is pointwise. If the scores depend on the
    other documents (listwise), a request is never split.

    :param reranker: the reranker.
    """

    device = "cpu"
    max_batch_tokens = 16384
    """Token budget of a batch: the batcher picks the next request only between batches."""

    def __init__(self, reranker: BaseRerankFunction) -> None:
        self.runner: Batchable = self
        self._reranker = reranker

    def with_instruction(self, instruction: str) -> "CustomModel":
        """Return a model with an instruction; its requests share no batches with those of another."""
        return CustomModel(self._reranker.with_instruction(instruction))

    def info(self) -> dict[str, Any]:
        """Return the model's entry in ``/info``."""
        return {"device": self.device, "engine": type(self._reranker).__name__}

    def prepare(self, requests: Sequence[Request], limits: TokenLimits | None, stop: threading.Event) -> ModelRequest:
        """Return rows with estimated lengths.

        :param requests: queries with their documents.
        :param limits: None: the reranker itself decides how to truncate texts.
        :param stop: not needed, as this takes no time.
        :returns: the rows.
        """
        context = copy_context()
        if self._reranker.pointwise:
            pairs, positions = distinct_pairs(requests)
            rows = [CustomRow((query, [text]), context) for query, text in pairs]
            order = np.concatenate([*positions, np.empty(0, dtype=np.intp)])
        else:
            rows = [CustomRow(request, context) for request in requests if request[1]]
            order = np.arange(sum(len(documents) for _, documents in requests))
        widths = [sum(estimate_tokens(row.request[0], text) for text in row.request[1]) for row in rows]
        tokens = sum(estimate_tokens(query, text) for query, documents in requests for text in documents)

        def finish(logits: NDArray[np.float32], scale: Scale) -> list[float]:  # only the reranker knows the scale
            scores = [score for row in rows for score in row.scores]
            return [scores[position] for position in order]

        return ModelRequest(rows, widths, tokens, finish)

    def run(self, rows: Sequence[Any]) -> NDArray[np.float32]:
        """Score the rows of each request in its own context, keep the scores in the rows, and return zeros."""
        groups: dict[int, dict[object, list[CustomRow]]] = defaultdict(lambda: defaultdict(list))
        for index, row in enumerate(rows):
            groups[id(row.context)][row.request[0] if self._reranker.pointwise else index].append(row)
        for by_query in groups.values():
            queries = list(by_query.values())
            requests = [(group[0].request[0], [text for row in group for text in row.request[1]]) for group in queries]
            scores = queries[0][0].context.run(self._reranker.score_requests, requests, threading.Event())
            for group, (_, texts), numbers in zip(queries, requests, scores, strict=True):
                checked = iter(check_scores(numbers, len(texts), "document {}".format))
                for row in group:
                    row.scores = [next(checked) for _ in row.request[1]]
        return np.zeros(len(rows), dtype=np.float32)


class ServiceModel:
    """A reranker of a service. Each request is sent to the service by itself, and no batcher divides it.

    A service bills by the call, so documents of a query are sent in as few calls as its limit of documents allows.

    :param reranker: the reranker.
    """

    MAX_REQUESTS = 32
    """The most requests that are at the service at once; others wait for their turn."""

    def __init__(self, reranker: RemoteRerankFunction) -> None:
        self._reranker = reranker
        self._turns = anyio.CapacityLimiter(self.MAX_REQUESTS)

    def with_instruction(self, instruction: str) -> "ServiceModel":
        """Refuse an instruction: a service has its own name for it."""
        self._reranker.with_instruction(instruction)
        return self

    def info(self) -> dict[str, Any]:
        """Return the model's entry in ``/info``."""
        return {"device": "service", "engine": type(self._reranker).__name__}

    def tokens(self, requests: Sequence[Request]) -> int:
        """Return the estimated number of tokens of all documents, each with its query's."""
        return sum(estimate_tokens(query, text) for query, documents in requests for text in documents)

    async def score(self, requests: Sequence[Request], end: float) -> list[float]:
        """Request the scores from the service; cancelling closes the connection.

        :param requests: queries with their documents.
        :param end: the time in the event loop at which the scores are of no use any more.
        :returns: the scores of all documents, in the order of the requests.
        :raises ServiceError: if the service fails.
        """
        texts: dict[str, dict[str, None]] = {}  # a repeated query is one call, and a repeated text is scored once
        for query, documents in requests:
            texts.setdefault(query, {}).update(dict.fromkeys(documents))
        distinct = [(query, list(documents)) for query, documents in texts.items() if documents]
        async with self._turns:
            scores = await self._reranker.ascore_requests(distinct, end - anyio.current_time()) if distinct else []
        by_query = {
            query: dict(zip(documents, numbers, strict=True))
            for (query, documents), numbers in zip(distinct, scores, strict=True)
        }
        return [by_query[query][text] for query, documents in requests for text in documents]


Model = EngineModel | CustomModel | ServiceModel


class Models:
    """The server's models by name.

    :param loaders: for each name, a function that creates the reranker; the first is the default model.
    """

    def __init__(self, loaders: Mapping[str, Callable[[], BaseRerankFunction]]) -> None:
        self._loaders = dict(loaders)
        self._loading = threading.Lock()
        self.report: Callable[[str, BatchReport], object] = lambda device, report: None  # called after each batch
        self.names = list(loaders)
        self.loaded: dict[str, Model] = {}
        self.batchers: dict[str, Batcher] = {}  # by device

    def resolve(self, name: str | None) -> str:
        """Return the name of the model to use.

        :param name: the name in the request. None selects the first model. If the server has only one model, any name
            selects it, because clients of other services send the model names of those services.
        :returns: the name of a model of this server.
        :raises RegistryError: if there are several models and none has that name.
        """
        if name is None or len(self.names) == 1:
            return self.names[0]
        if name in self._loaders:
            return name
        raise RegistryError(f"there is no model {name!r}; this server has: {', '.join(self.names)}")

    def load(self, name: str) -> Model:
        """Return a model, and load it at first use. This blocks; models load one at a time.

        :param name: a name in ``names``.
        :returns: the model; its device, if it has one, has a batcher from now on.
        """
        with self._loading:
            if name not in self.loaded:
                model = _model(self._loaders[name]())
                if not isinstance(model, ServiceModel) and (device := model.device) not in self.batchers:
                    self.batchers[device] = Batcher(device, report=lambda report: self.report(device, report))
                self.loaded[name] = model
            return self.loaded[name]

    def close(self, seconds: float) -> None:
        """Finish the waiting requests of all devices, and fail those that remain after this many seconds."""
        for batcher in list(self.batchers.values()):
            batcher.close(seconds)


def _model(reranker: BaseRerankFunction) -> Model:
    if isinstance(reranker, EngineRerankFunction):
        return EngineModel(reranker)
    return ServiceModel(reranker) if isinstance(reranker, RemoteRerankFunction) else CustomModel(reranker)


def estimate_tokens(query: str, text: str) -> int:
    """Return the estimated number of tokens of a pair, for rerankers that do not count tokens."""
    return 1 + min(len(query) + len(text), 4 * 2048) // 4
