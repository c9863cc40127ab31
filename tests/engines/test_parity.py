"""Scores against sentence-transformers', on ten architectures and every engine."""

import itertools
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pair_texts import QUERIES, TEXTS
from tiny_models import ARCHITECTURES

from milvus_rerank import CrossEncoderRerankFunction
from milvus_rerank.engines.openvino_engine import has_bfloat16
from milvus_rerank.engines.select import EngineName

pytestmark = pytest.mark.compat

PAIRS = list(itertools.product(QUERIES, TEXTS))
LENGTHS = [(" ".join("a" * query), " ".join("b" * text)) for query in range(0, 40, 3) for text in range(0, 70, 7)]
ENGINES = ("torch", "onnx", "openvino")


@cache
def sentence_transformers_scores(folder: Path, max_length: int | None = None) -> np.ndarray:
    from sentence_transformers import CrossEncoder

    reference = CrossEncoder(str(folder), device="cpu", max_length=max_length)
    return np.asarray(reference.predict(PAIRS if max_length is None else LENGTHS, show_progress_bar=False))


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_scores_equal_sentence_transformers(tiny: dict[str, Path], architecture: str, engine: EngineName) -> None:
    folder = tiny[architecture]
    expected = sentence_transformers_scores(folder)
    reranker = CrossEncoderRerankFunction(str(folder), device="cpu", engine=engine)
    assert (reranker.scorer.engine.name, reranker.scorer.engine.dtype) == (engine, "float32")
    assert np.ptp(expected) > 0.01, "the reference does not tell texts apart"
    np.testing.assert_allclose(reranker.score_pairs(PAIRS), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_one_pair_at_a_time_scores_the_same(tiny: dict[str, Path], architecture: str, engine: EngineName) -> None:
    reranker = CrossEncoderRerankFunction(str(tiny[architecture]), device="cpu", engine=engine)
    alone = [reranker.score_pairs([pair])[0] for pair in PAIRS[:20]]
    np.testing.assert_allclose(alone, sentence_transformers_scores(tiny[architecture])[:20], atol=1e-5, rtol=0)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("max_length", [8, 21, 64])
def test_every_length_is_cut_as_sentence_transformers_cuts_it(
    tiny: dict[str, Path], max_length: int, engine: EngineName
) -> None:
    for architecture in ("bert", "roberta"):
        expected = sentence_transformers_scores(tiny[architecture], max_length)
        options: dict[str, Any] = {"device": "cpu", "max_length": max_length, "engine": engine}
        reranker = CrossEncoderRerankFunction(str(tiny[architecture]), **options)
        np.testing.assert_allclose(reranker.score_pairs(LENGTHS), expected, atol=1e-5, rtol=0)


@pytest.mark.skipif(not has_bfloat16(), reason="this CPU has no bfloat16 hardware")
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_bfloat16_scores_are_near_and_keep_the_order(tiny: dict[str, Path], architecture: str) -> None:
    expected = sentence_transformers_scores(tiny[architecture])
    reranker = CrossEncoderRerankFunction(str(tiny[architecture]), device="cpu", engine="openvino", dtype="auto")
    assert reranker.scorer.engine.dtype == "bfloat16"
    scores = np.array(reranker.score_pairs(PAIRS))
    # Measured: 0.9 to 2.3% of the range of scores, with weights eight times as wide as a fresh model's.
    assert 1e-4 < np.abs(scores - expected).max() / np.ptp(expected) < 0.04
    ranks, exact_ranks = scores.argsort().argsort(), expected.argsort().argsort()
    # Spearman; measured: 0.9934 to 0.9993. Equal scores have no order to keep, and the unigram tokenizers' training
    # differs from run to run. The bar for a trained model is that of benchmarks/results.
    assert np.corrcoef(ranks, exact_ranks)[0, 1] > 0.98
