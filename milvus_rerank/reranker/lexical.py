"""LexicalRerankFunction: a reranker without a model, for tests and as a baseline."""

import re
import threading
from collections.abc import Sequence

from milvus_rerank.reranker.base import BaseRerankFunction
from milvus_rerank.scoring import Request, check_stop


class LexicalRerankFunction(BaseRerankFunction):
    """Score a document by the share of the query's distinct words in it: from 0 to 1, no model, no download."""

    def score_requests(self, requests: Sequence[Request], stop: threading.Event) -> list[list[float]]:
        """Score each document by the query's words in it; case is ignored."""
        scores = []
        for query, documents in requests:
            check_stop(stop)
            words = _words(query)
            scores.append([len(words & _words(document)) / max(1, len(words)) for document in documents])
        return scores

    def __repr__(self) -> str:
        return "LexicalRerankFunction()"


def _words(text: str) -> set[str]:
    return set(re.findall(r"\w+", text.casefold()))
