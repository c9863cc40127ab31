"""Formulas of the steps: numbers by hand, and by brute force over random results."""

import math
import random
from collections import Counter
from datetime import date, datetime, timedelta, timezone
from typing import Any

import pytest

from milvus_rerank import RerankResult, above, diversify, fuse, normalize
from milvus_rerank.postprocess import RRF, Weighted
from milvus_rerank.steps import (
    Boost,
    Decay,
    Diversify,
    FieldBoost,
    Fuse,
    GroupBy,
    LostInTheMiddle,
    Normalize,
    Threshold,
)


def hit(number: int, score: float | None, distance: float = 0.5, **entity: Any) -> RerankResult[Any]:
    return RerankResult(f"text {number}", score, number, id=number, distance=distance, entity=entity)


def ids(results: Any) -> list[int]:
    return [result.id for result in results]


def scores(results: Any) -> dict[int, float]:
    return {result.id: result.score for result in results}


def random_hits(seed: int, count: int = 40) -> list[RerankResult[Any]]:
    generator = random.Random(seed)
    return [
        hit(
            number,
            round(generator.random(), 1),  # some scores are equal
            generator.uniform(-1, 1),
            x=generator.choice([generator.uniform(-50, 50), generator.randrange(-20, 20)]),
            votes=generator.randrange(1000),
            lang=generator.choice(["en", "de", "fr"]),
            ok=generator.random() < 0.5,
            v=[generator.uniform(-1, 1) for _ in range(3)],
        )
        for number in range(count)
    ]


def best_first(pairs: list[tuple[Any, float]]) -> list[int]:
    """Sort by insertion: larger scores first, equal ones in input order."""
    order: list[tuple[Any, float]] = []
    for pair in pairs:
        position = sum(1 for _, score in order if score >= pair[1])
        order.insert(position, pair)
    return [number for number, _ in order]


@pytest.mark.parametrize(
    ("function", "distance", "expected"),
    [
        # scale=10, offset=2, decay=0.5 around origin 100.
        ("gauss", 0, 1.0),
        ("gauss", 2, 1.0),
        ("gauss", 12, 0.5),
        ("gauss", 22, 0.0625),  # 0.5 ** 4
        ("gauss", 7, 0.5**0.25),
        ("exp", 2, 1.0),
        ("exp", 12, 0.5),
        ("exp", 22, 0.25),
        ("exp", 32, 0.125),
        ("linear", 1, 1.0),
        ("linear", 7, 0.75),
        ("linear", 12, 0.5),
        ("linear", 17, 0.25),
        ("linear", 22, 0.0),
        ("linear", 500, 0.0),
    ],
)
def test_decay_gives_the_factors_one_computes_by_hand(function: Any, distance: float, expected: float) -> None:
    step = Decay("x", function, origin=100, scale=10, offset=2)
    for value in (100 + distance, 100 - distance):
        (result,) = step([hit(1, 0.8, x=value)])
        assert result.score == pytest.approx(0.8 * expected, abs=1e-15)
        assert result.extra == {"rerank_score": 0.8}


def test_a_least_factor_gives_what_the_server_of_milvus_computes_for_linear() -> None:
    step = Decay("x", "linear", origin=0, scale=10, decay=0.3, least=0.3)
    assert scores(step([hit(0, 1.0, x=5), hit(1, 1.0, x=10), hit(2, 1.0, x=99)])) == pytest.approx(
        {0: 0.65, 1: 0.3, 2: 0.3}
    )


