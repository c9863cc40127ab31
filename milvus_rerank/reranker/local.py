"""EngineRerankFunction: rerank with a model that an engine runs in this process."""

import copy
import threading
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from milvus_rerank.errors import InputError
from milvus_rerank.loading.load import load_scorer
from milvus_rerank.loading.options import LoadOptions
from milvus_rerank.reranker.base import BaseRerankFunction
from milvus_rerank.results import DocumentScores
from milvus_rerank.scoring import Request
from milvus_rerank.scoring.scorer import PairScorer

if TYPE_CHECKING:
    from typing_extensions import Self

_loading = threading.Lock()


class EngineRerankFunction(BaseRerankFunction):
    """Rerank with a ready scorer; subclasses load one.

    Pickles hold the options, not the model: it is loaded at the first use after unpickling. Copies share the model.

    :param scorer: the encoder and engine of a model.
    :param model_name: the model's name in ``repr``.
    :param options: the options to load the model again with; None if it cannot be loaded again.
    """

    def __init__(self, scorer: PairScorer, *, model_name: str, options: LoadOptions | None = None) -> None:
        self._scorer: PairScorer | None = scorer
        self._options = options
        self.model_name = model_name

    @property
    def scorer(self) -> PairScorer:
        """Encoder and engine of the model."""
        if self._scorer is None:
            with _loading:
                if self._scorer is None:
                    self._scorer = load_scorer(self._reload_options())
        return self._scorer

    def score_requests(self, requests: Sequence[Request], stop: threading.Event) -> list[list[float]]:
        """Score all documents of all queries in one pass over length-sorted batches."""
        return self.scorer.score(requests, stop)

    def score_documents(
        self, requests: Sequence[Request], top_k: int | None, stop: threading.Event
    ) -> list[DocumentScores]:
        """Score all documents; add the windows of long documents that have the scores."""
        scorer = self.scorer
        logits = scorer.logits(requests, stop)
        scores = [DocumentScores(numbers) for numbers in scorer.activate(logits)]
        if scorer.chunks is None:
            return scores
        # Spans need another tokenisation: only for documents that the caller gets.
        return [
            replace(query, spans=scorer.spans(request, query_logits, query.rank(top_k), stop))
            for query, request, query_logits in zip(scores, requests, logits, strict=True)
        ]

    @property
    def device(self) -> str:
        """Device of the model, such as ``cpu`` or ``cuda:0``."""
        return self.scorer.engine.device

    def _reload_options(self) -> LoadOptions:
        if self._options is None:
            raise InputError(
                f"{type(self).__name__}({self.model_name!r}) was created from a ready scorer, which only this process "
                "has; use CrossEncoderRerankFunction(...) or BGERerankFunction(...)"
            )
        return self._options

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_options": self._reload_options(), "_scorer": None}

    def __copy__(self) -> "Self":
        shared = object.__new__(type(self))
        shared.__dict__.update(self.__dict__)
        return shared

    def __deepcopy__(self, memo: object) -> "Self":
        return copy.copy(self)

    def __repr__(self) -> str:
        if self._scorer is None:
            return f"{type(self).__name__}({self.model_name!r}, not loaded)"
        engine, encoder = self._scorer.engine, self._scorer.encoder
        return (
            f"{type(self).__name__}({self.model_name!r}, device={engine.device!r}, engine={engine.name!r}, "
            f"dtype={engine.dtype!r}, max_length={encoder.max_length})"
        )
