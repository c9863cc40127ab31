"""Sizing: the arithmetic by hand, and the shipped speeds against their sources."""

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest

from milvus_rerank.errors import InputError
from milvus_rerank.sizing import Load, Speed, kinds, own_speed, size, sizes, speeds_of

RESULTS = Path(__file__).resolve().parent.parent / "benchmarks" / "results"
SPEED = Speed("m", "h100", "bfloat16", 1000.0, 100, "milvus-rerank", "here", "2026-11")


def test_machines_and_cost_are_those_counted_by_hand() -> None:
    # 1000 pairs/s of 100 tokens are 500 of 200; half the time is 250 a second, 21.6 million a day.
    load = Load(108_000_000, tokens=200, utilisation=0.5)
    found = size(load, SPEED, {"h100": 3.0})
    assert (found.pairs_per_second, found.machines, found.scaled) == (500.0, 5, True)
    assert found.cost_per_day == 5 * 24 * 3.0
    assert found.cost_per_million == pytest.approx(1e6 / 250 / 3600 * 3.0)
    assert size(replace(load, pairs_per_day=108_000_001), SPEED, {}).machines == 6
    assert size(replace(load, pairs_per_day=1), SPEED, {}).machines == 1


def test_a_speed_whose_tokens_are_not_known_is_not_scaled() -> None:
    found = size(Load(86_400_000, tokens=400, utilisation=1.0), replace(SPEED, tokens=None), {})
    assert (found.pairs_per_second, found.machines, found.scaled) == (1000.0, 1, False)


def test_a_speed_of_ones_own_has_a_cost_only_with_a_price() -> None:
    load = Load(1e9, tokens=300, utilisation=0.8)
    found = size(load, own_speed("mine", 2000, load.tokens), {})
    assert (found.machines, found.cost_per_day, found.cost_per_million) == (8, None, None)  # 138.24 million a day each
    assert size(load, own_speed("mine", 2000, load.tokens), {"own": 2.0}).cost_per_day == 8 * 24 * 2.0


def test_the_cheapest_is_first_and_one_without_a_price_last() -> None:
    speeds = [replace(SPEED, kind="own"), SPEED, replace(SPEED, kind="rtx3090", pairs_per_second=900.0)]
    found = sizes(Load(1e8), speeds, {"h100": 5.0, "rtx3090": 0.5})
    assert [each.speed.kind for each in found] == ["rtx3090", "h100", "own"]


def test_models_are_found_with_and_without_their_organization() -> None:
    assert speeds_of("BAAI/bge-reranker-v2-m3") == speeds_of("BGE-reranker-v2-m3")
    assert speeds_of("builtin/rerank") == speeds_of("cross-encoder/ms-marco-MiniLM-L6-v2")
    assert {speed.kind for speed in speeds_of("builtin/rerank")} == kinds().keys()
    with pytest.raises(InputError, match=r"known are bge-reranker-base, .*--pairs-per-second"):
        speeds_of("none")


@pytest.mark.parametrize(
    "wrong", [{"pairs_per_day": 0.0}, {"tokens": -1.0}, {"utilisation": 1.5}, {"tokens": math.inf}]
)
def test_numbers_that_cannot_be_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(InputError, match=f"{next(iter(wrong))} must be a positive number"):
        Load(**{"pairs_per_day": 1.0, **wrong})


def test_prices_are_of_kinds_that_are_there() -> None:
    with pytest.raises(InputError, match="a price is given for 'h10', but the kinds here are h100"):
        sizes(Load(1), [SPEED], {"h10": 1.0})
    with pytest.raises(InputError, match="at least 0"):
        sizes(Load(1), [SPEED], {"h100": -1.0})


@pytest.mark.skipif(not RESULTS.is_dir(), reason="the benchmarks' results are not part of this package")
def test_our_speeds_are_those_of_the_results() -> None:
    gpu = json.loads((RESULTS / "gpu.json").read_text("utf-8"))
    names = {"minilm-l6": "ms-marco-MiniLM-L6-v2", "bge-v2-m3": "bge-reranker-v2-m3",
             "modernbert-base": "gte-reranker-modernbert-base"}  # fmt: skip
    assert gpu["models"].keys() == names.keys()
    for name, facts in gpu["models"].items():
        (speed,) = [speed for speed in speeds_of(names[name]) if speed.kind == "h200"]
        assert (speed.pairs_per_second, speed.tokens) == (
            facts["pairs_per_second"]["packed"],
            facts["tokens_of_a_pair"],
        )
        assert (speed.source, speed.date) == ("benchmarks/results/gpu.json", facts.get("date", gpu["date"]))
    measured = json.loads((RESULTS / "speed.json").read_text("utf-8"))
    case = measured["cases"]["throughput"]
    speeds = {speed.dtype: speed for speed in speeds_of("builtin/rerank") if speed.kind == "epyc-2"}
    for dtype, row in (("float32", ""), ("bfloat16", ' dtype="auto"'), ("int8", ' dtype="int8"')):
        milliseconds = case["rows"][f"milvus-rerank{row}"]["milliseconds_per_document"]
        assert speeds[dtype].pairs_per_second == pytest.approx(1000 / milliseconds, abs=0.05)
        assert (speeds[dtype].tokens, speeds[dtype].date) == (round(case["mean_tokens"]), measured["date"])
