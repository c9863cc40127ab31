"""Comparison of a smaller or faster form of a model with its float32 scores."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from milvus_rerank.evaluation.metrics import ndcg
from milvus_rerank.export.samples import TOP, Samples
from milvus_rerank.results import rank

Scores = Sequence[Sequence[float]]
"""The scores of each query's documents."""


@dataclass(frozen=True, slots=True)
class Fidelity:
    """Agreement of a model's scores with its float32 scores.

    :param queries: the number of queries compared.
    :param pairs: the number of pairs of query and document.
    :param top_10: the number of documents that both top tens share; the mean over the queries.
    :param least_top_10: the same number for the query with the fewest shared documents.
    :param spearman: Spearman's rank correlation over a query's documents; the mean over the queries.
    :param difference: the largest absolute difference between two scores of a pair.
    :param ndcg_before: nDCG@10 of the reference's order; None without judgments.
    :param ndcg_after: nDCG@10 of the candidate's order; None without judgments.
    """

    queries: int
    pairs: int
    top_10: float
    least_top_10: int
    spearman: float
    difference: float
    ndcg_before: float | None = None
    ndcg_after: float | None = None

    @property
    def ndcg_change(self) -> float | None:
        """The change of nDCG@10; a loss is negative."""
        if self.ndcg_before is None or self.ndcg_after is None:
            return None
        return self.ndcg_after - self.ndcg_before

    def to_dict(self) -> dict[str, Any]:
        """Return the figures as JSON-safe Python values."""
        return {**asdict(self), "ndcg_change": self.ndcg_change}


def compare_scores(texts: Samples, reference: Scores, candidate: Scores) -> Fidelity:
    """Compare two sets of scores of the same texts, at least one query: float32 scores, and those to check."""
    before, after = ([rank(row, TOP) for row in scores] for scores in (reference, candidate))
    shared = [len(set(old) & set(new)) for old, new in zip(before, after, strict=True)]
    rows = [(np.asarray(old), np.asarray(new)) for old, new in zip(reference, candidate, strict=True)]
    return Fidelity(
        queries=len(texts.samples),
        pairs=texts.pairs,
        top_10=sum(shared) / len(shared),
        least_top_10=min(shared),
        spearman=float(np.mean([rank_correlation(old, new) for old, new in rows])),
        difference=max(float(np.abs(old - new).max()) for old, new in rows),
        ndcg_before=_mean_ndcg(texts, before),
        ndcg_after=_mean_ndcg(texts, after),
    )


def rank_correlation(left: NDArray[Any], right: NDArray[Any]) -> float:
    """Return Spearman's rank correlation of two rows of scores; equal values share their mean rank.

    If all values of one side are equal, the correlation is undefined; the result is then 1 if all values of the other
    side are equal, too, else 0.
    """
    first, second = _ranks(left), _ranks(right)
    spread = float(np.sqrt((first @ first) * (second @ second)))
    if spread == 0:
        return float(not first.any() and not second.any())
    return float(first @ second) / spread


def _ranks(values: NDArray[Any]) -> NDArray[np.float64]:
    """Return the rank of each value, centred at 0; equal values get their mean rank."""
    _, groups, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    ranks = (last - (counts - 1) / 2)[groups.reshape(-1)]
    return np.asarray(ranks - ranks.mean(), dtype=np.float64)


def _mean_ndcg(texts: Samples, orders: Sequence[Sequence[int]]) -> float | None:
    if texts.judgments is None:
        return None
    run: Mapping[str, list[str]] = {
        sample.id: [sample.ids[index] for index in order] for sample, order in zip(texts.samples, orders, strict=True)
    }
    judged = {query: relevance for query, relevance in texts.judgments.items() if query in run}
    if not any(score > 0 for relevance in judged.values() for score in relevance.values()):
        return None
    figures = ndcg(run, judged, TOP)
    return sum(figures.values()) / len(figures)
