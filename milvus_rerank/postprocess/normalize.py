"""Normalise scores to a scale from 0 to 1, and keep those above a threshold."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal, get_args, overload

from milvus_rerank.errors import InputError
from milvus_rerank.postprocess.read import read_results, rescored
from milvus_rerank.result_list import RerankResults, Score
from milvus_rerank.results import RerankResult
from milvus_rerank.validation import check_choice, check_list, check_threshold

Method = Literal["sigmoid", "softmax", "minmax", "rank"]
METHODS: tuple[Method, ...] = get_args(Method)


@overload
def normalize(scores: Iterable[RerankResult[Score]], method: Method) -> RerankResults[Score]: ...


@overload
def normalize(scores: Iterable[float], method: Method) -> list[float]: ...


def normalize(scores: Iterable[Any], method: Method) -> list[Any]:
    """Return scores on a scale from 0 to 1, larger is better; the order does not change.

    ``sigmoid``: 1 / (1 + exp(-x)) of each score; for logits. ``softmax``: exp(x) / sum of all exp(x); the scores add up
    to 1. ``minmax``: (x - least) / (largest - least); 1 for all if the scores are equal. ``rank``: the share of scores
    that are not larger, (n - number of larger scores) / n; 1 for the best, and equal scores stay equal.

    Different scores may become equal in floating point: the sigmoids of 40 and 50 are both 1.0.

    :param scores: the results of one query, or plain numbers.
    :param method: the formula.
    :returns: the results with normalised scores, and the reranker's in ``extra["rerank_score"]``; numbers for numbers.
    :raises InputError: for an unknown method, or a score that is NaN, infinite or not a number.
    """
    formula = _FORMULAS[check_choice(method, "method", METHODS)]
    items = check_list(scores, "scores", "numbers or RerankResult")
    if any(isinstance(item, RerankResult) for item in items):
        results, known = read_results(items)
        scaled = dict(zip(known, formula(list(known.values())), strict=True))
        return RerankResults(
            rescored(item, scaled[index]) if index in scaled else item for index, item in enumerate(results)
        )
    return formula([_number(item, index) for index, item in enumerate(items)])


def above(results: Sequence[RerankResult[Any]], threshold: float) -> RerankResults:
    """Return the results with a score of at least ``threshold``, as ``threshold=`` of a call does.

    Use it for scores computed after a call, such as fused scores. Of a cascade's results it keeps only those of the
    last stage, as the threshold is on that stage's scale; :func:`normalize` and
    :func:`~milvus_rerank.postprocess.fuse.fuse` put all scores on one scale.

    :param results: the results of one query.
    :param threshold: the least score.
    :returns: the kept results, in their order; results without a score are dropped.
    :raises InputError: if the threshold is not a number, or ``results`` does not hold results.
    """
    checked, _ = read_results(results)
    least = check_threshold(threshold)
    if least is None:
        raise InputError("threshold must be a number, got None")
    last = max((result.stage or 0 for result in checked if result.score is not None), default=0)
    kept = (result for result in checked if (result.stage or 0) == last)
    return RerankResults(result for result in kept if result.score is not None and result.score >= least)


def minmax(scores: Sequence[float]) -> list[float]:
    """Return finite scores scaled to 0 to 1, in the same order; 1 for all if they are equal."""
    low, high = min(scores, default=0.0), max(scores, default=0.0)
    if low == high:
        return [1.0] * len(scores)
    half = 1.0 if math.isfinite(high - low) else 0.5  # the difference of two large numbers may overflow
    return [(half * score - half * low) / (half * high - half * low) for score in scores]


def _sigmoid(scores: Sequence[float]) -> list[float]:
    powers = [math.exp(-abs(score)) for score in scores]  # at most 1, so they never overflow
    return [(1 if score >= 0 else power) / (1 + power) for score, power in zip(scores, powers, strict=True)]


def _softmax(scores: Sequence[float]) -> list[float]:
    high = max(scores, default=0.0)
    parts = [math.exp(score - high) for score in scores]
    total = math.fsum(parts)
    return [part / total for part in parts]


def _rank(scores: Sequence[float]) -> list[float]:
    count = len(scores)
    better: dict[float, int] = {}
    for position, score in enumerate(sorted(scores, reverse=True)):
        better.setdefault(score, position)
    return [(count - better[score]) / count for score in scores]


_FORMULAS: Mapping[str, Callable[[Sequence[float]], list[float]]] = {
    "sigmoid": _sigmoid,
    "softmax": _softmax,
    "minmax": minmax,
    "rank": _rank,
}


def _number(value: Any, index: int) -> float:
    number = math.nan
    if not isinstance(value, (bool, str, bytes)) and hasattr(value, "__float__"):
        number = float(value)
    if not math.isfinite(number):
        raise InputError(f"scores[{index}] must be a finite number, got {value!r}")
    return number
