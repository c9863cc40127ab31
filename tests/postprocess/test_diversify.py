"""Diversity: small cases by hand, and a reference written down plainly on random vectors."""

import math
import random
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from numbered_hits import A, B, hit, ids

from milvus_rerank import RerankResult, diversify
from milvus_rerank.errors import InputError


def test_a_duplicate_gives_way_to_something_new() -> None:
    given = [hit(0, 3.0), hit(1, 2.0), hit(2, 1.0)]
    vectors = [[1.0, 0.0], [2.0, 0.0], [0.0, 1.0]]
    assert ids(diversify(given, vectors)) == [0, 2, 1]  # 0.5 * 0 - 0.5 * 0 is more than 0.5 * 0.5 - 0.5 * 1
    assert ids(diversify(given, vectors, trade_off=0.7)) == [0, 1, 2]  # 0.35 - 0.3 is more than 0
    assert diversify(given, vectors, top_k=2) == [given[0], given[2]]


def test_vectors_may_be_a_field_of_the_hits() -> None:
    rows = [np.array([1, 0], dtype=np.float32), [1.0, 0.0], (0, 1)]
    given = [RerankResult("x", 3.0 - place, place, id=place, entity={"v": row}) for place, row in enumerate(rows)]
    assert ids(diversify(given, "v")) == [0, 2, 1]


@pytest.mark.parametrize("vectors", [[[1.0, 1.0]] * 5, np.eye(5), [[0.0]] * 5], ids=["equal", "apart", "zero"])
@pytest.mark.parametrize("top_k", [None, 0, 3, 9])
def test_a_trade_off_of_one_leaves_the_order_as_it_is(vectors: Any, top_k: int | None) -> None:
    given = [hit(0, 1.0), hit(1, None), hit(2, 5.0), hit(3, 5.0), hit(4, -2.0)]
    assert diversify(given, vectors, top_k, trade_off=1) == given[: top_k or None]


@pytest.mark.parametrize("trade_off", [0, 0.25, 0.5, 0.99])
def test_ties_go_to_the_one_that_stood_before(trade_off: float) -> None:
    generator = np.random.default_rng(1)
    for count in (2, 3, 5, 7, 9, 15, 33, 37):  # a matrix product adds up the last rows of a block in another order
        for width in (1, 3, 17, 77, 384):
            row = generator.normal(size=width)
            given = [hit(number, 1.0) for number in range(count)]
            assert ids(diversify(given, [row] * count, trade_off=trade_off)) == list(range(count))
            assert ids(diversify(given, [[0.0] * width] * count, trade_off=trade_off)) == list(range(count))


def test_a_vector_of_zeros_is_similar_to_nothing() -> None:
    given = [hit(0, 3.0), hit(1, 2.0), hit(2, 1.9)]
    assert ids(diversify(given, [[1.0, 0.0], [1.0, 0.1], [0.0, 0.0]])) == [0, 2, 1]
    assert ids(diversify(given, [[0.0, 0.0], [1.0, 0.1], [1.0, 0.0]])) == [0, 1, 2]


def test_the_length_of_a_vector_does_not_count_however_large_or_small() -> None:
    given = [hit(0, 3.0), hit(1, 2.0), hit(2, 1.0)]
    assert ids(diversify(given, [[1e300, 0.0], [1e-300, 0.0], [0.0, 5e-324]])) == [0, 2, 1]


def marginal(scores: Sequence[float], rows: Sequence[Sequence[float]], trade_off: float) -> list[int]:
    """Maximal marginal relevance, written down as in the paper."""

    def cosine(a: Sequence[float], b: Sequence[float]) -> float:
        lengths = math.sqrt(sum(x * x for x in a)) * math.sqrt(sum(y * y for y in b))
        return sum(x * y for x, y in zip(a, b, strict=True)) / lengths if lengths else 0.0

    low, high = min(scores), max(scores)
    relevance = [(score - low) / (high - low) if high > low else 1.0 for score in scores]
    chosen: list[int] = []
    while len(chosen) < len(scores):
        left = [one for one in range(len(scores)) if one not in chosen]
        gains = {
            one: trade_off * relevance[one]
            - (1 - trade_off) * max((cosine(rows[one], rows[other]) for other in chosen), default=0.0)
            for one in left
        }
        chosen.append(max(left, key=lambda one: gains[one]))
    return chosen


