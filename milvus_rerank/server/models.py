"""The models a server answers with: loaded at start or at first use, one at a time, and batched by device."""

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
from milvus_rerank.scoring.scorer import Prepared, TokenLimits, distinct_pairs
from milvus_rerank.server.api_formats import Scale
from milvus_rerank.server.batcher import Batcher, BatchReport

CHARACTERS_PER_TOKEN = 4
"""A guess at the length of a text, for rerankers that count nothing themselves."""
PLAIN_BATCH_TOKENS = 16384
"""The budget of their batches: so much is scored between two looks at who waits."""


@dataclass(frozen=True, slots=True)
class ModelRequest:
    """A request as a model takes it.

    :param rows: what to score.
    :param widths: how many tokens wide a batch must be to hold each row.
    :param positions: of each document, its position among the distinct pairs.
    :param tokens: the tokens of all documents, each with its query's, without padding; a guess where the model does not
        count any.
    :param prepared: the same for an engine's scorer.
    """

    rows: Sequence[Any]
    widths: Sequence[int]
    positions: NDArray[np.intp]
    tokens: int
    prepared: Prepared | None = None


class EngineModel:
    """A model whose token ids and forward passes the server sees: pairs of many requests go into one batch.

    :param reranker: what scores.
    """

    def __init__(self, reranker: EngineRerankFunction) -> None:
        self.reranker = reranker
        self._scorer = reranker.scorer

    @property
    def device(self) -> str:
        """Where it runs."""
        return self.reranker.device

    @property
    def max_batch_tokens(self) -> int:
        """The budget of a batch; smaller after the device ran out of memory."""
        return self._scorer.max_batch_tokens

    def facts(self) -> dict[str, Any]:
        """Return what ``/info`` says of it."""
        engine, encoder = self._scorer.engine, self._scorer.encoder
        return {
            "device": engine.device,
            "engine": engine.name,
            "dtype": engine.dtype,
            "max_length": encoder.max_length,
            "max_batch_tokens": self.max_batch_tokens,
        }

    def prepare(self, requests: Sequence[Request], limits: TokenLimits | None, stop: threading.Event) -> ModelRequest:
        """Tokenise requests, but for the pairs whose logits are remembered."""
        pairs, positions = distinct_pairs(requests)
        prepared = self._scorer.prepare(pairs, stop, limits)
        flat = np.concatenate([*positions, np.empty(0, dtype=np.intp)])
        return ModelRequest(prepared.rows, prepared.widths, flat, int(prepared.tokens()[flat].sum()), prepared)

    def run(self, rows: Sequence[Any]) -> NDArray[np.float32]:
        """Return the rows' logits."""
        return self._scorer.run(rows)

    def finish(self, request: ModelRequest, logits: NDArray[np.float32], scale: Scale) -> list[float]:
        """Return the scores of all documents, requests one after the other."""
        if request.prepared is None:
            raise TypeError("expected a request that this model has prepared")
        values = self._scorer.finish(request.prepared, logits).values[request.positions]
        activations: dict[Scale, Activation] = {"raw": raw, "sigmoid": sigmoid, "model": self._scorer.activation}
        return [float(score) for score in activations[scale](values)]


class PlainModel:
    """Any other reranker: its scores are taken as they are.

    :param reranker: what scores.
    """

    device = "cpu"
    max_batch_tokens = PLAIN_BATCH_TOKENS

    def __init__(self, reranker: BaseRerankFunction) -> None:
        self.reranker = reranker

    def facts(self) -> dict[str, Any]:
        """Return what ``/info`` says of it."""
        return {"device": self.device, "engine": type(self.reranker).__name__}

    def prepare(self, requests: Sequence[Request], limits: TokenLimits | None, stop: threading.Event) -> ModelRequest:
        """Return the pairs, and lengths as far as they can be guessed; the reranker cuts texts as it likes."""
        pairs, positions = distinct_pairs(requests)
        widths = np.array([_guess_tokens(query, text) for query, text in pairs], dtype=np.int64)
        flat = np.concatenate([*positions, np.empty(0, dtype=np.intp)])
        return ModelRequest(pairs, widths.tolist(), flat, int(widths[flat].sum()))

    def run(self, rows: Sequence[Any]) -> NDArray[np.float32]:
        """Return the rows' scores, each query's in one call."""
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
        """Return the scores: what they mean, only the reranker knows."""
        return [float(score) for score in logits[request.positions]]


