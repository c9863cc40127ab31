"""PluginRerankFunction: a full rerank function around any object that scores texts."""

import threading
from collections.abc import Sequence
from typing import Any, Protocol

from milvus_rerank.errors import RegistryError, ScoreError
from milvus_rerank.reranker.base import BaseRerankFunction
from milvus_rerank.scoring import Request, check_stop


class Scorer(Protocol):
    """The interface of a plugin: scores of texts for a query, in input order, larger is better."""

    def score(self, query: str, documents: list[str], /) -> Sequence[float]:
        """Score documents for one query."""
        ...


class PluginRerankFunction(BaseRerankFunction):
    """Rerank with any object that has ``score(query, texts)``.

    :param scorer: an object that returns one number per text, in input order, larger is better. It may have the
        attribute ``pointwise = False``, as in :class:`~milvus_rerank.reranker.base.BaseRerankFunction`.
    :param name: the scorer's name in errors.
    """

    def __init__(self, scorer: Scorer, name: str) -> None:
        self.scorer = scorer
        self.name = name
        self.pointwise = bool(getattr(scorer, "pointwise", True))

    def score_requests(self, requests: Sequence[Request], stop: threading.Event) -> list[list[float]]:
        """Score the requests one after another."""
        scores = []
        for query, documents in requests:
            check_stop(stop)
            answer = self.scorer.score(query, list(documents))
            try:
                scores.append([float(score) for score in answer])
            except (TypeError, ValueError) as error:
                raise ScoreError(
                    f"reranker {self.name!r} must return one number per document, got {str(answer)[:60]}: {error}"
                ) from error
        return scores

    def __repr__(self) -> str:
        return f"PluginRerankFunction({self.scorer!r}, {self.name!r})"


def wrap(reranker: Any, name: str) -> BaseRerankFunction:
    """Return a plugin's object as a rerank function.

    :param reranker: a rerank function, or any object with ``score(query, texts)``.
    :param name: the plugin's name.
    :returns: the object, or a wrapper around it.
    :raises RegistryError: if the object has no ``score`` method.
    """
    if isinstance(reranker, BaseRerankFunction):
        return reranker
    if not callable(getattr(reranker, "score", None)):
        raise RegistryError(
            f"reranker {name!r} made a {type(reranker).__name__}, which has no method score(query, texts)"
        )
    return PluginRerankFunction(reranker, name)
