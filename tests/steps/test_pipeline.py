"""Pipelines: their order, their form in config files, what they refuse, and threads."""

import copy
import json
import math
import pickle
import random
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from datetime import date, timedelta
from typing import Any

import pytest
from numbered_hits import ids

from milvus_rerank import Pipeline, RerankResult, fuse, normalize
from milvus_rerank.errors import InputError
from milvus_rerank.steps import (
    STEPS,
    Boost,
    Decay,
    Diversify,
    FieldBoost,
    Fuse,
    GroupBy,
    LostInTheMiddle,
    Normalize,
    Step,
    Threshold,
)

ONE_OF_EACH: list[Step] = [
    Normalize("sigmoid"),
    Fuse("COSINE", (0.7, 0.3)),
    Decay("day", "gauss", date(2026, 5, 1), timedelta(days=30), "12h", 0.3, 0.1),
    Decay("day", "exp", "now", "30d", unit="ms", missing="keep"),
    Boost("lang == 'en'", 1.5, missing="drop"),
    FieldBoost("votes"),
    Threshold(0.01),
    GroupBy("lang", 3),
    Diversify("v", 0.4),
    LostInTheMiddle(),
]


def hit(number: int, score: float | None, **entity: Any) -> RerankResult[Any]:
    return RerankResult(f"text {number}", score, number, id=number, distance=0.5, entity=entity, extra={"offset": 3})


def test_steps_run_in_their_order_and_the_rerankers_score_is_kept() -> None:
    given = [hit(0, 2.0, n=9), hit(1, 1.0, n=1), hit(2, -1.0, n=0), hit(3, None, n=0)]
    before = copy.deepcopy(given)
    made = Pipeline([Normalize("sigmoid"), Decay("n", "exp", 0, 1), Threshold(0.2)])(given)
    sigmoid = [1 / (1 + math.exp(-score)) for score in (2.0, 1.0, -1.0)]
    assert [result.id for result in made] == [1, 2]
    assert [result.score for result in made] == pytest.approx([sigmoid[1] / 2, sigmoid[2]])
    assert [result.extra for result in made] == [
        {"rerank_score": 1.0, "offset": 3},
        {"rerank_score": -1.0, "offset": 3},
    ]
    assert [(result.distance, result.entity, result.index) for result in made] == [
        (0.5, {"n": 1}, 1),
        (0.5, {"n": 0}, 2),
    ]
    assert given == before
    assert Pipeline()(given) == given


def test_top_k_is_cut_after_all_steps_but_before_the_order_from_both_ends() -> None:
    given = [hit(number, 1 - number / 10, n=0 if number == 4 else 5) for number in range(5)]
    decay = Decay("n", "linear", 0, 5)
    assert ids(Pipeline([decay])(given, 2)) == [4, 0]
    assert ids(Pipeline([decay, LostInTheMiddle()])(given, 3)) == [4, 1, 0]
    assert ids(Pipeline([decay, LostInTheMiddle()])(given, 0)) == [4, 1, 3, 2, 0]


def test_every_step_survives_a_config_file_a_pickle_and_a_copy() -> None:
    pipeline = Pipeline(ONE_OF_EACH)
    assert {step.name for step in pipeline.steps} == set(STEPS)
    assert pipeline.fields == ("day", "lang", "votes", "v")
    again = Pipeline(json.loads(json.dumps(pipeline.to_list())))
    results = [
        hit(i, i / 10, day=day, lang="en", votes=i, v=[1.0, i])
        for i, day in enumerate(["2026-04-01", "2026-05-02", "2020-01-01"])
    ]
    short = [0, 1, 2, 4, 5, 6, 7, 8, 9]  # without the step whose days are numbers, and now moves
    assert Pipeline([again.steps[i] for i in short])(results) == Pipeline([ONE_OF_EACH[i] for i in short])(results)
    assert again.to_list() == [*pipeline.to_list()]
    for made in (pickle.loads(pickle.dumps(pipeline)), copy.deepcopy(pipeline)):
        assert made == pipeline
        assert hash(made) == hash(pipeline)


