"""Results that a caller passed in: checked, named in errors, and with scores that compare."""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from milvus_rerank.errors import InputError
from milvus_rerank.results import DocumentScores, RerankResult
from milvus_rerank.validation import check_list

RERANK_SCORE = "rerank_score"
"""The key in ``RerankResult.extra`` under which the reranker's own score is kept when another takes its place."""


def read_results(results: object) -> tuple[list[RerankResult], dict[int, float]]:
    """Return results with the scores to compare them by.

    :param results: what the caller gave.
    :returns: the results, and the score of each place that has one; those of several stages on one scale.
    :raises InputError: for something that is no list of results, or a score that is NaN or infinite.
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
    """Return what to call a result in an error.

    :param result: the result.
    :param place: where it stands in the caller's list.
    :returns: such as ``results[3] (id 17)``.
    """
    return f"results[{place}]" + ("" if result.id is None else f" (id {result.id!r})")


def rescored(result: RerankResult, score: float) -> RerankResult:
    """Return a result with a score that compares with all others.

    :param result: a result with a score.
    :param score: the new one.
    :returns: ``stage`` is None; the reranker's own score is in ``extra["rerank_score"]``, where one that is there
        already stays.
    """
    return replace(result, score=score, stage=None, extra={RERANK_SCORE: result.score, **(result.extra or {})})


def unscored(given: Sequence[RerankResult]) -> list[RerankResult]:
    """Return the results without a score, in their order.

    :param given: results.
    :returns: some of them.
    """
    return [result for result in given if result.score is None]
