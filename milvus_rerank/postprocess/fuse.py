"""Fuse scores: the two fusion methods, and the fusion of rerank scores with the first stage's."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from milvus_rerank.errors import InputError
from milvus_rerank.postprocess.normalize import minmax
from milvus_rerank.postprocess.read import label, read_results, rescored, unscored
from milvus_rerank.result_list import RerankResults, Score
from milvus_rerank.results import RerankResult, rank
from milvus_rerank.validation import check_count, check_list

# Milvus' metrics; True if a smaller distance is better.
_SMALLER = {"BM25": False, "COSINE": False, "HAMMING": True, "IP": False, "JACCARD": True, "L2": True}
METRICS = tuple(_SMALLER)
"""Milvus' metrics."""


@dataclass(frozen=True, slots=True)
class RRF:
    """Reciprocal rank fusion.

    :param k: the constant of the formula; a larger ``k`` gives the first ranks less weight.
    :raises InputError: if ``k`` is not a positive integer.
    """

    k: int = 60

    def __post_init__(self) -> None:
        check_count(self.k, "k")


@dataclass(frozen=True, slots=True)
class Weighted:
    """A weighted sum of the searches' scores.

    :param weights: one weight for each search, in the order of the searches.
    :param normalize: normalise the scores to the range 0 to 1 first.
    :raises InputError: if a weight is not a number.
    """

    weights: tuple[float, ...]
    normalize: bool = True

    def __post_init__(self) -> None:
        for index, weight in enumerate(check_list(self.weights, "weights", "numbers")):
            if isinstance(weight, bool) or not isinstance(weight, (int, float)) or not math.isfinite(weight):
                raise InputError(f"weights[{index}] must be a number, got {weight!r}")
        object.__setattr__(self, "weights", tuple(self.weights))  # a list would make the value unhashable


def fuse(
    results: Sequence[RerankResult[Score]], fusion: RRF | Weighted = RRF(), *, metric: str
) -> RerankResults[Score]:
    """Return reranked hits in a new order, by the rerank score combined with the first stage's distance.

    ``RRF(k)`` scores a hit 1 / (k + rank) in each of the two orders, with ranks from 1, and adds both.
    ``Weighted((0.7, 0.3))`` adds 0.7 times the rerank score and 0.3 times the distance. Both are first normalised to 0
    to 1 over these hits as by ``normalize(..., "minmax")``; ``normalize=False`` leaves them unchanged. If a smaller
    distance is better, its sign is reversed.

    :param results: the reranked hits of one query.
    :param fusion: the fusion method.
    :param metric: the first stage's metric, in upper or lower case: ``COSINE``, ``IP`` or ``BM25`` (larger is better;
        Milvus Lite's BM25 distances are negative, and the smallest is best), ``L2``, ``JACCARD`` or ``HAMMING``
        (smaller is better). Use ``IP`` for hits of a hybrid search, whose distance
        is a fused score.
    :returns: the hits, best first, ties in input order; ``score`` is the fused score, and ``extra["rerank_score"]``
        holds the reranker's. Hits without a score follow unchanged.
    :raises InputError: for an unknown metric, a number of weights other than two, or a scored hit without a distance.
    """
    checked, scores = read_results(results)
    distances = [_distance(checked[index], index) for index in scores]
    sign = _sign(metric, distances)
    first = [sign * distance for distance in distances]
    fused = dict(zip(scores, _fused((list(scores.values()), first), fusion), strict=True))
    order = [list(scores)[position] for position in rank(list(fused.values()))]
    return RerankResults([rescored(checked[index], fused[index]) for index in order] + unscored(checked))


def _fused(lists: tuple[Sequence[float], Sequence[float]], fusion: RRF | Weighted) -> list[float]:
    if isinstance(fusion, RRF):
        fused = [0.0] * len(lists[0])
        for scores in lists:
            for position, index in enumerate(rank(scores), 1):
                fused[index] += 1 / (fusion.k + position)
        return fused
    if not isinstance(fusion, Weighted):
        raise InputError(f"fusion must be RRF(...) or Weighted(...), got {fusion!r}")
    if len(fusion.weights) != 2:
        raise InputError(
            f"fuse needs two weights, one for the rerank score and one for the distance, such as "
            f"Weighted((0.7, 0.3)); got {len(fusion.weights)}"
        )
    reranked, first = (minmax(scores) if fusion.normalize else scores for scores in lists)
    rerank_weight, first_weight = fusion.weights
    return [rerank_weight * score + first_weight * other for score, other in zip(reranked, first, strict=True)]


def _sign(metric: object, distances: Sequence[float]) -> int:
    smaller = _SMALLER.get(metric.upper()) if isinstance(metric, str) else None
    if smaller is None:
        raise InputError(f"metric must be one of {', '.join(sorted(_SMALLER))} in upper or lower case, got {metric!r}")
    if str(metric).upper() == "BM25":  # never negative, but Milvus Lite returns it with its sign reversed
        smaller = min(distances, default=0.0) < 0
    return -1 if smaller else 1


def _distance(result: RerankResult[Any], index: int) -> float:
    if result.distance is None or not math.isfinite(result.distance):
        raise InputError(
            f"the distance of {label(result, index)} must be a finite number, got {result.distance}; pass results of "
            f"TwoStageSearch or rerank_hits: plain texts and rows of query() have no distance"
        )
    return float(result.distance)
