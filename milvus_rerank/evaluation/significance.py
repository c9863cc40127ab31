"""Statistics of means and paired differences: bootstrap, and randomisation tests with intervals that agree."""

from collections.abc import Sequence
from typing import Any

from milvus_rerank.requirements import require

LEVEL = 0.95
_RESAMPLES = 9999
_ALL_SIGNS = 13
"""Differences of which all sign flips are tried: 8,192."""
_CELLS = 4_000_000
"""Numbers that one batch of resamples may hold: 32 MB."""
_TIE = 1e-12

Interval = tuple[float, float]


def interval(values: Sequence[float], level: float = LEVEL) -> Interval | None:
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
        9,999 random ones with a fixed seed, and the differences themselves, for more; 1 if no query differs.
    """
    if not any(differences):
        return 1.0
    _, numpy = _libraries()
    mean = sum(differences) / len(differences)
    below, above = _reaches(differences)
    return float(numpy.mean((below if mean > 0 else above) >= abs(mean) - _TIE))


def paired_interval(differences: Sequence[float], level: float = LEVEL) -> Interval | None:
    """Return the interval of the mean difference that agrees with :func:`paired_test`.

    It holds the values that the test does not refuse as the mean, so it holds 0 if and only if the p-value is above
    ``1 - level``.

    :param differences: one difference per query.
    :param level: the confidence level.
    :returns: both ends; None for differences so few that no value can be refused at this level.
    """
    _, numpy = _libraries()
    mean = sum(differences) / len(differences) if differences else 0.0
    ends = []
    for reach in _reaches(differences) if differences else ():
        descending = numpy.sort(reach)[::-1]
        ends.append(float(descending[int((1 - level) * len(descending) + _TIE)]))
    if not ends or not numpy.isfinite(ends).all():
        return None
    return mean - ends[0], mean + ends[1]


def adjust(p_values: Sequence[float]) -> list[float]:
    """Return p-values adjusted for their number by Benjamini and Hochberg: the false discovery rate of each."""
    stats, _ = _libraries()
    return [float(value) for value in stats.false_discovery_control(list(p_values))] if p_values else []


def adjusted_level(p_values: Sequence[float], level: float = LEVEL) -> float:
    """Return the level of intervals that agree with :func:`adjust` (Benjamini and Yekutieli, 2005).

    :param p_values: the p-values, not adjusted.
    :param level: the share of the intervals of significant differences that hold the true value.
    :returns: the level of each interval: it holds 0 if and only if the adjusted p-value is above ``1 - level``.
    """
    significant = sum(value <= 1 - level + _TIE for value in adjust(p_values))
    return 1 - (1 - level) * max(significant, 1) / max(len(p_values), 1)


def _reaches(differences: Sequence[float]) -> tuple[Any, Any]:
    """Return for each sign flip how far below and above the mean difference the true mean may be for the flip to count.

    If the true mean is the mean difference plus t, a flip with the mean sign m and the mean c of its signed residuals
    counts against it while |c - m t| >= |t|. Since |m| <= 1, that holds from t = 0 to one bound on either side.
    """
    _, numpy = _libraries()
    values = numpy.asarray(differences, dtype=float)
    mean = values.mean()
    sums, signs = [], []
    for flips in _flips(len(values)):
        sums.append(flips @ values / len(values))
        signs.append(flips.mean(axis=1))
    m = numpy.concatenate(signs)
    c = numpy.concatenate(sums) - m * mean
    always = numpy.abs(m) > 1 - _TIE  # the differences themselves, and all of them turned round
    up, down = numpy.where(always, 1, 1 + m), numpy.where(always, 1, 1 - m)
    above = numpy.where(always, numpy.inf, numpy.where(c >= 0, c / up, -c / down))
    below = numpy.where(always, numpy.inf, numpy.where(c >= 0, c / down, -c / up))
    return below, above


def _flips(count: int) -> Any:
    """Yield matrices of signs, a row for each flip; the first or the last row changes no sign."""
    _, numpy = _libraries()
    if count <= _ALL_SIGNS:
        bits = numpy.arange(2**count)[:, None] >> numpy.arange(count) & 1
        yield 1.0 - 2.0 * bits
        return
    rng, left = numpy.random.default_rng(0), _RESAMPLES
    while left:
        size = min(left, _batch(count))
        yield 1.0 - 2.0 * rng.integers(0, 2, (size, count))
        left -= size
    yield numpy.ones((1, count))


def _batch(count: int) -> int:
    return max(1, _CELLS // count)


def _libraries() -> tuple[Any, Any]:
    require("tests of significance", "scipy")
    import numpy
    from scipy import stats

    return stats, numpy
