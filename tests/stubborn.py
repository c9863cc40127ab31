"""A reranker that waits and raises as it is told."""

import threading
import time
from collections.abc import Sequence

from milvus_rerank.errors import OutOfMemoryError
from milvus_rerank.reranker.base import BaseRerankFunction
from milvus_rerank.scoring import Request

BODY = {"query": "q", "documents": ["a", "b"]}


class Stubborn(BaseRerankFunction):
    """Scores documents by their length; waits while ``hold`` is set, and raises for documents that ask for it."""

    def __init__(self) -> None:
        self.hold = threading.Event()
        self.busy = threading.Event()
        self.scored: list[str] = []
        self.seconds = 0.0

    def score_requests(self, requests: Sequence[Request], stop: threading.Event) -> list[list[float]]:
        self.busy.set()
        while self.hold.is_set():
            time.sleep(0.002)
        time.sleep(self.seconds)
        texts = [text for _, documents in requests for text in documents]
        self.scored += texts
        if "raise" in texts:
            raise RuntimeError(f"secret{len(texts)}text in a message")
        if "memory" in texts:
            raise OutOfMemoryError("one pair does not fit")
        if "nan" in texts:
            return [[float("nan")] * len(documents) for _, documents in requests]
        return [[float(len(text)) for text in documents] for _, documents in requests]
