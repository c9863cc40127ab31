"""Scores of a reranker over the most candidates, and the rankings of smaller settings that follow from them."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from statistics import fmean

from milvus_rerank.evaluation.metrics import measure
from milvus_rerank.evaluation.systems import System
from milvus_rerank.evaluation.tuning.settings import Setting, Variant

Relevant = Mapping[str, Mapping[str, int]]


@dataclass
class Scored:
    """The calls of a reranker over the most candidates of some queries.

    :param hits: the first stage's ids of each query, best first.
    :param scores: the reranker's score of each id, by query.
    :param search: the seconds of the first stage, by query.
    :param rerank: the seconds of the reranker, by query.
    """

    hits: dict[str, tuple[str, ...]] = field(default_factory=dict)
    scores: dict[str, dict[str, float]] = field(default_factory=dict)
    search: dict[str, float] = field(default_factory=dict)
    rerank: dict[str, float] = field(default_factory=dict)

    @property
    def pairs(self) -> int:
        """The pairs that were scored."""
        return sum(map(len, self.scores.values()))

    @property
    def seconds_per_pair(self) -> float:
        """The mean seconds of a pair."""
        return sum(self.rerank.values()) / max(1, self.pairs)

    def add(self, first_stage: System, reranked: System) -> None:
        """Add the queries of an evaluation."""
        for query, ranking in reranked.rankings.items():
            timings = reranked.timings[query]
            self.hits[query] = first_stage.rankings[query].ids
            self.scores[query] = dict(zip(ranking.ids, ranking.scores, strict=True))
            self.search[query] = timings.total - timings.rerank
            self.rerank[query] = timings.rerank

    def order(self, query: str, candidates: int) -> list[str]:
        """Return the reranked ids of a query's first candidates; ties keep the first stage's order."""
        scores = self.scores[query]
        return sorted(self.hits[query][:candidates], key=lambda name: -scores[name])


def rankings(setting: Setting, scored: Mapping[Variant, Scored], queries: Iterable[str]) -> dict[str, list[str]]:
    """Return the ranking of each query by a setting, from scores of the most candidates.

    :param setting: the setting.
    :param scored: the scores of its rerankers.
    :param queries: queries that they have scored.
    :returns: ids by query, best first. Those of a cascade are the documents of its last stage.
    """
    last = scored[setting.variant]
    if setting.first is None:
        return {query: last.order(query, setting.candidates) for query in queries}
    first = scored[setting.first]
    kept = {query: first.order(query, setting.candidates)[: setting.keep] for query in queries}
    return {query: sorted(ids, key=lambda name: -last.scores[query][name]) for query, ids in kept.items()}


def quality(
    setting: Setting, scored: Mapping[Variant, Scored], relevant: Relevant, queries: Iterable[str], k: int
) -> float:
    """Return the mean nDCG of a setting over queries."""
    names = list(queries)
    judged = {name: relevant[name] for name in names}
    return fmean(measure(rankings(setting, scored, names), judged, (f"nDCG@{k}",))[f"nDCG@{k}"].values())


def estimated_p95(setting: Setting, scored: Mapping[Variant, Scored]) -> float:
    """Return about how many seconds 95% of the queries take: the reranker's time in proportion to its documents.

    :param setting: the setting.
    :param scored: the scores of its rerankers.
    :returns: seconds; the settings that may be chosen are measured.
    """
    import numpy

    last = scored[setting.variant]
    seconds = []
    for query, ids in last.hits.items():
        read = setting.keep if setting.first is not None else setting.candidates
        share = min(read or 0, len(ids)) / max(1, len(ids))
        seconds.append(last.search[query] + share * last.rerank[query])
        if setting.first is not None:
            seconds[-1] += len(ids) * scored[setting.first].seconds_per_pair
    return float(numpy.percentile(seconds, 95))


def frontier(points: Mapping[Setting, tuple[float, float]]) -> list[Setting]:
    """Return the settings that no other beats in both quality and seconds, the fastest first.

    :param points: quality and seconds of each setting.
    :returns: the settings; the first of two that are equal in both.
    """
    best = float("-inf")
    chosen = []
    for setting, (value, _) in sorted(points.items(), key=lambda item: (item[1][1], -item[1][0])):
        if value > best:
            best = value
            chosen.append(setting)
    return chosen
