"""A reranker for replicas, by name: the lexical one, which sleeps if the query says so."""

import threading
from collections.abc import Sequence

from milvus_rerank import LexicalRerankFunction
from milvus_rerank.scoring import Request


class Sleepy(LexicalRerankFunction):
    def score_requests(self, requests: Sequence[Request], stop: threading.Event) -> list[list[float]]:
        for query, _ in requests:
            if query.startswith("sleep "):
                stop.wait(float(query.partition(" ")[2]))
        return super().score_requests(requests, stop)


def make_sleepy() -> LexicalRerankFunction:
    return Sleepy()
