"""Scores against FlagEmbedding's and pymilvus.model's, on every engine.

Those in peer_scores are stored, with the versions that made them; see make.py there. Live ones are compared where the
packages run.
"""

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flag_options import grouped
from peers import running
from tiny_models import copy_as_published

from milvus_rerank import BGERerankFunction, CrossEncoderRerankFunction
from milvus_rerank.engines.select import EngineName
from milvus_rerank.reranker.local import EngineRerankFunction

FOLDER = Path(__file__).resolve().parents[1] / "peer_scores"
STORED = json.loads((FOLDER / "scores.json").read_text("utf-8"))
QUERIES, TEXTS = STORED["queries"], STORED["texts"]
ENGINES = ("torch", "onnx", "openvino")
TOLERANCE = 1e-5
LIVE_ARCHITECTURES = ("bert", "xlm-roberta")
LIVE_TEXTS = [
    "the quick brown fox jumps over the lazy dog",
    "turing proposed a test in 1950",
    "vector search returns candidates " * 20,
    "a cross-encoder reads query and document together",
]
LIVE_QUERY = "who proposed a test of intelligence"
LIMITS: dict[str, Any] = {"query_max_length": 24, "max_length": 64}


def stored_cases(*functions: str) -> list[Any]:
    cases = [case for case in STORED["cases"] if case["function"] in functions]
    return [
        pytest.param(case, id=" ".join(map(str, (case["function"], case["architecture"], *case["options"].values()))))
        for case in cases
    ]


def scores_by_call(reranker: Any, query: str, texts: list[str]) -> list[float]:
    """Return the scores in the order of texts, of this package's functions and of pymilvus.model's."""
    return [result.score for result in sorted(reranker(query, texts, top_k=0), key=lambda result: result.index)]


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("case", stored_cases("FlagReranker"))
def test_scores_equal_stored_ones_of_flag_embedding(case: dict[str, Any], engine: EngineName) -> None:
    folder, expected = FOLDER / case["architecture"], np.array(case["scores"])
    reranker = BGERerankFunction(str(folder), device="cpu", engine=engine, **grouped(case["options"]))
    assert (reranker.scorer.engine.name, reranker.scorer.engine.dtype) == (engine, "float32")
    assert np.ptp(expected) > 0.01, "the reference does not tell texts apart"
    scores = np.reshape(reranker.score_pairs(list(itertools.product(QUERIES, TEXTS))), expected.shape)
    np.testing.assert_allclose(scores, expected, atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("case", stored_cases("BGERerankFunction", "CrossEncoderRerankFunction"))
def test_scores_equal_stored_ones_of_pymilvus_model(case: dict[str, Any], engine: EngineName) -> None:
    functions = {"BGERerankFunction": BGERerankFunction, "CrossEncoderRerankFunction": CrossEncoderRerankFunction}
    folder = FOLDER / case["architecture"]
    reranker = functions[case["function"]](str(folder), device="cpu", engine=engine, **grouped(case["options"]))
    assert np.ptp(case["scores"]) > 0.005, "the reference does not tell texts apart"
    scores = [scores_by_call(reranker, query, TEXTS) for query in QUERIES]
    np.testing.assert_allclose(scores, case["scores"], atol=TOLERANCE, rtol=0)


def assert_live_scores(reranker: EngineRerankFunction, expected: list[float]) -> None:
    assert np.ptp(expected) > 0.01, "the reference does not tell texts apart"
    np.testing.assert_allclose(scores_by_call(reranker, LIVE_QUERY, LIVE_TEXTS), expected, atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("architecture", LIVE_ARCHITECTURES)
def test_scores_equal_live_ones_of_flag_embedding(architecture: str, tmp_path: Path) -> None:
    folder = str(copy_as_published(FOLDER / architecture, architecture, tmp_path / architecture))
    with running("FlagEmbedding"):
        from FlagEmbedding import FlagReranker

        expected = FlagReranker(folder, devices="cpu", **LIMITS).compute_score(
            [(LIVE_QUERY, text) for text in LIVE_TEXTS]
        )
    assert_live_scores(BGERerankFunction(folder, device="cpu", normalize=False, **LIMITS), expected)


@pytest.mark.parametrize("architecture", LIVE_ARCHITECTURES)
def test_scores_equal_live_ones_of_pymilvus_models_bge_function(architecture: str, tmp_path: Path) -> None:
    options: dict[str, Any] = {"device": "cpu", "normalize": False, **LIMITS}
    folder = str(copy_as_published(FOLDER / architecture, architecture, tmp_path / architecture))
    with running("pymilvus.model's BGERerankFunction"):
        import FlagEmbedding  # noqa: F401  pymilvus.model would install what is missing
        import peft  # noqa: F401
        from pymilvus.model.reranker import BGERerankFunction as PymilvusFunction

        function = PymilvusFunction(folder, model_class="encoder-only-base", **options)
        expected = scores_by_call(function, LIVE_QUERY, LIVE_TEXTS)
    assert_live_scores(BGERerankFunction(folder, **options), expected)


@pytest.mark.parametrize("architecture", LIVE_ARCHITECTURES)
def test_scores_equal_live_ones_of_pymilvus_models_cross_encoder_function(architecture: str, tmp_path: Path) -> None:
    folder = str(copy_as_published(FOLDER / architecture, architecture, tmp_path / architecture))
    with running("pymilvus.model's CrossEncoderRerankFunction"):
        import sentence_transformers  # noqa: F401  pymilvus.model would install what is missing
        from pymilvus.model.reranker import CrossEncoderRerankFunction as PymilvusFunction

        expected = scores_by_call(PymilvusFunction(folder, device="cpu"), LIVE_QUERY, LIVE_TEXTS)
    assert_live_scores(CrossEncoderRerankFunction(folder, device="cpu"), expected)


def test_a_package_that_cannot_be_imported_is_a_skip_that_says_why() -> None:
    reason = "absent fails here: ModuleNotFoundError: No module named 'absent_package'"
    with pytest.raises(pytest.skip.Exception, match=reason), running("absent"):
        import absent_package  # type: ignore[import-not-found]  # noqa: F401
