"""The models that a server scores with: loaded at startup or at first use, one at a time, and batched by device."""

import threading
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from milvus_rerank.errors import RegistryError
from milvus_rerank.reranker.base import BaseRerankFunction
from milvus_rerank.reranker.local import EngineRerankFunction
from milvus_rerank.scoring import Request
from milvus_rerank.scoring.activation import Activation, raw, sigmoid
from milvus_rerank.scoring.prepared import Prepared, TokenLimits, distinct_pairs
from milvus_rerank.server.api_formats import Scale
from milvus_rerank.server.batcher import Batcher, BatchReport

CHARACTERS_PER_TOKEN = 4
"""Estimated characters per token, for rerankers that do not count tokens."""
PLAIN_BATCH_TOKENS = 16384
"""Token budget of a batch of such rerankers: the batcher picks the next request only between batches."""


@dataclass(frozen=True, slots=True)
class ModelRequest:
    """A request prepared for a model.

    :param rows: the rows to score.
    :param widths: for each row, the width in tokens that a batch must have to hold it.
    :param positions: for each document, its position among the distinct pairs.
    :param tokens: the number of tokens of all documents, each with its query's, without padding; an estimate if the
        model does not count tokens.
    :param prepared: the same request as an engine's scorer prepared it.
    """

    rows: Sequence[Any]
    widths: Sequence[int]
    positions: NDArray[np.intp]
    tokens: int
    prepared: Prepared | None = None


class EngineModel:
    """A model that the server tokenises for and runs itself: a batch holds pairs of many requests.

    :param reranker: the reranker.
    """

    def __init__(self, reranker: EngineRerankFunction) -> None:
        self.reranker = reranker
        self._scorer = reranker.scorer

    @property
    def device(self) -> str:
        """Device that the model runs on."""
        return self.reranker.device

    @property
    def max_batch_tokens(self) -> int:
        """Token budget of a batch; smaller after the device ran out of memory."""
        return self._scorer.max_batch_tokens

    def facts(self) -> dict[str, Any]:
        """Return the model's entry in ``/info``."""
        engine, encoder = self._scorer.engine, self._scorer.encoder
        return {
            "device": engine.device,
            "engine": engine.name,
            "dtype": engine.dtype,
            "max_length": encoder.max_length,
            "max_batch_tokens": self.max_batch_tokens,
        }

    def prepare(self, requests: Sequence[Request], limits: TokenLimits | None, stop: threading.Event) -> ModelRequest:
        """Tokenise requests, except pairs whose logits are cached."""
        pairs, positions = distinct_pairs(requests)
        prepared = self._scorer.prepare(pairs, stop, limits)
        flat = np.concatenate([*positions, np.empty(0, dtype=np.intp)])
        return ModelRequest(prepared.rows, prepared.widths, flat, int(prepared.tokens()[flat].sum()), prepared)

    def run(self, rows: Sequence[Any]) -> NDArray[np.float32]:
        """Return the rows' logits."""
        return self._scorer.run(rows)

    def finish(self, request: ModelRequest, logits: NDArray[np.float32], scale: Scale) -> list[float]:
        """Return the scores of all documents in the order of the requests."""
        if request.prepared is None:
            raise TypeError("expected a request that this model has prepared")
        values = self._scorer.finish(request.prepared, logits).values[request.positions]
        activations: dict[Scale, Activation] = {"raw": raw, "sigmoid": sigmoid, "model": self._scorer.activation}
        return [float(score) for score in activations[scale](values)]


class PlainModel:
    """Any other pointwise reranker, whose scores are returned unchanged.

    :param reranker: the reranker.
    """

    device = "cpu"
    max_batch_tokens = PLAIN_BATCH_TOKENS

    def __init__(self, reranker: BaseRerankFunction) -> None:
        self.reranker = reranker

    def facts(self) -> dict[str, Any]:
        """Return the model's entry in ``/info``."""
        return {"device": self.device, "engine": type(self.reranker).__name__}

    def prepare(self, requests: Sequence[Request], limits: TokenLimits | None, stop: threading.Event) -> ModelRequest:
        """Return the pairs with estimated lengths; the reranker itself decides how to truncate texts."""
        pairs, positions = distinct_pairs(requests)
        widths = np.array([_guess_tokens(query, text) for query, text in pairs], dtype=np.int64)
        flat = np.concatenate([*positions, np.empty(0, dtype=np.intp)])
        return ModelRequest(pairs, widths.tolist(), flat, int(widths[flat].sum()))

    def run(self, rows: Sequence[Any]) -> NDArray[np.float32]:
        """Return the rows' scores; each query's documents are scored together."""
        places: dict[str, list[int]] = defaultdict(list)
        for place, (query, _) in enumerate(rows):
            places[query].append(place)
        requests = [(query, [rows[place][1] for place in own]) for query, own in places.items()]
        scores = np.empty(len(rows), dtype=np.float32)
        made = self.reranker.score_requests(requests, threading.Event())
        for own, some in zip(places.values(), made, strict=True):
            scores[own] = some
        return scores

    def finish(self, request: ModelRequest, logits: NDArray[np.float32], scale: Scale) -> list[float]:
        """Return the scores unchanged: only the reranker knows their scale."""
        return [float(score) for score in logits[request.positions]]


