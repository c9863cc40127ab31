"""Tests of paired differences and the intervals that agree with them."""

import itertools
import random
from collections.abc import Sequence
from statistics import fmean

import pytest

from milvus_rerank.evaluation.comparisons import compare_systems
from milvus_rerank.evaluation.significance import adjust, adjusted_level, interval, paired_interval, paired_test
from milvus_rerank.evaluation.systems import System


def exact_p(differences: Sequence[float], mean: float = 0.0) -> float:
    """Return the p-value of a true mean by trying all signs of the residuals."""
    residuals = [value - mean for value in differences]
    flipped = [
        fmean(sign * value for sign, value in zip(signs, residuals, strict=True))
        for signs in itertools.product([1, -1], repeat=len(residuals))
    ]
    return fmean(float(abs(value) >= abs(fmean(residuals)) - 1e-12) for value in flipped)


def draw(count: int, mean: float, seed: int) -> list[float]:
    rng = random.Random(seed)
    return [round(rng.gauss(mean, 0.2), 3) for _ in range(count)]


def test_few_differences_are_tested_against_all_signs() -> None:
    differences = [0.1, 0.2, -0.05, 0.3, 0.12, 0.0, 0.2]
    assert paired_test(differences) == pytest.approx(exact_p(differences))
    assert paired_test([0.0, 0.0]) == 1.0
    assert adjust([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.04, 0.04])
    assert adjust([]) == []


@pytest.mark.parametrize("seed", range(4))
def test_the_ends_of_a_paired_interval_are_the_last_values_that_the_test_does_not_refuse(seed: int) -> None:
    differences = draw(9, 0.1, seed)
    ends = paired_interval(differences)
    assert ends is not None
    for end, outward in zip(ends, (-1e-9, 1e-9), strict=True):
        assert exact_p(differences, end) > 0.05
        assert exact_p(differences, end + outward) <= 0.05


@pytest.mark.parametrize("count", [8, 13, 40])
def test_a_paired_interval_holds_0_if_and_only_if_the_p_value_is_above_its_level(count: int) -> None:
    verdicts = set()
    for seed in range(12):
        differences = draw(count, 0.1, seed)
        for level in (0.95, 0.8):
            ends = paired_interval(differences, level)
            assert ends is not None
            assert ends[0] < fmean(differences) < ends[1]
            holds = ends[0] <= 0 <= ends[1]
            assert holds == (paired_test(differences) > 1 - level)
            verdicts.add(holds)
    assert verdicts == {True, False}


def test_a_paired_interval_of_many_differences_is_near_that_of_the_t_test() -> None:
    stats = pytest.importorskip("scipy.stats")
    differences = draw(400, 0.02, 1)
    expected = stats.ttest_1samp(differences, 0.0).confidence_interval(0.95)
    assert paired_interval(differences) == pytest.approx((expected.low, expected.high), abs=0.002)


def test_too_few_differences_have_no_interval() -> None:
    assert paired_interval([0.3, 0.2, 0.4, 0.1, 0.5]) is None  # the smallest p-value of five is 1/16
    assert paired_interval([]) is None
    assert paired_interval([0.1] * 8) == pytest.approx((0.1, 0.1))


def test_the_intervals_of_several_comparisons_agree_with_their_adjusted_p_values() -> None:
    measures = {
        f"s{number}": {f"q{query}": value for query, value in enumerate(draw(12, mean, number))}
        for number, mean in enumerate([0.2, 0.21, 0.35, 0.5, 0.45])
    }
    systems = [System(name, "s0", None, {}, {}, measures={"nDCG@10": values}) for name, values in measures.items()]
    comparisons = compare_systems(systems, "nDCG@10")
    assert len(comparisons) == 10
    verdicts = {item.p_value <= 0.05 for item in comparisons}
    assert verdicts == {True, False}
    for item in comparisons:
        assert item.interval is not None
        assert (item.interval[0] <= 0 <= item.interval[1]) == (item.p_value > 0.05)
    assert adjusted_level([0.001, 0.04, 0.9, 0.8]) == pytest.approx(1 - 0.05 / 4)
    assert adjusted_level([0.001, 0.002, 0.9, 0.8]) == pytest.approx(1 - 0.05 * 2 / 4)


def test_intervals_hold_the_mean_and_are_the_same_each_time() -> None:
    values = [0.0, 0.1, 0.4, 0.2, 0.3, 0.5, 0.9, 0.0]
    ends = interval(values)
    assert ends is not None
    assert ends[0] < fmean(values) < ends[1]
    assert interval(values) == ends
    assert interval([0.5]) is None
    assert interval([0.5, 0.5]) == (0.5, 0.5)
