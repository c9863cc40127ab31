"""The figures that compare an export with its model."""

import numpy as np
import pytest

from milvus_rerank.export.fidelity import compare_scores, rank_correlation
from milvus_rerank.export.samples import Sample, Samples

pytestmark = pytest.mark.compat


def samples_of(*counts: int, judgments: dict[str, dict[str, int]] | None = None) -> Samples:
    rows = (
        Sample(f"q{number}", "", tuple(f"d{place}" for place in range(count)), ("",) * count)
        for number, count in enumerate(counts)
    )
    return Samples("t", tuple(rows), judgments)


def test_figures_of_a_swap_at_the_tenth_place() -> None:
    falling = [float(number) for number in range(12, 0, -1)]
    swapped = [*falling[:9], 2.0, 3.5, 1.0]  # the tenth and the eleventh
    fidelity = compare_scores(samples_of(12, 12), [falling, falling], [swapped, falling])
    assert (fidelity.queries, fidelity.pairs) == (2, 24)
    assert (fidelity.top_10, fidelity.least_top_10) == (9.5, 9)
    assert fidelity.spearman == pytest.approx((1 - 6 * 2 / (12 * 143) + 1) / 2)
    assert fidelity.difference == 1.5
    assert fidelity.ndcg_change is None


def test_ties_are_ordered_by_place_in_both() -> None:
    rising, level = [float(number) for number in range(12)], [0.5] * 12
    assert compare_scores(samples_of(12), [level], [level]).top_10 == 10
    fidelity = compare_scores(samples_of(12), [rising], [level])  # the last ten against the first ten
    assert (fidelity.top_10, fidelity.spearman, fidelity.difference) == (8, 0, 10.5)


def test_rank_correlation_shares_ranks_among_equals() -> None:
    cases = {
        ((1, 2, 2, 3), (1, 2, 3, 4)): 4.5 / np.sqrt(4.5 * 5),
        ((1, 2, 3), (3, 2, 1)): -1,
        ((1, 10, 100), (0.1, 0.2, 0.3)): 1,
        ((1, 1, 1), (1, 2, 3)): 0,
        ((1, 1, 1), (2, 2, 2)): 1,
    }
    for (left, right), expected in cases.items():
        assert rank_correlation(np.array(left), np.array(right)) == pytest.approx(expected)


def test_ndcg_is_compared_where_judged() -> None:
    judgments = {"q0": {"d0": 1}, "elsewhere": {"d0": 1}}
    falling = [float(number) for number in range(12, 0, -1)]
    second = [11.5, 12.0, *falling[2:]]
    fidelity = compare_scores(samples_of(12, judgments=judgments), [falling], [second])
    assert fidelity.ndcg_before == pytest.approx(1)
    assert fidelity.ndcg_after == pytest.approx(1 / np.log2(3))
    assert fidelity.to_dict()["ndcg_change"] == pytest.approx(1 / np.log2(3) - 1)
