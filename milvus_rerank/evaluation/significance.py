"""Statistics of paired differences: intervals by bootstrap, and tests by random signs, from scipy."""

from collections.abc import Sequence
from typing import Any

from milvus_rerank.requirements import require

_RESAMPLES = 9999
_CELLS = 4_000_000
"""Numbers that one batch of resamples may hold: 32 MB."""

Interval = tuple[float, float]


def interval(values: Sequence[float], level: float = 0.95) -> Interval | None:
    """Return the bootstrap interval of a mean, by percentiles of 9,999 resamples with a fixed seed.

    :param values: one value per query.
    :param level: the confidence level.
    :returns: both ends; None for fewer than two values.
    """
    if len(values) < 2:
        return None
    if min(values) == max(values):
        return values[0], values[0]
    stats, numpy = _libraries()
    result = stats.bootstrap(
        (numpy.asarray(values),),
        numpy.mean,
        n_resamples=_RESAMPLES,
        batch=_batch(len(values)),
        confidence_level=level,
        method="percentile",
        rng=numpy.random.default_rng(0),
    )
    return float(result.confidence_interval.low), float(result.confidence_interval.high)


def paired_test(differences: Sequence[float]) -> float:
    """Return the p-value of Fisher's paired randomisation test: the mean difference against random signs, two-sided.

    :param differences: one difference per query.
    :returns: the share of sign flips whose mean is at least as far from 0: of all flips for at most 13 differences, of
        9,999 random ones with a fixed seed for more; 1 if no query differs.
    """
    if not any(differences):
        return 1.0
    stats, numpy = _libraries()
    result = stats.permutation_test(
        (numpy.asarray(differences),),
        numpy.mean,
        permutation_type="samples",
        vectorized=True,
        n_resamples=_RESAMPLES,
        batch=_batch(len(differences)),
        rng=numpy.random.default_rng(0),
    )
    return float(result.pvalue)


def adjust(p_values: Sequence[float]) -> list[float]:
    """Return p-values adjusted for their number by Benjamini and Hochberg: the false discovery rate of each."""
    stats, _ = _libraries()
    return [float(value) for value in stats.false_discovery_control(list(p_values))] if p_values else []


def _batch(count: int) -> int:
    return max(1, _CELLS // count)


def _libraries() -> tuple[Any, Any]:
    require("tests of significance", "scipy")
    import numpy
    from scipy import stats

    return stats, numpy
