"""EngineRerankFunction: rerank with a model that an engine runs in this process."""

import threading
from collections.abc import Sequence
from dataclasses import replace

from milvus_rerank.reranker.base import BaseRerankFunction
from milvus_rerank.results import DocumentScores
from milvus_rerank.scoring import Request
from milvus_rerank.scoring.scorer import PairScorer


class EngineRerankFunction(BaseRerankFunction):
    """Rerank with a ready scorer; subclasses load one.

    :param scorer: the encoder and engine of a model.
    :param model_name: the model's name in ``repr``.
    """

    def __init__(self, scorer: PairScorer, *, model_name: str) -> None:
        self.scorer = scorer
        self.model_name = model_name

    def score_requests(self, requests: Sequence[Request], stop: threading.Event) -> list[list[float]]:
        """Score all documents of all queries in one pass over length-sorted batches."""
        return self.scorer.score(requests, stop)

    def score_documents(
        self, requests: Sequence[Request], top_k: int | None, stop: threading.Event
    ) -> list[DocumentScores]:
        """Score all documents; add the windows of long documents that have the scores."""
        logits = self.scorer.logits(requests, stop)
        scores = [DocumentScores(numbers) for numbers in self.scorer.activate(logits)]
        if self.scorer.chunks is None:
            return scores
        # Spans need another tokenisation: only for documents that the caller gets.
        return [
            replace(query, spans=self.scorer.spans(request, query_logits, query.rank(top_k), stop))
            for query, request, query_logits in zip(scores, requests, logits, strict=True)
        ]

    @property
    def device(self) -> str:
        """Device of the model, such as ``cpu`` or ``cuda:0``."""
        return self.scorer.engine.device

    def __repr__(self) -> str:
        engine, encoder = self.scorer.engine, self.scorer.encoder
        return (
            f"{type(self).__name__}({self.model_name!r}, device={engine.device!r}, engine={engine.name!r}, "
            f"dtype={engine.dtype!r}, max_length={encoder.max_length})"
        )
