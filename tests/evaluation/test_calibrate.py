"""Calibrations: probabilities of relevance from logits."""

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_models import save_tiny_model

from milvus_rerank import BGERerankFunction, CrossEncoderRerankFunction
from milvus_rerank.errors import InputError, ModelError
from milvus_rerank.evaluation.calibrate import LabelledQuery, calibrate
from milvus_rerank.evaluation.fit import error_of, fit, log_loss
from milvus_rerank.models.calibration import Calibration, read_calibration
from milvus_rerank.models.files import fingerprint

pytestmark = pytest.mark.needs("scipy", "torch")

WORDS = [f"{first} {second}" for first in ("vector", "search", "milvus", "query") for second in "abcdefghij"]


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return save_tiny_model("bert", tmp_path / "model")


def labelled(reranker: CrossEncoderRerankFunction, slope: float, shift: float, count: int = 30) -> list[LabelledQuery]:
    """Return queries whose texts are relevant with the probability of a known curve over standardised logits."""
    random = np.random.default_rng(0)
    mean, spread = standard(reranker)
    queries = []
    for number in range(count):
        texts = [WORDS[index] for index in random.permutation(len(WORDS))]
        logits = (np.array(reranker.score(f"query {number}", texts)) - mean) / spread
        relevant = random.random(len(texts)) < 1 / (1 + np.exp(-(slope * logits + shift)))
        queries.append(LabelledQuery(f"query {number}", tuple(texts), tuple(map(bool, relevant))))
    return queries


def standard(reranker: CrossEncoderRerankFunction) -> tuple[float, float]:
    scores = [score for number in range(30) for score in reranker.score(f"query {number}", WORDS)]
    return float(np.mean(scores)), float(np.std(scores))


def test_a_known_curve_is_found_and_the_error_falls(model: Path) -> None:
    reranker = CrossEncoderRerankFunction(str(model), device="cpu", activation_fct="raw")
    mean, spread = standard(reranker)
    report = calibrate(reranker, labelled(reranker, 2.0, -1.0), precision=0.5, method="platt")
    slope, intercept = report.calibration.slope, report.calibration.intercept
    assert slope is not None
    assert slope * spread == pytest.approx(2.0, abs=0.3)
    assert intercept + slope * mean == pytest.approx(-1.0, abs=0.3)
    assert report.ece_after < 0.05
    assert report.brier_after < report.brier_before
    assert report.threshold is not None
    assert 0 < report.threshold < 1
    assert sum(bin_.count for bin_ in report.bins) == report.pairs == 30 * len(WORDS)


def test_rerankers_use_the_file_beside_the_model_or_the_one_they_are_given(model: Path, tmp_path: Path) -> None:
    plain = CrossEncoderRerankFunction(str(model), device="cpu", activation_fct="raw")
    report = calibrate(plain, labelled(plain, 3.0, -1.0))
    report.write(model / "calibration.json")
    logits = np.array(plain.score("query", WORDS), np.float32)
    expected = report.calibration(logits)
    for options in ({"activation_fct": "calibrated"}, {"calibration": model / "calibration.json"}):
        reranker = CrossEncoderRerankFunction(str(model), device="cpu", **options)
        np.testing.assert_allclose(reranker.score("query", WORDS), expected, atol=1e-6)
    best = CrossEncoderRerankFunction(str(model), device="cpu", activation_fct="calibrated")
    kept = best("query", WORDS, top_k=0, threshold=0.3)
    assert [result.score for result in kept] == sorted((value for value in expected if value >= 0.3), reverse=True)
    with pytest.raises(InputError, match="max_length=64, this reranker has 32"):
        CrossEncoderRerankFunction(str(model), device="cpu", activation_fct="calibrated", max_length=32)
    other = save_tiny_model("bert", tmp_path / "other", width=16)
    with pytest.raises(InputError, match="is a calibration of the model"):
        CrossEncoderRerankFunction(str(other), device="cpu", calibration=model / "calibration.json")
    with pytest.raises(InputError, match=r"there is no calibration .*make one with: milvus-rerank calibrate"):
        CrossEncoderRerankFunction(str(other), device="cpu", activation_fct="calibrated")


def test_bge_takes_a_calibration_of_its_own_logits(model: Path) -> None:
    plain = BGERerankFunction(str(model), device="cpu", normalize=False)
    queries = labelled(CrossEncoderRerankFunction(str(model), device="cpu", activation_fct="raw"), 3.0, -1.0)
    report = calibrate(plain, queries)
    report.write(model / "mine.json")
    calibrated = BGERerankFunction(str(model), device="cpu", calibration=model / "mine.json")
    expected = report.calibration(np.array(plain.score("query", WORDS), np.float32))
    np.testing.assert_allclose(calibrated.score("query", WORDS), expected, atol=1e-6)


