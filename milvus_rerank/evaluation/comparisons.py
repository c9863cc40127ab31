"""Comparisons of measured systems: by their metrics, and without judgments by their rankings."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean

from milvus_rerank.evaluation.agreement import overlap, rank_biased_overlap
from milvus_rerank.evaluation.significance import Interval, adjust, adjusted_level, paired_interval, paired_test
from milvus_rerank.evaluation.systems import System


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two systems on the same judged queries.

    :param system: the name of a system.
    :param baseline: the name of the system that it is compared with.
    :param gain: the mean difference of nDCG, system minus baseline.
    :param interval: its interval from the paired randomisation test. It agrees with the p-value: it holds 0 if and only
        if that is above 0.05. None for so few queries that the test cannot refuse any gain.
    :param p_value: the p-value of the test, adjusted for all comparisons of the report.
    :param wins: queries with a higher nDCG.
    :param ties: queries with the same nDCG.
    :param losses: queries with a lower nDCG.
    """

    system: str
    baseline: str
    gain: float
    interval: Interval | None
    p_value: float
    wins: int
    ties: int
    losses: int


@dataclass(frozen=True, slots=True)
class Agreement:
    """Two systems' rankings without judgments, as means over all queries.

    :param system: the name of a system.
    :param other: the name of another system.
    :param overlap: the share of the top ``k`` documents that both have.
    :param rbo: the extrapolated rank-biased overlap with p = 0.9.
    :param same_first: the share of queries with the same first document.
    """

    system: str
    other: str
    overlap: float
    rbo: float
    same_first: float


def is_gain(system: System, baseline: System) -> bool:
    """Return whether a baseline is the first stage of a reranked system."""
    return baseline.reranker is None and system.reranker is not None and system.first_stage == baseline.first_stage


def compare_systems(systems: Sequence[System], metric: str) -> tuple[Comparison, ...]:
    """Compare each system with each earlier system.

    :param systems: measured systems, a first stage before its rerankers.
    :param metric: the metric to compare.
    :returns: the comparisons; those of rerankers with their first stages come first.
    """
    pairs = [(later, earlier) for index, later in enumerate(systems) for earlier in systems[:index]]
    pairs.sort(key=lambda pair: not is_gain(*pair))
    compared = [differences(later, earlier, metric) for later, earlier in pairs]
    p_values = [paired_test(values) for values in compared]
    level = adjusted_level(p_values)
    return tuple(
        Comparison(
            later.name,
            earlier.name,
            fmean(values),
            paired_interval(values, level),
            p_value,
            sum(value > 0 for value in values),
            sum(value == 0 for value in values),
            sum(value < 0 for value in values),
        )
        for (later, earlier), values, p_value in zip(pairs, compared, adjust(p_values), strict=True)
    )


def compare_rankings(systems: Sequence[System], queries: Iterable[str], k: int) -> tuple[Agreement, ...]:
    """Return the agreement of each system with each earlier system.

    :param systems: systems with the rankings of the same queries.
    :param queries: the ids of the queries.
    :param k: the number of ranks that count for the overlap.
    :returns: the agreements.
    """
    names = list(queries)
    agreements = []
    for index, later in enumerate(systems):
        for earlier in systems[:index]:
            pairs = [(later.rankings[name].ids, earlier.rankings[name].ids) for name in names]
            agreements.append(
                Agreement(
                    later.name,
                    earlier.name,
                    fmean(overlap(*pair, k) for pair in pairs),
                    fmean(rank_biased_overlap(*pair) for pair in pairs),
                    fmean(float(first[:1] == second[:1]) for first, second in pairs),
                )
            )
    return tuple(agreements)


def differences(system: System, baseline: System, metric: str) -> list[float]:
    """Return the difference of a metric for each judged query, system minus baseline."""
    values, others = system.measures[metric], baseline.measures[metric]
    return [round(values[name] - others[name], 12) for name in values]
