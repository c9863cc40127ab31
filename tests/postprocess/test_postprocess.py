"""Tools on scores: numbers by hand, and references written down plainly on random results."""

import math
import random
import subprocess
import sys
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

from milvus_rerank import RRF, CascadeRerankFunction, RerankResult, Weighted, above, diversify, fuse, normalize
from milvus_rerank.errors import InputError
from milvus_rerank.reranker.custom import wrap
from milvus_rerank.search.answer import SearchAnswer, Timings

METHODS = ("sigmoid", "softmax", "minmax", "rank")
LN2, LN3, LN5 = math.log(2), math.log(3), math.log(5)


def hit(number: int, score: float | None, distance: float | None = 0.5, **more: Any) -> RerankResult:
    return RerankResult(f"text {number}", score, number, id=number, distance=distance, entity={}, **more)


def ids(results: Sequence[RerankResult]) -> list[Any]:
    return [result.id for result in results]


# Scales


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
    made = normalize(np.array([1, 3], dtype=np.int64), "minmax")  # type: ignore[call-overload]
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
        ([hit(3, math.nan)], "rank", r"results\[0\] \(id 3\) has the score nan, expected a finite number or None"),
        ([RerankResult("", math.inf, 0)], "rank", r"results\[0\] has the score inf, expected"),
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


# Fusion

A, B, C = hit(0, 2.0, 0.9), hit(1, 1.0, 0.95), hit(2, 3.0, 0.1)


def test_rrf_adds_the_inverse_ranks_of_both_orders() -> None:
    # Reranked: C A B; by similarity: B A C.
    found = fuse([A, B, C], RRF(k=60), metric="COSINE")
    assert [(one.id, one.score) for one in found] == [
        (1, pytest.approx(1 / 63 + 1 / 61)),  # as much as the next one, and given before it
        (2, pytest.approx(1 / 61 + 1 / 63)),
        (0, pytest.approx(1 / 62 + 1 / 62)),
    ]
    assert found[0] == RerankResult(
        "text 1", found[0].score, 1, id=1, distance=0.95, entity={}, extra={"rerank_score": 1.0}
    )


def test_rrfs_k_counts() -> None:
    assert [one.score for one in fuse([A], RRF(k=1), metric="IP")] == [1.0]


def test_weights_are_of_the_rerank_score_first_and_of_the_distance_then() -> None:
    # Scores to 0.5, 0, 1; similarities to 0.8/0.85, 1, 0.
    found = fuse([A, B, C], Weighted((0.7, 0.3)), metric="COSINE")
    assert ids(found) == [2, 0, 1]
    assert [one.score for one in found] == pytest.approx([0.7, 0.35 + 0.3 * 0.8 / 0.85, 0.3])


def test_weights_of_raw_numbers_take_them_as_they_are() -> None:
    found = fuse([A, B, C], Weighted((1.0, 10.0), normalize=False), metric="IP")
    assert [(one.id, one.score) for one in found] == [(0, 11.0), (1, 10.5), (2, 4.0)]
    found = fuse([A, B, C], Weighted((1.0, 10.0), normalize=False), metric="L2")
    assert [(one.id, one.score) for one in found] == [(2, 2.0), (0, -7.0), (1, -8.5)]


@pytest.mark.parametrize("metric", ["L2", "l2", "Jaccard", "HAMMING"])
def test_a_smaller_distance_is_better(metric: str) -> None:
    assert ids(fuse([A, B, C], Weighted((0.0, 1.0)), metric=metric)) == [2, 0, 1]


@pytest.mark.parametrize("metric", ["IP", "cosine", "Cosine", "BM25", "bm25"])
def test_a_larger_similarity_is_better(metric: str) -> None:
    assert ids(fuse([A, B, C], Weighted((0.0, 1.0)), metric=metric)) == [1, 0, 2]


def rank_of(values: Sequence[float], index: int) -> int:
    """From 1, ties by place."""
    return 1 + sum(other > values[index] or (other == values[index] and at < index) for at, other in enumerate(values))


