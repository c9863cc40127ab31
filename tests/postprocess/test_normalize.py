"""Scales and thresholds: numbers by hand, and what cannot be put on a scale."""

import math
import random
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from numbered_hits import hit, ids

from milvus_rerank import RRF, CascadeRerankFunction, RerankResult, above, fuse, normalize
from milvus_rerank.errors import InputError
from milvus_rerank.reranker.custom import wrap

METHODS = ("sigmoid", "softmax", "minmax", "rank")

LN2, LN3, LN5 = math.log(2), math.log(3), math.log(5)


@pytest.mark.parametrize(
    ("method", "scores", "expected"),
    [
        ("sigmoid", [0.0, LN3, -LN3], [0.5, 0.75, 0.25]),
        ("sigmoid", [1000.0, -1000.0, 1e308, -1e308], [1.0, 0.0, 1.0, 0.0]),
        ("softmax", [0.0, LN2, LN5], [0.125, 0.25, 0.625]),
        ("softmax", [1000.0, 1000.0], [0.5, 0.5]),
        ("softmax", [1e308, -1e308], [1.0, 0.0]),
        ("minmax", [1.0, 3.0, 2.0, 1.5], [0.0, 1.0, 0.5, 0.25]),
        ("minmax", [1e308, -1e308, 0.0], [1.0, 0.0, 0.5]),
        ("minmax", [0.0, 5e-324], [0.0, 1.0]),
        ("minmax", [7.0, 7.0], [1.0, 1.0]),
        ("rank", [5.0, 1.0, 5.0, 3.0], [1.0, 0.25, 1.0, 0.5]),
        ("rank", [2.0, 2.0], [1.0, 1.0]),
    ],
)
def test_the_formulas_give_the_numbers_one_computes_by_hand(
    method: Any, scores: list[float], expected: list[float]
) -> None:
    assert normalize(scores, method) == pytest.approx(expected, abs=1e-15)


@pytest.mark.parametrize(("method", "one"), [("sigmoid", 0.75), ("softmax", 1.0), ("minmax", 1.0), ("rank", 1.0)])
def test_one_score_and_none_are_fine(method: Any, one: float) -> None:
    assert normalize([LN3], method) == [pytest.approx(one)]
    assert normalize([], method) == []


@pytest.mark.parametrize("method", METHODS)
def test_no_formula_ever_turns_an_order_round_or_leaves_its_range(method: Any) -> None:
    generator = random.Random(3)
    for size in (1e-300, 1e-3, 1.0, 30.0, 1e5, 1e300):
        scores = [generator.uniform(-size, size) for _ in range(30)]
        scores += scores[:3]
        made = normalize(scores, method)
        for one, new in zip(scores, made, strict=True):
            assert 0.0 <= new <= 1.0
            assert type(new) is float
            assert all(new <= other_new for other, other_new in zip(scores, made, strict=True) if one <= other)


def test_softmaxes_add_up_to_one() -> None:
    generator = random.Random(4)
    assert sum(normalize([generator.uniform(-9, 9) for _ in range(1000)], "softmax")) == pytest.approx(1.0, abs=1e-12)


def test_numpy_numbers_become_pythons() -> None:
    numbers: Any = np.array([1, 3], dtype=np.int64)
    made: list[Any] = normalize(numbers, "minmax")
    assert made == [0.0, 1.0]
    assert [type(number) for number in made] == [float, float]


def test_results_keep_their_places_and_everything_but_the_score() -> None:
    given = [hit(4, 3.0, extra={"offset": 1}), hit(9, None), hit(2, 1.0), hit(5, 2.0, span=(0, 3))]
    assert normalize(given, "minmax") == [
        hit(4, 1.0, extra={"rerank_score": 3.0, "offset": 1}),
        hit(9, None),
        hit(2, 0.0, extra={"rerank_score": 1.0}),
        hit(5, 0.5, span=(0, 3), extra={"rerank_score": 2.0}),
    ]
    assert given[0] == hit(4, 3.0, extra={"offset": 1})