def test_the_order_is_that_of_a_plain_reference_on_random_vectors() -> None:
    generator = random.Random(6)
    for _ in range(60):
        count, width = generator.randint(1, 12), generator.randint(1, 6)
        scores = sorted((generator.uniform(-5, 5) for _ in range(count)), reverse=True)
        rows = [[generator.gauss(0, 1) for _ in range(width)] for _ in range(count)]
        if width == 1:
            rows = [[0.0] for _ in rows]  # all cosines of one dimension are 1 or -1: ties
        trade_off = generator.random()
        given = [hit(number, score) for number, score in enumerate(scores)]
        expected = marginal(scores, rows, trade_off)
        assert ids(diversify(given, rows, trade_off=trade_off)) == expected
        top_k = generator.randint(1, count)
        assert ids(diversify(given, rows, top_k, trade_off)) == expected[:top_k]


def test_results_without_a_score_come_last_and_need_no_vector() -> None:
    given = [hit(0, None), hit(1, 2.0), hit(2, None), hit(3, 1.0)]
    assert ids(diversify(given, [None, [1.0], None, [1.0]])) == [1, 3, 0, 2]
    assert ids(diversify(given, [None, [1.0], None, [1.0]], top_k=3)) == [1, 3, 0]
    assert ids(diversify(given[:1], "v")) == [0]
    assert diversify([], "v") == []


def test_a_later_stage_of_a_cascade_is_more_relevant() -> None:
    given = [hit(0, -9.0, stage=1), hit(1, 50.0, stage=0)]
    assert ids(diversify(given, [[1.0, 0.0], [0.0, 1.0]])) == [0, 1]
    assert diversify(given, [[1.0, 0.0], [0.0, 1.0]])[1].stage == 0


IN_FIELD = [RerankResult("x", 1.0, 0, id=3, entity={"v": [1.0], "w": None, "b": b"ab", "s": {1: 0.5}})]


@pytest.mark.parametrize(
    ("results", "vectors", "options", "words"),
    [
        (IN_FIELD, "u", {}, r"results\[0\] \(id 3\) has no field 'u' .* \['b', 's', 'v', 'w'\].*output_fields=\['u'\]"),
        (IN_FIELD, "w", {}, r"results\[0\] \(id 3\) has no field 'w'"),
        (IN_FIELD, "b", {}, r"field 'b' of results\[0\] \(id 3\) must be a dense vector of finite numbers, got bytes"),
        (IN_FIELD, "s", {}, r"field 's' of results\[0\] \(id 3\) must be a dense vector of finite numbers, got dict"),
        ([RerankResult("x", 1.0, 0)], "v", {}, r"results\[0\] has no field 'v' in its entity; it has none"),
        ([A, B], [[1.0]], {}, "one vector per result or a field's name: expected 2, got 1"),
        (
            [A, B],
            [[1.0], [1.0, 2.0]],
            {},
            r"vector of results\[1\] \(id 1\) has 2 dimensions, that of results\[0\] .* 1",
        ),
        ([A, B], [[1.0], [math.nan]], {}, r"vectors\[1\] must be a dense vector of finite numbers, got list"),
        ([A, B], [[1.0], []], {}, r"vectors\[1\] must be a dense vector"),
        ([A, B], [[1.0], [[1.0]]], {}, r"vectors\[1\] must be a dense vector"),
        ([A, B], [[1.0], 5.0], {}, r"vectors\[1\] must be a dense vector of finite numbers, got float"),
        ([A], [["a"]], {}, r"vectors\[0\] must be a dense vector"),
        ([A], None, {}, "vectors must be a list of vectors, got NoneType"),
        ([A], [[1.0]], {"trade_off": 1.5}, r"trade_off must be a number from 0 \(most variety\) to 1 .*, got 1.5"),
        ([A], [[1.0]], {"trade_off": math.nan}, "trade_off must be a number .*, got nan"),
        ([A], [[1.0]], {"trade_off": "0.5"}, "trade_off must be a number .*, got '0.5'"),
        ([A], [[1.0]], {"top_k": -1}, "top_k must not be negative"),
    ],
)
def test_what_cannot_be_diversified_is_named(results: Any, vectors: Any, options: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        diversify(results, vectors, **options)
