"""Read results that a caller passed in: check them, name them in errors, make their scores comparable."""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from milvus_rerank.errors import InputError
from milvus_rerank.results import DocumentScores, RerankResult
from milvus_rerank.validation import check_list

RERANK_SCORE = "rerank_score"
"""The key in ``RerankResult.extra`` that keeps the reranker's score when another score replaces it."""


def read_results(results: object) -> tuple[list[RerankResult[Any]], dict[int, float]]:
    """Return the results, and the scores to compare them by: by position, without unscored results, on one scale."""
    checked: list[Any] = check_list(results, "results", "RerankResult")
    for index, result in enumerate(checked):
        if not isinstance(result, RerankResult):
            raise InputError(f"results[{index}] must be a RerankResult, got {type(result).__name__}")
        if result.score is not None and not math.isfinite(result.score):
            raise InputError(f"the score of {label(result, index)} must be a finite number or None, got {result.score}")
    scored = [(index, result) for index, result in enumerate(checked) if result.score is not None]
    stages = [result.stage or 0 for _, result in scored]
    scores = DocumentScores([result.score for _, result in scored], stages=stages).flat()
    return checked, {index: score for (index, _), score in zip(scored, scores, strict=True)}


def label(result: RerankResult[Any], index: int) -> str:
    """Return a result's name in an error, such as ``results[3] (id 17)``."""
    return f"results[{index}]" + ("" if result.id is None else f" (id {result.id!r})")


def rescored(result: RerankResult[Any], score: float) -> RerankResult[Any]:
    """Return a result with another score, and the reranker's in ``extra["rerank_score"]`` if none is there yet."""
    return replace(result, score=score, stage=None, extra={RERANK_SCORE: result.score, **(result.extra or {})})


def unscored(results: Sequence[RerankResult[Any]]) -> list[RerankResult[Any]]:
    """Return the results without a score, in their order."""
    return [result for result in results if result.score is None]
