"""Fusing lists of scores: the two ways to do it, and the rerank score with the first stage's."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from milvus_rerank.errors import InputError
from milvus_rerank.postprocess.normalize import minmax
from milvus_rerank.postprocess.read import label, read_results, rescored, unscored
from milvus_rerank.results import RerankResult, rank
from milvus_rerank.validation import check_count, check_list

# Of each of Milvus' metrics, whether a smaller distance is better.
_SMALLER = {"BM25": False, "COSINE": False, "HAMMING": True, "IP": False, "JACCARD": True, "L2": True}


@dataclass(frozen=True, slots=True)
class RRF:
    """Reciprocal rank fusion.

    :param k: a larger one makes the first ranks stand out less.
    :raises InputError: if it is no positive integer.
    """

    k: int = 60

    def __post_init__(self) -> None:
        check_count(self.k, "k")


@dataclass(frozen=True, slots=True)
class Weighted:
    """A weighted sum of the searches' scores.

    :param weights: one for each search, in their order.
    :param normalize: bring the scores to the range 0 to 1 first.
    :raises InputError: if a weight is no number.
    """

    weights: tuple[float, ...]
    normalize: bool = True

    def __post_init__(self) -> None:
        for index, weight in enumerate(check_list(self.weights, "weights", "numbers")):
            if isinstance(weight, bool) or not isinstance(weight, (int, float)) or not math.isfinite(weight):
                raise InputError(f"weights[{index}] must be a number, got {weight!r}")
        object.__setattr__(self, "weights", tuple(self.weights))  # a list would make the value unhashable


def fuse(results: Sequence[RerankResult], fusion: RRF | Weighted = RRF(), *, metric: str) -> list[RerankResult]:
    """Return reranked hits in a new order, by the rerank score and the first stage's distance together.

    ``RRF(k)`` scores a hit 1 / (k + rank) in each of the two orders, ranks from 1, and adds. ``Weighted((0.7, 0.3))``
    takes 0.7 of the rerank score and 0.3 of the distance, each brought to 0 to 1 over these hits as
    ``normalize(..., "minmax")`` does, or as they are with ``normalize=False``. Where a smaller distance is better, it
    counts with its sign turned.

    :param results: the reranked hits of one query.
    :param fusion: how to make one score of two.
    :param metric: the first stage's, in any case: ``COSINE``, ``IP``, ``BM25`` (larger is better), ``L2``, ``JACCARD``
        or ``HAMMING`` (smaller is better). For hits of a hybrid search, whose distance is a fused score, ``IP``.
    :returns: the hits, best first, ties by their place; ``score`` is the fused one, the reranker's own is in
        ``extra["rerank_score"]``. Hits without a score follow as they are.
    :raises InputError: for an unknown metric, something else than two weights, or a scored hit without a distance.
    """
    given, scores = read_results(results)
    sign = _sign(metric)
    first = [sign * _distance(given[place], place) for place in scores]
    fused = _fused((list(scores.values()), first), fusion)
    best = [(list(scores)[index], fused[index]) for index in rank(fused)]
    return [rescored(given[place], score) for place, score in best] + unscored(given)


def _fused(lists: tuple[Sequence[float], Sequence[float]], fusion: RRF | Weighted) -> list[float]:
    if isinstance(fusion, RRF):
        fused = [0.0] * len(lists[0])
        for scores in lists:
            for place, index in enumerate(rank(scores), 1):
                fused[index] += 1 / (fusion.k + place)
        return fused
    if not isinstance(fusion, Weighted):
        raise InputError(f"fusion must be RRF(...) or Weighted(...), got {fusion!r}")
    if len(fusion.weights) != 2:
        raise InputError(
            f"Weighted must have two weights here, that of the rerank score and that of the distance, such as "
            f"Weighted((0.7, 0.3)); got {len(fusion.weights)}"
        )
    reranked, first = (minmax(scores) if fusion.normalize else scores for scores in lists)
    of_rerank, of_first = fusion.weights
    return [of_rerank * one + of_first * other for one, other in zip(reranked, first, strict=True)]


def _sign(metric: object) -> int:
    smaller = _SMALLER.get(metric.upper()) if isinstance(metric, str) else None
    if smaller is None:
        raise InputError(f"metric must be one of {', '.join(sorted(_SMALLER))}, in any case, got {metric!r}")
    return -1 if smaller else 1


def _distance(result: RerankResult, place: int) -> float:
    if result.distance is None or not math.isfinite(result.distance):
        raise InputError(
            f"{label(result, place)} has the distance {result.distance}, and fusing needs a number. Hits of a search "
            f"have one, by TwoStageSearch or rerank_hits; plain texts and rows of query() have none"
        )
    return float(result.distance)