@pytest.mark.parametrize("function", ["gauss", "exp", "linear"])
@pytest.mark.parametrize("seed", range(5))
def test_decay_agrees_with_the_formula_of_milvus_over_random_results(function: Any, seed: int) -> None:
    generator = random.Random(f"{function} {seed}")
    origin, scale = generator.uniform(-10, 10), generator.uniform(0.1, 30)
    offset, decay = generator.choice([0.0, generator.uniform(0, 5)]), generator.uniform(0.01, 0.99)
    given = random_hits(seed)
    expected = []
    for result in given:
        far = max(0.0, abs(result.entity["x"] - origin) - offset)
        if function == "gauss":  # Milvus: exp(far ** 2 / sigma2) with sigma2 = scale ** 2 / ln(decay)
            factor = math.exp(far**2 / (scale**2 / math.log(decay)))
        elif function == "exp":
            factor = math.exp(math.log(decay) / scale * far)
        else:
            cutoff = scale / (1 - decay)
            factor = max(0.0, (cutoff - far) / cutoff)
        expected.append((result.id, result.score * factor))
    made = Decay("x", function, origin, scale, offset, decay)(given)
    assert scores(made) == pytest.approx(dict(expected), rel=1e-9, abs=1e-12)
    assert [result.score for result in made] == sorted((result.score for result in made), reverse=True)


@pytest.mark.needs("milvus_lite")
@pytest.mark.parametrize("function", ["gauss", "exp", "linear"])
def test_decay_agrees_with_milvus_lite(function: Any) -> None:
    from milvus_lite.rerank.decay import DecayReranker  # type: ignore[import-untyped]

    peer = DecayReranker(function, origin=3.0, scale=7.0, offset=1.0, decay=0.4)
    given = random_hits(9)
    made = scores(Decay("x", function, 3.0, 7.0, 1.0, 0.4)(given))
    assert made == pytest.approx(
        {result.id: result.score * peer.compute_factor(result.entity["x"]) for result in given}, abs=1e-12
    )


@pytest.mark.parametrize(
    ("value", "unit"),
    [
        ("2026-05-01", None),
        ("2026-05-01T00:00:00Z", None),
        ("2026-05-01T02:00:00+02:00", None),
        (date(2026, 5, 1), None),
        (datetime(2026, 5, 1), None),
        (datetime(2026, 5, 1, tzinfo=timezone.utc), None),
        (1777593600, "s"),
        (1777593600000, "ms"),
        (1777593600000000, "us"),
    ],
)
@pytest.mark.parametrize("origin", ["2026-05-11", date(2026, 5, 11), datetime(2026, 5, 11, tzinfo=timezone.utc)])
def test_dates_decay_in_all_forms(value: Any, unit: Any, origin: Any) -> None:
    for scale in ("10d", "240h", timedelta(days=10)):
        (result,) = Decay("day", "exp", origin, scale, unit=unit)([hit(1, 1.0, day=value)])
        assert result.score == pytest.approx(0.5)
    (result,) = Decay("day", "exp", origin, "5d", offset="120 h", unit=unit)([hit(1, 1.0, day=value)])
    assert result.score == pytest.approx(0.5)


def test_now_is_the_time_of_the_call() -> None:
    step = Decay("day", "linear", "now", "1d")
    then = datetime.now(timezone.utc) - timedelta(days=1)
    (result,) = step([hit(1, 1.0, day=then.isoformat())])
    assert result.score == pytest.approx(0.5, abs=1e-2)


def test_boosts_multiply_the_scores_of_matches() -> None:
    given = [hit(0, 0.8, year=2019), hit(1, 0.6, year=2021), hit(2, 0.3, year=2022), hit(3, None, year=2023)]
    made = Boost("year > 2020", 1.5)(given)
    assert [(result.id, result.score) for result in made] == [(1, 0.6 * 1.5), (0, 0.8), (2, 0.3 * 1.5), (3, None)]
    assert [result.extra for result in made] == [{"rerank_score": s} for s in (0.6, 0.8, 0.3)] + [None]