@pytest.mark.parametrize(
    ("steps", "problem"),
    [
        (3, "steps must be a list of steps, got int: 3"),
        ({"type": "threshold"}, "steps must be a list of steps, got dict"),
        ([3], "step 1 of 1: expected a step such as Normalize('sigmoid'), or a table such as"),
        ([Normalize], "step 1 of 1: expected a step such as Normalize('sigmoid')"),
        (
            [{"method": "rank"}],
            "step 1 of 1: the key 'type' is missing; it is one of threshold, normalize, fuse, decay",
        ),
        ([{"type": "decy"}], "step 1 of 1 (decy): there is no step 'decy'; did you mean 'decay'?"),
        ([{"type": 3}], "step 1 of 1: there is no step 3; the steps are threshold, normalize"),
        ([{"type": "threshold"}], "step 1 of 1 (threshold): the key 'least' is missing"),
        (
            [Threshold(1), {"type": "decay", "scal": 1}],
            "step 2 of 2 (decay): there is no key 'scal'; did you mean 'scale'?",
        ),
        ([{"type": "threshold", "x": 1}], "step 1 of 1 (threshold): there is no key 'x'; its keys are least"),
        ([{"type": "boost", "_expression": 1}], "step 1 of 1 (boost): there is no key '_expression'"),
        ([{"type": "threshold", "least": "1"}], "step 1 of 1 (threshold): least must be a number, got str: '1'"),
        ([{"type": "threshold", "least": math.nan}], "step 1 of 1 (threshold): least must be a number, got float: nan"),
        ([{"type": "normalize", "method": "x"}], "step 1 of 1 (normalize): method must be one of 'sigmoid', 'softmax'"),
        ([{"type": "fuse", "metric": "L3"}], "step 1 of 1 (fuse): metric must be one of 'BM25', 'COSINE'"),
        ([{"type": "fuse", "metric": "IP", "k": 0}], "step 1 of 1 (fuse): k must be a positive integer, got int: 0"),
        ([{"type": "fuse", "metric": "IP", "weights": [1]}], "step 1 of 1 (fuse): weights must be two numbers"),
        ([{"type": "fuse", "metric": "IP", "weights": [1, 2], "k": 3}], "step 1 of 1 (fuse): k is for reciprocal rank"),
        ([{"type": "group_by", "field": ""}], "step 1 of 1 (group_by): field must be the name of a field, got str: ''"),
        ([{"type": "group_by", "field": "a", "size": 0}], "step 1 of 1 (group_by): size must be a positive integer"),
        (
            [{"type": "group_by", "field": "a", "missing": "skip"}],
            "step 1 of 1 (group_by): missing must be one of 'error'",
        ),
        (
            [{"type": "diversify", "field": "a", "trade_off": 2}],
            "step 1 of 1 (diversify): trade_off must be a number fr",
        ),
        (
            [{"type": "boost", "filter": "a > 1", "weight": -1}],
            "step 1 of 1 (boost): weight must be a number of at least 0",
        ),
        (
            [{"type": "boost", "filter": "a like 'b'", "weight": 1}],
            "step 1 of 1 (boost): the filter \"a like 'b'\" cannot",
        ),
        ([Diversify("v"), Fuse("IP")], "step 2 of 2 (fuse) sorts by score, which undoes diversify; put it before"),
        ([LostInTheMiddle(), Threshold(1)], "step 2 of 2 (threshold): lost_in_the_middle must be the last step"),
    ],
)
def test_what_cannot_be_meant_names_the_step(steps: Any, problem: str) -> None:
    with pytest.raises(InputError) as raised:
        Pipeline(steps)
    assert str(raised.value).startswith(problem)


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"function": "gaus"}, "function must be one of 'gauss', 'exp', 'linear', got 'gaus'"),
        ({"decay": 1}, "decay must be a number between 0 and 1, got 1"),
        ({"decay": 0.0}, "decay must be a number between 0 and 1, got 0.0"),
        ({"least": 1}, "least must be a number from 0 to below 1, got 1"),
        ({"scale": 0}, "scale must be a number above 0, got float: 0.0"),
        ({"scale": "30d"}, "scale must be a number, got str: '30d'"),
        ({"offset": -1}, "offset must be a number of at least 0, got float: -1.0"),
        ({"origin": None}, "origin must be a number, got NoneType: None"),
        ({"origin": True}, "origin must be a number, got bool: True"),
        (
            {"origin": "yesterday"},
            "origin must be a date such as '2026-05-01' or '2026-05-01T12:00:00Z', got 'yesterday'",
        ),
        (
            {"origin": "now"},
            "scale must be a duration such as '30d' (s, min, h, d, w), as origin is a date, got int: 1",
        ),
        ({"origin": "now", "scale": "1y"}, "scale must be a duration such as '30d'"),
        ({"origin": "now", "scale": "0d"}, "scale must be a number above 0"),
        ({"unit": "s"}, "unit is for dates; origin must be a date or 'now', got int: 0"),
        ({"origin": "now", "scale": "1d", "unit": "h"}, "unit must be one of 's', 'ms', 'us', got 'h'"),
    ],
)
def test_what_a_decay_cannot_mean_is_named(options: dict[str, Any], problem: str) -> None:
    with pytest.raises(InputError) as raised:
        Decay(**{"field": "x", "function": "exp", "origin": 0, "scale": 1, **options})
    assert str(raised.value).startswith(problem)


