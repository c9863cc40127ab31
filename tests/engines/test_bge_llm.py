"""BGE's language models against the scores that FlagEmbedding gave on the same weights; see flag_embedding/make.py."""

import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flag_options import grouped

from milvus_rerank import BGERerankFunction, CrossEncoderRerankFunction, FlagOptions
from milvus_rerank.engines.torch_engine import TorchEngine
from milvus_rerank.errors import InputError, ModelError

pytestmark = pytest.mark.compat

HERE = Path(__file__).resolve().parents[1] / "flag_embedding"
GEMMA, LAYERWISE, LIGHTWEIGHT = (
    HERE / name
    for name in (
        "bge-reranker-v2-gemma",
        "bge-reranker-v2-minicpm-layerwise",
        "bge-reranker-v2.5-gemma2-lightweight",
    )
)
MODELS = (GEMMA, LAYERWISE, LIGHTWEIGHT)
CASES = [
    pytest.param(folder, case, id=f"{folder.name} {case['options'] or 'as it is'}")
    for folder in MODELS
    for case in json.loads((folder / "scores.json").read_text("utf-8"))["cases"]
]


def pairs_of(folder: Path) -> list[tuple[str, str]]:
    return [(query, text) for query, text in json.loads((folder / "scores.json").read_text("utf-8"))["pairs"]]


def limits_of(folder: Path) -> dict[str, Any]:
    limits: dict[str, Any] = json.loads((folder / "scores.json").read_text("utf-8"))["limits"]
    return limits


def layers_of(reranker: BGERerankFunction) -> int:
    """Return how many layers of its model a reranker runs."""
    engine = reranker.scorer.engine
    assert isinstance(engine, TorchEngine)
    return len(engine._model.model.layers)


@pytest.mark.parametrize(("folder", "case"), CASES)
def test_scores_equal_flag_embedding(folder: Path, case: dict[str, Any]) -> None:
    reranker = BGERerankFunction(
        str(folder), device="cpu", normalize=False, **limits_of(folder), **grouped(case["options"])
    )
    assert reranker.scorer.engine.name == "torch"
    expected = np.array(case["scores"])
    assert np.ptp(expected) > 0.03, "the reference does not tell texts apart"
    np.testing.assert_allclose(reranker.score_pairs(pairs_of(folder)), expected, atol=2e-6, rtol=0)


@pytest.mark.parametrize("folder", MODELS, ids=lambda folder: folder.name)
def test_one_pair_at_a_time_scores_the_same(folder: Path) -> None:
    reranker = BGERerankFunction(str(folder), device="cpu", normalize=False, **limits_of(folder))
    pairs = pairs_of(folder)[::5]
    alone = [reranker.score_pairs([pair])[0] for pair in pairs]
    np.testing.assert_allclose(alone, reranker.score_pairs(pairs), atol=2e-6, rtol=0)


@pytest.mark.parametrize("folder", MODELS, ids=lambda folder: folder.name)
def test_normalize_is_the_sigmoid(folder: Path) -> None:
    pairs = pairs_of(folder)[:20]
    raw = np.array(BGERerankFunction(str(folder), device="cpu", normalize=False).score_pairs(pairs))
    scores = BGERerankFunction(str(folder), device="cpu").score_pairs(pairs)
    np.testing.assert_allclose(scores, 1 / (1 + np.exp(-raw)), atol=1e-6)


@pytest.mark.parametrize("folder", MODELS, ids=lambda folder: folder.name)
def test_threads_share_one_object(folder: Path) -> None:
    reranker = BGERerankFunction(str(folder), device="cpu", normalize=False, **limits_of(folder))
    pairs = pairs_of(folder)
    expected = reranker.score_pairs(pairs)
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda number: reranker.score_pairs(pairs[number::3]), range(3)))
    for number, own in enumerate(found):
        np.testing.assert_allclose(own, expected[number::3], atol=2e-6)


def test_layers_after_the_one_that_is_read_are_not_loaded() -> None:
    reranker = BGERerankFunction(str(LAYERWISE), device="cpu", flag=FlagOptions(cutoff_layers=3))
    assert layers_of(reranker) == 3


