"""Hits whose ids and texts are numbers."""

from collections.abc import Sequence
from typing import Any

from milvus_rerank import RerankResult


def hit(number: int, score: float | None, distance: float | None = 0.5, **more: Any) -> RerankResult[Any]:
    return RerankResult(f"text {number}", score, number, id=number, distance=distance, entity={}, **more)


def ids(results: Sequence[RerankResult[Any]]) -> list[Any]:
    return [result.id for result in results]


A, B, C = hit(0, 2.0, 0.9), hit(1, 1.0, 0.95), hit(2, 3.0, 0.1)