@pytest.mark.parametrize(
    ("step", "result", "problem"),
    [
        (Decay("x", "exp", 0, 1), hit(7, -0.5, x=1), r"the score of results\[0\] \(id 7\) is -0.5; a factor needs"),
        (
            Decay("x", "exp", 0, 1),
            hit(7, 0.5, y=1),
            r"results\[0\] \(id 7\) has no field 'x'; it has \['y'\]. Ask Milvus",
        ),
        (Decay("x", "exp", 0, 1), hit(7, 0.5, x=None), r"field 'x' of results\[0\] \(id 7\) is null\. Pass missing="),
        (
            Decay("x", "exp", 0, 1),
            hit(7, 0.5, x="1"),
            r"field 'x' of results\[0\] \(id 7\) must be a number, got str: '1'",
        ),
        (Decay("x", "exp", 0, 1), hit(7, 0.5, x=math.nan), r"field 'x' of results\[0\] \(id 7\) must be a number"),
        (Decay("x", "exp", "now", "1d"), hit(7, 0.5, x=17), "must be a date such as .*, got 17; say with unit='s'"),
        (Decay("x", "exp", "now", "1d"), hit(7, 0.5, x="May"), "must be a date such as .*, got 'May'"),
        (Boost("x > 1", 2), hit(7, 0.5, x="a"), r"results\[0\] \(id 7\): field 'x' holds a str .*compares it with 1"),
        (Boost("x == true", 2), hit(7, 0.5, x=1), r"field 'x' holds a int .*compares it with True"),
        (Boost("x > 1 and y > 1", 2), hit(7, 0.5, x=3), r"results\[0\] \(id 7\) has no field 'y'"),
        (FieldBoost("x"), hit(7, 0.5, x=-1), r"field 'x' of results\[0\] \(id 7\) must be a number of at least 0"),
        (GroupBy("x"), hit(7, 0.5), r"results\[0\] \(id 7\) has no field 'x'; it has none"),
        (GroupBy("x"), hit(7, 0.5, x=[1]), "must hold a string, a number or a boolean to group by, got list"),
        (Fuse("IP"), RerankResult("a", 0.5, 0), r"the distance of results\[0\] must be a finite number, got None"),
        (Diversify("x"), hit(7, 0.5), r"results\[0\] \(id 7\) has no field 'x'"),
    ],
)
def test_a_result_that_a_step_cannot_handle_is_named(step: Step, result: RerankResult[Any], problem: str) -> None:
    with pytest.raises(InputError, match=problem) as raised:
        Pipeline([GroupBy("id", 9, "keep"), step])([result])
    assert str(raised.value).startswith(f"step 2 of 2 ({step.name}): ")


@pytest.mark.parametrize(
    "step",
    [Decay("x", "exp", 0, 1), Boost("x > 0", 0.1), FieldBoost("x", 5), GroupBy("x")],
    ids=lambda step: step.name,
)
def test_missing_fields_are_kept_or_dropped_if_asked(step: Any) -> None:
    options = {name: getattr(step, name) for name in type(step).__match_args__ if name != "missing"}
    given = [hit(0, 0.9, x=1), hit(1, 0.8), hit(2, 0.7, x=None)]
    kept = type(step)(**options, missing="keep")(given)
    assert sorted(ids(kept)) == [0, 1, 2]
    assert [result.score for result in kept if result.id > 0] == [0.8, 0.7]
    assert ids(type(step)(**options, missing="drop")(given)) == [0]


def test_a_null_that_the_filter_asks_for_is_no_missing_field() -> None:
    given = [hit(0, 0.5, x=1), hit(1, 0.5), hit(2, 0.5, x=9)]
    assert ids(Boost("x is null", 2)(given)) == [1, 0, 2]
    assert ids(Boost("x is not null and x > 5", 2)(given)) == [2, 0, 1]


def test_twenty_threads_share_a_pipeline() -> None:
    pipeline = Pipeline([Normalize("sigmoid"), Fuse("IP"), Boost("x > 0.5", 2), GroupBy("g", 2), LostInTheMiddle()])

    def work(seed: int) -> Any:
        generator = random.Random(seed)
        given = [hit(i, generator.gauss(0, 3), x=generator.random(), g=generator.randrange(5)) for i in range(50)]
        expected = GroupBy("g", 2)(Boost("x > 0.5", 2)(fuse(normalize(given, "sigmoid"), metric="IP")))[:8]
        return pipeline(given, 8) == LostInTheMiddle()(expected) and len(expected) == 8

    with ThreadPoolExecutor(20) as pool:
        assert all(pool.map(work, range(100)))


def test_importing_the_steps_loads_nothing_heavy() -> None:
    code = "import sys, milvus_rerank.steps; print([m for m in ('numpy', 'pydantic', 'pymilvus') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