@dataclass(eq=False, slots=True)
class Whole:
    """A request that is scored as a whole.

    :param request: the query and its documents.
    """

    request: Request
    scores: list[float] = field(default_factory=list)  # the batcher keeps one number per row; this keeps all scores


class WholeModel(PlainModel):
    """A reranker whose scores depend on the other documents: a request is never split or mixed with others."""

    def prepare(self, requests: Sequence[Request], limits: TokenLimits | None, stop: threading.Event) -> ModelRequest:
        """Return one row for each request that has documents, as wide as all its pairs together."""
        rows = [Whole(request) for request in requests if request[1]]
        widths = [sum(_guess_tokens(row.request[0], text) for text in row.request[1]) for row in rows]
        return ModelRequest(rows, widths, np.empty(0, dtype=np.intp), sum(widths))

    def run(self, rows: Sequence[Any]) -> NDArray[np.float32]:
        """Score each row's request, keep its scores in the row, and return zeros."""
        made = self.reranker.score_requests([row.request for row in rows], threading.Event())
        for row, scores in zip(rows, made, strict=True):
            row.scores = [float(score) for score in scores]
        return np.zeros(len(rows), dtype=np.float32)

    def finish(self, request: ModelRequest, logits: NDArray[np.float32], scale: Scale) -> list[float]:
        """Return the scores kept in the rows."""
        return [score for row in request.rows for score in row.scores]


Model = EngineModel | PlainModel


def host(reranker: BaseRerankFunction) -> Model:
    """Wrap a reranker as a model of the server.

    :param reranker: the reranker.
    :returns: a model; its requests share batches if the reranker allows it.
    """
    if isinstance(reranker, EngineRerankFunction):
        return EngineModel(reranker)
    return PlainModel(reranker) if reranker.pointwise else WholeModel(reranker)


class Models:
    """The server's models by name.

    :param loaders: for each name, a function that creates the reranker; the first is the default model.
    :param report: called with the model's device and a report after each batch.
    """

    def __init__(
        self,
        loaders: Mapping[str, Callable[[], BaseRerankFunction]],
        *,
        report: Callable[[str, BatchReport], object] = lambda device, report: None,
    ) -> None:
        self._loaders = dict(loaders)
        self.report = report
        self._loading = threading.Lock()
        self._loaded: dict[str, Model] = {}
        self._batchers: dict[str, Batcher] = {}

    @property
    def names(self) -> list[str]:
        """Names of all models, the default first."""
        return list(self._loaders)

    @property
    def loaded(self) -> dict[str, Model]:
        """Loaded models by name."""
        return dict(self._loaded)

    @property
    def batchers(self) -> dict[str, Batcher]:
        """Batchers by device."""
        return dict(self._batchers)

    def resolve(self, name: str | None) -> str:
        """Return the name of the model to use.

        :param name: the name in the request. None selects the first model. If the server has only one model, any name
            selects it, because clients of other services send the model names of those services.
        :returns: the name of a model of this server.
        :raises RegistryError: if there are several models and none has that name.
        """
        if name in self._loaders:
            return str(name)
        if name is None or len(self._loaders) == 1:
            return self.names[0]
        raise RegistryError(f"there is no model {name!r}; this server has: {', '.join(self.names)}")

    def get(self, name: str) -> Model:
        """Return a model, and load it at first use. This blocks; models load one at a time.

        :param name: a name in ``names``.
        :returns: the model; its device has a batcher from now on.
        """
        if name not in self._loaded:
            with self._loading:
                if name not in self._loaded:
                    model = host(self._loaders[name]())
                    self._add_batcher(model.device)
                    self._loaded[name] = model
        return self._loaded[name]

    def close(self, seconds: float) -> None:
        """Finish the waiting requests of all devices, and fail those that remain after this many seconds."""
        for batcher in self.batchers.values():
            batcher.close(seconds)

    def _add_batcher(self, device: str) -> None:
        if device not in self._batchers:
            self._batchers[device] = Batcher(device, report=lambda report: self.report(device, report))


def _guess_tokens(query: str, text: str) -> int:
    return 1 + min(len(query) + len(text), 4 * 2048) // CHARACTERS_PER_TOKEN