def test_the_rerankers_own_score_outlives_several_changes() -> None:
    made = fuse(normalize([hit(0, 2.0), hit(1, -2.0)], "sigmoid"), RRF(), metric="IP")
    assert [one.extra for one in made] == [{"rerank_score": 2.0}, {"rerank_score": -2.0}]


def test_stages_of_a_cascade_come_onto_one_scale_in_their_order() -> None:
    given = [hit(0, -3.0, stage=1), hit(1, -5.0, stage=1), hit(2, 0.9, stage=0), hit(3, 0.4, stage=0)]
    # As score() gives them: -3, -5, then 0.9 and 0.4 moved down to -6 and -6.5.
    made = normalize(given, "minmax")
    assert [one.score for one in made] == pytest.approx([1.0, 1.5 / 3.5, 0.5 / 3.5, 0.0])
    assert [one.stage for one in made] == [None] * 4
    assert [one.extra for one in made][2] == {"rerank_score": 0.9}


@pytest.mark.parametrize(
    ("scores", "method", "words"),
    [
        ([1.0], "zscore", "method must be one of 'sigmoid', 'softmax', 'minmax', 'rank', got 'zscore'"),
        ([1.0], None, "method must be one of .*, got None"),
        ([1.0, math.nan], "minmax", r"scores\[1\] must be a finite number, got nan"),
        ([math.inf], "rank", r"scores\[0\] must be a finite number, got inf"),
        (["1"], "rank", r"scores\[0\] must be a finite number, got '1'"),
        ([True], "rank", r"scores\[0\] must be a finite number, got True"),
        ([None], "rank", r"scores\[0\] must be a finite number, got None"),
        ("12", "rank", "scores must be a list of numbers or RerankResult, got a single string"),
        ([hit(3, 1.0), 2.0], "rank", r"results\[1\] must be a RerankResult, got float"),
        ([hit(3, math.nan)], "rank", r"the score of results\[0\] \(id 3\) must be a finite number or None, got nan"),
        (
            [RerankResult("", math.inf, 0)],
            "rank",
            r"the score of results\[0\] must be a finite number or None, got inf",
        ),
    ],
)
def test_what_cannot_be_normalized_is_named(scores: Any, method: Any, words: str) -> None:
    with pytest.raises(InputError, match=words):
        normalize(scores, method)


def test_above_keeps_equal_scores_and_drops_results_without_one() -> None:
    assert ids(above([hit(1, 0.9), hit(2, 0.5), hit(3, 0.4), hit(4, None)], 0.5)) == [1, 2]
    assert above([], 0.5) == []


def test_above_is_on_the_last_stages_scale_unless_scores_were_put_on_one() -> None:
    given = [hit(0, -3.0, stage=1), hit(1, -5.0, stage=1), hit(2, 0.9, stage=0)]
    assert ids(above(given, -4.0)) == [0]
    assert ids(above(normalize(given, "rank"), 0.5)) == [0, 1]
    assert ids(above(given[2:], 0.5)) == [2]


def test_above_agrees_with_the_threshold_of_a_call() -> None:
    class Numbers:
        def score(self, query: str, texts: Sequence[str]) -> list[float]:
            return [float(text) for text in texts]

    texts = ["0.3", "0.9", "-1", "0.5", "2"]
    for reranker in (wrap(Numbers(), "numbers"), CascadeRerankFunction([(Numbers(), 3), (Numbers(), None)])):
        assert above(reranker("q", texts, None), 0.5) == reranker("q", texts, None, threshold=0.5)


@pytest.mark.parametrize("threshold", [None, math.nan, "0.5"])
def test_above_needs_a_number(threshold: Any) -> None:
    with pytest.raises(InputError, match="threshold must be a number"):
        above([hit(1, 0.9)], threshold)