def test_isotonic_steps_keep_the_order_of_documents() -> None:
    logits = np.arange(20, dtype=np.float32)
    labels = np.array([0, 0, 0, 0, 0, 1, 0, 1, 0, 1, 0, 1, 1, 0, 1, 1, 1, 1, 1, 1], bool)
    curve = fit("isotonic", logits, labels)
    calibration = Calibration("m", "f", 512, curve.slope, curve.intercept, curve.logits, curve.probabilities)
    probabilities = calibration(np.linspace(-5, 25, 200, dtype=np.float32))
    assert (np.diff(probabilities) > 0).all()
    assert 0 < probabilities[0] < probabilities[-1] < 1


def test_platts_curve_is_the_maximum_of_the_likelihood() -> None:
    random = np.random.default_rng(1)
    logits = random.normal(1.0, 3.0, 500).astype(np.float32)
    labels = random.random(500) < 1 / (1 + np.exp(-(0.7 * logits - 1)))
    curve = fit("platt", logits, labels)
    assert curve.slope is not None

    def loss(slope: float, intercept: float) -> float:
        return log_loss(1 / (1 + np.exp(-(slope * logits + intercept))), labels)

    best = loss(curve.slope, curve.intercept)
    for slope, intercept in ((0.05, 0), (-0.05, 0), (0, 0.1), (0, -0.1)):
        assert loss(curve.slope + slope, curve.intercept + intercept) > best


def test_the_error_is_the_mean_distance_weighted_by_count() -> None:
    assert error_of([(0.1, 0.3, 10), (0.8, 0.7, 30)], 40) == pytest.approx(0.25 * 0.2 + 0.75 * 0.1)
    assert log_loss(np.array([0.5, 0.25]), np.array([True, False])) == pytest.approx(
        -(math.log(0.5) + math.log(0.75)) / 2
    )


@pytest.mark.parametrize("method", ["platt", "isotonic"])
def test_scores_that_fall_with_relevance_are_an_error(method: str) -> None:
    logits = np.arange(100, dtype=np.float32)
    with pytest.raises(InputError, match="scores do not rise with relevance"):
        fit(method, logits, logits < 50)


@pytest.mark.parametrize(
    ("queries", "message"),
    [
        ([LabelledQuery("q", ("a", "b"), (True, False))] * 9, "at least 10 queries.* got 9, 9 and 9"),
        ([LabelledQuery("q", ("a", "b"), (True, True))] * 20, "10 others, got 20, 40 and 0"),
        ([], "got 0, 0 and 0"),
    ],
)
def test_too_little_to_calibrate_with_is_an_error(model: Path, queries: list[LabelledQuery], message: str) -> None:
    with pytest.raises(InputError, match=message):
        calibrate(CrossEncoderRerankFunction(str(model), device="cpu"), queries)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"method": "magic"}, "'method' must be 'platt' or 'isotonic'"),
        ({"slope": -1.0}, "'slope' must be positive"),
        ({"slope": "steep"}, "'slope' must be made of finite numbers"),
        ({"slope": math.nan}, "'slope' must be made of finite numbers"),
        ({"max_length": "long"}, "'max_length' must be of type int"),
        ({"model": None}, "'model' must be of type str"),
        ({"method": "isotonic", "logits": [1, 0], "probabilities": [0, 1]}, "'logits' must rise"),
        ({"method": "isotonic", "logits": [0, 1], "probabilities": [0, 2]}, "lie between 0 and 1"),
        ({"method": "isotonic", "logits": [0, 1], "probabilities": [0]}, "must be of one length"),
        ({"method": "isotonic", "logits": [0] * 2000, "probabilities": [0]}, "at most 1024 numbers"),
    ],
)
def test_files_that_hold_no_calibration_are_refused(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    whole = Calibration("m", "f", 512, slope=1.0, intercept=0.5).to_dict()
    path = tmp_path / "calibration.json"
    path.write_text(json.dumps(whole))
    assert read_calibration(path) == Calibration("m", "f", 512, slope=1.0, intercept=0.5)
    path.write_text(json.dumps({**whole, **change}))
    with pytest.raises(ModelError, match=message):
        read_calibration(path)


def test_a_model_has_the_same_fingerprint_in_another_folder(model: Path, tmp_path: Path) -> None:
    before = fingerprint(model)
    moved = model.rename(tmp_path / "moved")
    assert fingerprint(moved) == before
    weights = bytearray((moved / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (moved / "model.safetensors").write_bytes(weights)
    assert fingerprint(moved) != before


def test_knots_are_written_and_read_as_they_are(tmp_path: Path) -> None:
    knots = Calibration("m", "f", 512, None, 0.0, (0.0, 1.5), (0.25, 0.75))
    (tmp_path / "c.json").write_text(json.dumps(knots.to_dict()))
    assert read_calibration(tmp_path / "c.json") == knots
    assert knots(np.array([0.75], np.float32))[0] == pytest.approx(0.999 * 0.5 + 0.001 / (1 + math.exp(-0.75)))
    assert replace(knots, slope=2.0)(np.array([1.0], np.float32))[0] == pytest.approx(1 / (1 + math.exp(-2)))
