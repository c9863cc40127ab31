"""Cascades of rerankers that score by a table."""

import threading
from collections.abc import Mapping
from typing import Any

from milvus_rerank import BaseRerankFunction
from milvus_rerank.scoring import check_stop

DOCUMENTS = ["a", "b", "c", "d", "e"]

CHEAP = {"a": 5.0, "b": 1.0, "c": 4.0, "d": 3.0, "e": 2.0}

STRONG = {"a": -7.0, "b": 99.0, "c": -3.0, "d": -5.0, "e": 99.0}


class Table(BaseRerankFunction):
    """Score by a table, and note what was asked for."""

    def __init__(self, values: Mapping[str, float]) -> None:
        self.values = values
        self.asked: list[list[tuple[str, list[str]]]] = []

    def score_requests(self, requests: Any, stop: threading.Event) -> list[list[float]]:
        check_stop(stop)
        self.asked.append([(query, list(texts)) for query, texts in requests])
        return [[self.values[text] for text in texts] for _, texts in requests]

    def __repr__(self) -> str:
        return "Table()"
