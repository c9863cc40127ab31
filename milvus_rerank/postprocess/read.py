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


def read_results(results: object) -> tuple[list[RerankResult], dict[int, float]]:
    """Return results with the scores to compare them by.

    :param results: the caller's results.
    :returns: the results, and the scores by position, without unscored results; several stages share one scale.
    :raises InputError: for a value that is not a list of results, or a score that is NaN or infinite.
    """
    given: list[Any] = check_list(results, "results", "RerankResult")
    for place, result in enumerate(given):
        if not isinstance(result, RerankResult):
            raise InputError(f"results[{place}] must be a RerankResult, got {type(result).__name__}")
        if result.score is not None and not math.isfinite(result.score):
            raise InputError(f"{label(result, place)} has the score {result.score}, expected a finite number or None")
    places = [place for place, result in enumerate(given) if result.score is not None]
    stages = [given[place].stage or 0 for place in places]
    scores = DocumentScores([given[place].score for place in places], stages=stages).flat()
    return given, dict(zip(places, scores, strict=True))


def label(result: RerankResult, place: int) -> str:
    """Return a name for a result, for an error.

    :param result: the result.
    :param place: the result's position in the caller's list.
    :returns: a name such as ``results[3] (id 17)``.
    """
    return f"results[{place}]" + ("" if result.id is None else f" (id {result.id!r})")


def rescored(result: RerankResult, score: float) -> RerankResult:
    """Return a result with a new score, which is comparable with all others.

    :param result: a result with a score.
    :param score: the new score.
    :returns: the result with ``stage`` None and the reranker's score in ``extra["rerank_score"]``; a score that is
        already there stays.
    """
    return replace(result, score=score, stage=None, extra={RERANK_SCORE: result.score, **(result.extra or {})})


def unscored(given: Sequence[RerankResult]) -> list[RerankResult]:
    """Return the results without a score, in their order.

    :param given: the results.
    :returns: the results without a score.
    """
    return [result for result in given if result.score is None]
