"""Fusion: numbers by hand, and a reference written down plainly on random results."""

import math
import random
from collections.abc import Sequence
from typing import Any

import pytest
from numbered_hits import A, B, C, hit, ids
from present import present

from milvus_rerank import RRF, RerankResult, Weighted, fuse
from milvus_rerank.errors import InputError
from milvus_rerank.search.answer import SearchAnswer, Timings


def test_rrf_adds_the_inverse_ranks_of_both_orders() -> None:
    # Reranked: C A B; by similarity: B A C.
    found = fuse([A, B, C], RRF(k=60), metric="COSINE")
    assert [one.id for one in found] == [1, 2, 0]  # the first has as much as the second, and is given before it
    assert [one.score for one in found] == pytest.approx([1 / 63 + 1 / 61, 1 / 61 + 1 / 63, 1 / 62 + 1 / 62])
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
        assert [one.score for one in found] == sorted((present(one.score) for one in found), reverse=True)


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
            "metric must be one of BM25, COSINE, HAMMING, IP, JACCARD, L2 in upper or lower case, got 'eu",
        ),
        ([A], {"metric": None}, "metric must be one of .* got None"),
        ([A], {"metric": "IP", "fusion": "rrf"}, r"fusion must be RRF\(...\) or Weighted\(...\), got 'rrf'"),
        ([A], {"metric": "IP", "fusion": Weighted((1.0,))}, r"two weights, .* Weighted\(\(0.7, 0.3\)\); got 1"),
        (
            [A, hit(5, 1.0, None)],
            {"metric": "IP"},
            r"the distance of results\[1\] \(id 5\) must be a finite number, got None",
        ),
        (
            [hit(5, 1.0, math.nan)],
            {"metric": "IP"},
            r"the distance of results\[0\] \(id 5\) must be a finite number, got nan",
        ),
        (
            [RerankResult("x", 1.0, 0)],
            {"metric": "IP"},
            r"the distance of results\[0\] must be .* got None; .*plain texts and rows of q",
        ),
        (A, {"metric": "IP"}, "results must be a list of RerankResult, got RerankResult"),
        ([{"id": 1}], {"metric": "IP"}, r"results\[0\] must be a RerankResult, got dict"),
    ],
)
def test_what_cannot_be_fused_is_named(results: Any, options: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        fuse(results, **options)


def test_bm25_of_milvus_lite_is_negative_and_the_lowest_is_best() -> None:
    server = [hit(0, 0.1, 1.5), hit(1, 0.9, 0.5), hit(2, 0.5, 3.0)]
    lite = [hit(0, 0.1, -1.5), hit(1, 0.9, -0.5), hit(2, 0.5, -3.0)]
    for results in (server, lite):
        assert ids(fuse(results, Weighted((0.0, 1.0)), metric="BM25")) == [2, 0, 1]
        assert ids(fuse(results, Weighted((1.0, 0.0)), metric="bm25")) == [1, 2, 0]
    assert [one.score for one in fuse(lite, metric="BM25")] == [one.score for one in fuse(server, metric="BM25")]
    assert ids(fuse(lite, Weighted((0.0, 1.0)), metric="IP")) == [1, 0, 2]