def test_a_layer_without_a_head_names_those_that_have_one() -> None:
    with pytest.raises(ModelError, match=r"score heads on the layers 2 to 5, got cutoff_layers=1"):
        BGERerankFunction(str(LAYERWISE), device="cpu", flag=FlagOptions(cutoff_layers=1))
    with pytest.raises(ModelError, match=r"score heads on the layers 2 to 4, got cutoff_layers=9"):
        BGERerankFunction(str(LIGHTWEIGHT), device="cpu", flag=FlagOptions(cutoff_layers=[9]))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"cutoff_layers": [8, 28]}, r"cutoff_layers must be one layer, such as 28 or \[28\], got \[8, 28\]"),
        ({"compress_ratio": 0}, "compress_ratio must be a positive integer, got int: 0"),
        ({"compress_layers": [-1]}, "compress_layers must be an integer, 0 for none, got int: -1"),
        ({"query_instruction_for_rerank": 5}, "instructions and their formats are strings, got '{}{}' and 5"),
        (
            {"query_instruction_for_rerank": "x", "query_instruction_format": "{}"},
            "a format has two places, as '{}{}' has for instruction and text; got '{}'",
        ),
        ({"engine": "openvino"}, "is not a sequence classifier: engine 'torch' runs it, 'openvino' does not"),
    ],
    ids=lambda value: "" if isinstance(value, str) else str(value),
)
def test_options_that_cannot_be_used_say_so(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        BGERerankFunction(str(LAYERWISE), device="cpu", **grouped(options))


@pytest.mark.parametrize("folder", MODELS, ids=lambda folder: folder.name)
def test_the_other_rerank_function_names_this_one(folder: Path) -> None:
    with pytest.raises(InputError, match=r"is a BGE reranker; load it with BGERerankFunction\("):
        CrossEncoderRerankFunction(str(folder), device="cpu")


@pytest.mark.parametrize("folder", MODELS, ids=lambda folder: folder.name)
def test_a_folder_by_any_name_is_known_by_its_files(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "mine")
    pairs = pairs_of(folder)[:10]
    found = BGERerankFunction(str(tmp_path / "mine"), device="cpu").score_pairs(pairs)
    assert found == BGERerankFunction(str(folder), device="cpu").score_pairs(pairs)


def test_a_layerwise_model_of_an_unknown_form_says_what_was_expected(tmp_path: Path) -> None:
    shutil.copytree(LAYERWISE, tmp_path / "m")
    path = tmp_path / "m" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"head_type": "raw"}))
    with pytest.raises(ModelError, match="expected head_type 'simple' and head_multi true"):
        BGERerankFunction(str(tmp_path / "m"), device="cpu")


def test_instructions_of_encoders_are_put_before_texts(tiny: dict[str, Path]) -> None:
    plain = BGERerankFunction(str(tiny["xlm-roberta"]), device="cpu")
    told = BGERerankFunction(
        str(tiny["xlm-roberta"]),
        device="cpu",
        flag=FlagOptions(
            query_instruction_for_rerank="find: ",
            passage_instruction_for_rerank="text",
            passage_instruction_format="{}: {}",
        ),
    )
    assert told.score("a dog", ["it barks"]) == plain.score("find: a dog", ["text: it barks"])
    assert told.score("a dog", ["it barks"]) != plain.score("a dog", ["it barks"])


@pytest.mark.parametrize(
    ("model", "options", "message"),
    [
        ("builtin/rerank", {"cutoff_layers": [28]}, "cutoff_layers is for models of type layerwise or lightweight"),
        ("builtin/rerank", {"compress_ratio": 8}, "compress_ratio is for models of type lightweight"),
        ("builtin/rerank", {"prompt": "hello"}, "prompt is for models of type causal or layerwise or lightweight"),
        (str(LAYERWISE), {"compress_layers": [2]}, "compress_layers is for models of type lightweight"),
        (str(GEMMA), {"cutoff_layers": 2}, "cutoff_layers is for models of type layerwise or lightweight"),
        (str(GEMMA), {"prompt": 3}, "prompt must be a string, got 3"),
        (str(LAYERWISE), {"cutoff_layers": "3"}, "layers must be a list of numbers, got a single string"),
    ],
)
def test_what_would_be_ignored_is_refused(model: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        BGERerankFunction(model, device="cpu", **grouped(options))


def test_layers_may_be_numpys_and_one_number() -> None:
    flag = FlagOptions(cutoff_layers=np.int64(3))
    reranker = BGERerankFunction(str(LAYERWISE), device="cpu", flag=flag)
    assert layers_of(reranker) == 3
    assert flag == FlagOptions(cutoff_layers=[3])
    BGERerankFunction(str(LIGHTWEIGHT), device="cpu", flag=FlagOptions(compress_layers=2, compress_ratio=2))


def test_groups_of_options_that_are_of_another_class_say_so() -> None:
    options: dict[str, Any] = {"flag": {"cutoff_layers": 3}}
    with pytest.raises(InputError, match=r"flag must be FlagOptions\(\.\.\.\) or None, got \{'cutoff_layers': 3\}"):
        BGERerankFunction("builtin/rerank", **options)
    for function in (BGERerankFunction, CrossEncoderRerankFunction):
        for name, group in (("hub", "HubOptions"), ("batching", "BatchOptions")):
            options = {name: "x"}
            with pytest.raises(InputError, match=rf"{name} must be {group}\(\.\.\.\) or None, got 'x'"):
                function("builtin/rerank", **options)