@dataclass(eq=False, slots=True)
class Whole:
    """A request that is scored in one go.

    :param request: the query and its documents.
    """

    request: Request
    scores: list[float] = field(default_factory=list)  # the batcher knows one number of a row; here are all


class WholeModel(PlainModel):
    """A reranker whose scores depend on what is asked together: a request is neither split nor mixed with others."""

    def prepare(self, requests: Sequence[Request], limits: TokenLimits | None, stop: threading.Event) -> ModelRequest:
        """Return one row for each request that has documents, as wide as all of its pairs."""
        rows = [Whole(request) for request in requests if request[1]]
        widths = [sum(_guess_tokens(row.request[0], text) for text in row.request[1]) for row in rows]
        return ModelRequest(rows, widths, np.empty(0, dtype=np.intp), sum(widths))

    def run(self, rows: Sequence[Any]) -> NDArray[np.float32]:
        """Score each row's request, and note the scores in the row."""
        made = self.reranker.score_requests([row.request for row in rows], threading.Event())
        for row, scores in zip(rows, made, strict=True):
            row.scores = [float(score) for score in scores]
        return np.zeros(len(rows), dtype=np.float32)

    def finish(self, request: ModelRequest, logits: NDArray[np.float32], scale: Scale) -> list[float]:
        """Return what was noted."""
        return [score for row in request.rows for score in row.scores]


Model = EngineModel | PlainModel


def host(reranker: BaseRerankFunction) -> Model:
    """Return a reranker as the server uses it.

    :param reranker: what scores.
    :returns: one that shares batches where the reranker allows it.
    """
    if isinstance(reranker, EngineRerankFunction):
        return EngineModel(reranker)
    return PlainModel(reranker) if reranker.pointwise else WholeModel(reranker)


class Models:
    """The server's models by name.

    :param loaders: what makes each one's reranker; the first is the default.
    :param report: told of each batch, with the model's device.
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
        """All names, the default first."""
        return list(self._loaders)

    @property
    def loaded(self) -> dict[str, Model]:
        """The models that are ready."""
        return dict(self._loaded)

    @property
    def batchers(self) -> dict[str, Batcher]:
        """The batchers by device."""
        return dict(self._batchers)

    def resolve(self, name: str | None) -> str:
        """Return the name of the model to use.

        :param name: what the client asked for; None, or anything where there is but one model, takes the first: clients
            of other services send those services' names.
        :returns: one of the names.
        :raises RegistryError: if there are several models and none of that name.
        """
        if name in self._loaders:
            return str(name)
        if name is None or len(self._loaders) == 1:
            return self.names[0]
        raise RegistryError(f"there is no model {name!r}; this server has: {', '.join(self.names)}")

    def get(self, name: str) -> Model:
        """Return a model, loading it first if need be. Blocks; one load at a time.

        :param name: one of the names.
        :returns: the model, whose device has a batcher from now on.
        """
        if name not in self._loaded:
            with self._loading:
                if name not in self._loaded:
                    model = host(self._loaders[name]())
                    self._add_batcher(model.device)
                    self._loaded[name] = model
        return self._loaded[name]

    def close(self, seconds: float) -> None:
        """Finish what waits on all devices, and refuse what is left after so many seconds."""
        for batcher in self.batchers.values():
            batcher.close(seconds)

    def _add_batcher(self, device: str) -> None:
        if device not in self._batchers:
            self._batchers[device] = Batcher(device, report=lambda report: self.report(device, report))


def _guess_tokens(query: str, text: str) -> int:
    return 1 + min(len(query) + len(text), 4 * 2048) // CHARACTERS_PER_TOKEN