def test_fusion_is_that_of_a_plain_reference_on_random_hits() -> None:
    generator = random.Random(5)
    for _ in range(100):
        count, smaller = generator.randint(1, 9), generator.random() < 0.5
        scores = [float(generator.randint(-4, 4)) for _ in range(count)]
        distances = [generator.randint(0, 8) / 4 for _ in range(count)]
        first = [-one if smaller else one for one in distances]
        given = [hit(number, scores[number], distances[number]) for number in range(count)]
        k = generator.randint(1, 80)
        by_rank = [1 / (k + rank_of(scores, one)) + 1 / (k + rank_of(first, one)) for one in range(count)]
        found = fuse(given, RRF(k), metric="L2" if smaller else "IP")
        assert [one.score for one in found] == pytest.approx(sorted(by_rank, reverse=True), rel=1e-12)
        assert {one.id: one.score for one in found} == pytest.approx(dict(enumerate(by_rank)), rel=1e-12)
        weights = (generator.random(), generator.random())
        spread = [max(max(own) - min(own), 1e-9) for own in (scores, first)]
        by_weight = [
            weights[0] * (1 if max(scores) == min(scores) else (scores[one] - min(scores)) / spread[0])
            + weights[1] * (1 if max(first) == min(first) else (first[one] - min(first)) / spread[1])
            for one in range(count)
        ]
        found = fuse(given, Weighted(weights), metric="L2" if smaller else "IP")
        assert {one.id: one.score for one in found} == pytest.approx(dict(enumerate(by_weight)), rel=1e-9, abs=1e-12)
        assert [one.score for one in found] == sorted((one.score for one in found), reverse=True)


def test_hits_without_a_score_follow_as_they_are() -> None:
    assert fuse([hit(7, None), A, hit(8, None, None)], metric="IP")[1:] == [hit(7, None), hit(8, None, None)]
    assert fuse([hit(7, None), hit(8, None, None)], metric="IP") == [hit(7, None), hit(8, None, None)]
    assert fuse([], metric="IP") == []


def test_a_search_answer_is_a_list_of_results_too() -> None:
    answer = SearchAnswer("q", (A, B), True, None, Timings(0, 0, 0))
    assert ids(fuse(answer, Weighted((0.0, 1.0)), metric="IP")) == [1, 0]


def test_a_later_stage_of_a_cascade_ranks_above_an_earlier_one_in_fusion() -> None:
    given = [hit(0, -3.0, 0.5, stage=1), hit(1, 9.0, 0.5, stage=0)]
    found = fuse(given, Weighted((1.0, 0.0), normalize=False), metric="IP")
    assert [(one.id, one.score, one.stage) for one in found] == [(0, -3.0, None), (1, -4.0, None)]


@pytest.mark.parametrize(
    ("results", "options", "words"),
    [
        (
            [A],
            {"metric": "euclid"},
            "metric must be one of BM25, COSINE, HAMMING, IP, JACCARD, L2, in any case, got 'eu",
        ),
        ([A], {"metric": None}, "metric must be one of .* got None"),
        ([A], {"metric": "IP", "fusion": "rrf"}, r"fusion must be RRF\(...\) or Weighted\(...\), got 'rrf'"),
        ([A], {"metric": "IP", "fusion": Weighted((1.0,))}, r"two weights here, .* Weighted\(\(0.7, 0.3\)\); got 1"),
        ([A, hit(5, 1.0, None)], {"metric": "IP"}, r"results\[1\] \(id 5\) has the distance None, and fusing needs a"),
        ([hit(5, 1.0, math.nan)], {"metric": "IP"}, r"results\[0\] \(id 5\) has the distance nan"),
        (
            [RerankResult("x", 1.0, 0)],
            {"metric": "IP"},
            r"results\[0\] has the distance None.*plain texts and rows of q",
        ),
        (A, {"metric": "IP"}, "results must be a list of RerankResult, got RerankResult"),
        ([{"id": 1}], {"metric": "IP"}, r"results\[0\] must be a RerankResult, got dict"),
    ],
)
def test_what_cannot_be_fused_is_named(results: Any, options: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        fuse(results, **options)


# Diversity


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
        ([A, B], [[1.0]], {}, "got 1 vectors for 2 results; expected one for each, or a field's name"),
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
        ([A], [[1.0]], {"trade_off": 1.5}, r"trade_off must be a number from 0 \(varied\) to 1 .*, got 1.5"),
        ([A], [[1.0]], {"trade_off": math.nan}, "trade_off must be a number .*, got nan"),
        ([A], [[1.0]], {"trade_off": "0.5"}, "trade_off must be a number .*, got '0.5'"),
        ([A], [[1.0]], {"top_k": -1}, "top_k must not be negative"),
    ],
)
def test_what_cannot_be_diversified_is_named(results: Any, vectors: Any, options: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        diversify(results, vectors, **options)


@pytest.mark.parametrize(
    "change",
    [
        lambda results: normalize(results, "rank"),
        lambda results: above(results, 0.0),
        lambda results: fuse(results, metric="IP"),
        lambda results: diversify(results, [[1.0], [1.0]]),
    ],
)
def test_what_was_passed_in_stays_as_it_was(change: Callable[[Any], Any]) -> None:
    given = [hit(0, 1.0, extra={"offset": 2}), hit(1, 2.0)]
    change(given)
    assert given == [hit(0, 1.0, extra={"offset": 2}), hit(1, 2.0)]


def test_importing_the_tools_loads_nothing_heavy() -> None:
    code = "import sys, milvus_rerank; milvus_rerank.fuse, milvus_rerank.diversify; print('numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"