def test_boosts_by_a_field_multiply_by_a_function_of_its_number() -> None:
    given = [hit(0, 0.5, votes=0), hit(1, 0.25, votes=3)]
    assert scores(FieldBoost("votes", 2.0, "none")(given)) == {0: 0.5, 1: 0.25 * 7}
    assert scores(FieldBoost("votes", 2.0, "log1p")(given)) == pytest.approx({0: 0.5, 1: 0.25 * (1 + 2 * math.log(4))})
    assert scores(FieldBoost("votes", 2.0, "sqrt")(given)) == pytest.approx({0: 0.5, 1: 0.25 * (1 + 2 * 3**0.5)})


@pytest.mark.parametrize("seed", range(5))
def test_boosts_agree_with_brute_force(seed: int) -> None:
    given = random_hits(seed)
    made = Boost("(lang in ['en', 'fr'] and votes >= 200) or not ok == true", 0.7)(given)
    expected = []
    for result in given:
        fields = result.entity
        matches = (fields["lang"] != "de" and fields["votes"] >= 200) or fields["ok"] is False
        expected.append((result.id, result.score * 0.7 if matches else result.score))
    assert ids(made) == best_first(expected)
    assert scores(made) == dict(expected)
    by_field = [(result.id, result.score * (1 + 0.1 * math.log(1 + result.entity["votes"]))) for result in given]
    assert scores(FieldBoost("votes", 0.1)(given)) == pytest.approx(dict(by_field))


@pytest.mark.parametrize("size", [1, 2, 5])
@pytest.mark.parametrize("seed", range(3))
def test_groups_keep_their_first_results(size: int, seed: int) -> None:
    given = random_hits(seed)
    made = GroupBy("lang", size)(given)
    assert max(Counter(result.entity["lang"] for result in made).values()) <= size
    for language in ("en", "de", "fr"):
        whole = [result for result in given if result.entity["lang"] == language]
        assert [result for result in made if result.entity["lang"] == language] == whole[:size]
    assert ids(made) == sorted(ids(made)), "the order stays"


def test_groups_by_the_primary_key_and_by_booleans_are_told_apart() -> None:
    given = [hit(0, 0.9, g=True), hit(1, 0.8, g=1), hit(2, 0.7, g=1.0), hit(3, 0.6, g="1")]
    assert ids(GroupBy("g")(given)) == [0, 1, 3]
    assert ids(GroupBy("id")(given)) == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("count", "expected"),
    [(0, []), (1, [0]), (2, [0, 1]), (3, [0, 2, 1]), (5, [0, 2, 4, 3, 1]), (6, [0, 2, 4, 5, 3, 1])],
)
def test_the_best_come_to_both_ends(count: int, expected: list[int]) -> None:
    assert ids(LostInTheMiddle()([hit(number, 1 - number / 10) for number in range(count)])) == expected


@pytest.mark.parametrize("count", range(12))
def test_from_both_ends_the_ranks_rise_to_the_middle(count: int) -> None:
    order = ids(LostInTheMiddle()([hit(number, 0.5) for number in range(count)]))
    middle = order.index(count - 1) if count else 0
    assert order[:middle] == sorted(order[:middle])
    assert order[middle:] == sorted(order[middle:], reverse=True)
    assert sorted(order) == list(range(count))


@pytest.mark.parametrize("seed", range(3))
def test_the_other_steps_are_the_functions_of_the_same_name(seed: int) -> None:
    given = random_hits(seed)
    for method in ("sigmoid", "softmax", "minmax", "rank"):
        assert Normalize(method)(given) == normalize(given, method)
    assert Threshold(0.4)(given) == above(given, 0.4) != given
    assert Fuse("COSINE")(given) == fuse(given, metric="COSINE")
    assert Fuse("l2", k=5)(given) == fuse(given, RRF(5), metric="L2")
    weighted = fuse(given, Weighted((0.7, 0.3), normalize=False), metric="IP")
    assert Fuse("IP", [0.7, 0.3], normalize=False)(given) == weighted  # type: ignore[arg-type]
    assert Diversify("v", 0.3)(given) == diversify(given, "v", trade_off=0.3)
