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
from milvus_rerank.reranker.engine import EngineRerankFunction
from milvus_rerank.scoring import Request
from milvus_rerank.scoring.activation import Activation, raw, sigmoid
from milvus_rerank.server.batcher import Batcher, BatchReport
from milvus_rerank.server.dialects import Cut, Scale

CHARACTERS_PER_TOKEN = 4
"""A guess at the length of a text, for rerankers that count nothing themselves."""
PLAIN_BATCH_TOKENS = 16384
"""The budget of their batches: so much is scored between two looks at who waits."""

Pair = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Prepared:
    """A request on its way to the batcher.

    :param pairs: the distinct pairs whose logits will be remembered; none under limits of this request.
    :param rows: what to score, as the model takes it.
    :param widths: how many tokens wide a batch must be to hold each.
    :param known: logits of all distinct pairs; those to score are NaN.
    :param places: of each document in the request, its distinct pair.
    :param counts: how many rows each pair to score has: one for each window over a long document.
    """

    pairs: list[Pair]
    rows: Sequence[Any]
    widths: Sequence[int]
    known: NDArray[np.float32]
    places: NDArray[np.intp]
    counts: Sequence[int] = ()


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

    def prepare(self, requests: Sequence[Request], cut: Cut | None) -> Prepared:
        """Tokenise requests, but for the pairs whose logits are remembered."""
        pairs, places = _distinct(requests)
        known = np.full(len(pairs), np.nan, dtype=np.float32)
        cache = self._scorer.score_cache
        if cache is not None and cut is None:
            found = cache.get(self._scorer.settings, pairs)
            known[:] = [np.nan if logit is None else logit for logit in found]
        absent = [pair for pair, logit in zip(pairs, known, strict=True) if np.isnan(logit)]
        rows = self._scorer.rows(absent)
        if cut is not None:
            rows = [
                self._scorer.encoder.shorten(
                    row, document_tokens=cut.document_tokens, pair_tokens=cut.pair_tokens, left=cut.left
                )
                for row in rows
            ]
            absent = []  # not to be remembered: under other limits they have other logits
        pieces, counts = self._scorer.split(rows)
        return Prepared(absent, pieces, self._scorer.widths(pieces), known, places, counts)

    def run(self, rows: Sequence[Any]) -> NDArray[np.float32]:
        """Return the rows' logits."""
        return self._scorer.forward(rows)

    def finish(self, prepared: Prepared, logits: NDArray[np.float32], scale: Scale) -> list[float]:
        """Return the scores of all documents, requests one after the other."""
        whole = prepared.known.copy()
        joined = self._scorer.join(logits, prepared.counts)
        whole[np.isnan(whole)] = joined.values
        if prepared.pairs:
            self._scorer.remember(prepared.pairs, joined)
        activations: dict[Scale, Activation] = {"raw": raw, "sigmoid": sigmoid, "model": self._scorer.activation}
        activate = activations[scale]
        return [float(score) for score in activate(whole[prepared.places])]


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

    def prepare(self, requests: Sequence[Request], cut: Cut | None) -> Prepared:
        """Return the pairs, and lengths as far as they can be guessed; it cuts texts as it likes."""
        pairs, places = _distinct(requests)
        widths = [_guess_tokens(query, text) for query, text in pairs]
        return Prepared(pairs, pairs, widths, np.full(len(pairs), np.nan, dtype=np.float32), places)

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

    def finish(self, prepared: Prepared, logits: NDArray[np.float32], scale: Scale) -> list[float]:
        """Return the scores: what they mean, only the reranker knows."""
        return [float(score) for score in logits[prepared.places]]


@dataclass(eq=False, slots=True)
class Whole:
    """A request that is scored in one go.

    :param request: the query and its documents.
    """

    request: Request
    scores: list[float] = field(default_factory=list)  # the batcher knows one number of a row; here are all


class WholeModel(PlainModel):
    """A reranker whose scores depend on what is asked together: a request is neither split nor mixed with others."""

    def prepare(self, requests: Sequence[Request], cut: Cut | None) -> Prepared:
        """Return one row for each request that has documents, as wide as all of its pairs."""
        rows = [Whole(request) for request in requests if request[1]]
        widths = [sum(_guess_tokens(row.request[0], text) for text in row.request[1]) for row in rows]
        return Prepared([], rows, widths, np.empty(0, dtype=np.float32), np.empty(0, dtype=np.intp))

    def run(self, rows: Sequence[Any]) -> NDArray[np.float32]:
        """Score each row's request, and note the scores in the row."""
        made = self.reranker.score_requests([row.request for row in rows], threading.Event())
        for row, scores in zip(rows, made, strict=True):
            row.scores = [float(score) for score in scores]
        return np.zeros(len(rows), dtype=np.float32)

    def finish(self, prepared: Prepared, logits: NDArray[np.float32], scale: Scale) -> list[float]:
        """Return what was noted."""
        return [score for row in prepared.rows for score in row.scores]


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


def _distinct(requests: Sequence[Request]) -> tuple[list[Pair], NDArray[np.intp]]:
    """Return the distinct pairs, and of each document its place among them."""
    numbers: dict[Pair, int] = {}
    places = [
        numbers.setdefault((query, document), len(numbers)) for query, documents in requests for document in documents
    ]
    return list(numbers), np.array(places, dtype=np.intp)
