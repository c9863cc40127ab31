"""ModernBERT with a head of sentence-transformers' modules, as the Ettin rerankers are: run without torch."""

import itertools
import json
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pair_texts import QUERIES, TEXTS
from safetensors.numpy import load_file, save_file
from tiny_models import save_tiny_model

from milvus_rerank import CrossEncoderRerankFunction
from milvus_rerank.engines.select import EngineName
from milvus_rerank.errors import InputError, ModelError
from milvus_rerank.inventory import take_inventory
from milvus_rerank.loading.inspect import inspect_model
from milvus_rerank.models import ModelSource
from milvus_rerank.models.modules import Head, read_head

pytestmark = pytest.mark.compat

PAIRS = list(itertools.product(QUERIES, TEXTS))
GRAPHS: tuple[EngineName, ...] = ("onnx", "openvino")


def save_modules(
    folder: Path, *, pooling: str = "cls", activation: Any = torch.nn.GELU, body: str = "modernbert", **dense: Any
) -> Path:
    """Write a seeded tiny model of the Ettin rerankers' modules."""
    from sentence_transformers import CrossEncoder
    from sentence_transformers.base.modules import Dense, Transformer
    from sentence_transformers.sentence_transformer.modules import LayerNorm, Pooling

    transformer = Transformer(str(save_tiny_model(body, folder.parent / "body")), transformer_task="feature-extraction")
    torch.manual_seed(0)
    first = Dense(32, 32, **{"bias": False, "activation_function": activation(), **dense})
    norm = LayerNorm(32)
    score = Dense(32, 1, activation_function=torch.nn.Identity(), module_output_name="scores")
    with torch.no_grad():
        for parameter in (*first.parameters(), *norm.parameters(), *score.parameters()):
            parameter.add_(torch.randn_like(parameter))
    CrossEncoder(modules=[transformer, Pooling(32, pooling), first, norm, score], device="cpu").save_pretrained(
        str(folder)
    )
    return folder


@pytest.fixture(scope="module")
def ettin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_modules(tmp_path_factory.mktemp("ettin") / "model")


@cache
def expected(folder: Path, prompt: str | None = None) -> np.ndarray:
    from sentence_transformers import CrossEncoder

    return np.asarray(CrossEncoder(str(folder), device="cpu").predict(PAIRS, prompt=prompt, show_progress_bar=False))


def assert_equal(folder: Path, **options: Any) -> None:
    """Compare both graph engines with sentence-transformers."""
    scores = expected(folder, options.get("prompt"))
    assert np.ptp(scores) > 0.1
    for engine in GRAPHS:
        reranker = CrossEncoderRerankFunction(str(folder), device="cpu", engine=engine, **options)
        assert reranker.scorer.engine.name == engine
        tolerance = 1e-5 * max(1, np.abs(scores).max())
        np.testing.assert_allclose(reranker.score_pairs(PAIRS), scores, atol=tolerance, rtol=0)


def test_scores_equal_sentence_transformers(ettin: Path) -> None:
    assert_equal(ettin)
    assert read_head(ettin) == Head("cls", "gelu", False, "2_Dense", "3_LayerNorm", "4_Dense")


@pytest.mark.parametrize(
    "options",
    [
        {"pooling": "mean"},
        {"activation": torch.nn.ReLU, "bias": True},
        {"activation": torch.nn.Tanh, "pooling": "mean", "bias": True},
    ],
)
def test_other_settings_of_the_modules_are_followed(options: dict[str, Any], tmp_path: Path) -> None:
    assert_equal(save_modules(tmp_path / "model", **options))


def test_a_prompt_stands_before_the_query(ettin: Path) -> None:
    assert_equal(ettin, prompt="find: ")


def test_configs_of_older_versions_are_read(tmp_path: Path) -> None:
    folder = save_modules(tmp_path / "model", pooling="mean")
    older = {"word_embedding_dimension": 32, "pooling_mode_cls_token": False, "pooling_mode_mean_tokens": True}
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(older))
    head = read_head(folder)
    assert head is not None
    assert head.pooling == "mean"
    assert_equal(folder)


def test_half_precision_is_read(ettin: Path, tmp_path: Path) -> None:
    from sentence_transformers import CrossEncoder

    CrossEncoder(str(ettin), device="cpu", model_kwargs={"dtype": "float16"}).half().save_pretrained(
        str(tmp_path / "half")
    )
    weights = load_file(tmp_path / "half" / "2_Dense" / "model.safetensors")
    assert {str(array.dtype) for array in weights.values()} == {"float16"}
    scores = [
        CrossEncoderRerankFunction(str(tmp_path / "half"), device="cpu", engine=engine).score_pairs(PAIRS)
        for engine in GRAPHS
    ]
    np.testing.assert_allclose(scores[0], scores[1], atol=1e-4)
    assert 0 < np.abs(np.subtract(scores[0], expected(ettin))).max() < 0.05 * np.ptp(expected(ettin))


PROBE = """
import sys
for package in ("torch", "transformers", "sentence_transformers"):
    sys.modules[package] = None
from milvus_rerank import CrossEncoderRerankFunction
reranker = CrossEncoderRerankFunction(sys.argv[1], device="cpu")
print(reranker.scorer.engine.name, reranker.score("who proposed a test", ["a test", "the moon"]))
"""


def test_auto_needs_no_torch(ettin: Path) -> None:
    command = [sys.executable, "-c", PROBE, str(ettin)]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    scores = CrossEncoderRerankFunction(str(ettin), device="cpu").score("who proposed a test", ["a test", "the moon"])
    assert printed == f"openvino {scores}\n"
    assert CrossEncoderRerankFunction(str(ettin), device="cpu", engine="torch").scorer.engine.name != "openvino"


def test_long_documents_are_read_in_windows(ettin: Path) -> None:
    reranker = CrossEncoderRerankFunction(str(ettin), device="cpu", long="chunk")
    text = " ".join(itertools.chain.from_iterable((*TEXTS, *QUERIES)[5:] for _ in range(2)))
    [result] = reranker("who proposed a test", [text])
    assert result.span is not None
    start, end = result.span
    assert 0 < end - start < len(text)
    assert reranker.score("who proposed a test", [text[start:end]]) == pytest.approx([result.score], abs=1e-4)


def change(folder: Path, file: str, **values: Any) -> None:
    path = folder / file
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


@pytest.mark.parametrize(
    ("file", "values"),
    [
        ("1_Pooling/config.json", {"pooling_mode": "max"}),
        ("1_Pooling/config.json", {"pooling_mode": ["cls", "mean"]}),
        ("1_Pooling/config.json", {"include_prompt": False}),
        ("2_Dense/config.json", {"activation_function": "torch.nn.modules.activation.SiLU"}),
        ("2_Dense/config.json", {"use_residual": True}),
        ("2_Dense/config.json", {"module_input_name": "token_embeddings"}),
        ("4_Dense/config.json", {"activation_function": "torch.nn.modules.activation.Sigmoid"}),
        ("4_Dense/config.json", {"out_features": 2}),
        ("sentence_bert_config.json", {"transformer_task": "fill-mask"}),
        ("sentence_bert_config.json", {"max_seq_length": 20}),
        ("config.json", {"hidden_activation": "silu"}),
    ],
)
def test_modules_that_do_something_else_are_left_to_the_library(
    file: str, values: dict[str, Any], tmp_path: Path
) -> None:
    folder = save_modules(tmp_path / "model")
    assert inspect_model(ModelSource(str(folder))).can_build
    change(folder, file, **values)
    assert not inspect_model(ModelSource(str(folder))).can_build
    with pytest.raises(InputError, match="engine 'torch' runs it, 'onnx' does not"):
        CrossEncoderRerankFunction(str(folder), device="cpu", engine="onnx")


def test_another_transformer_or_pickled_weights_are_left_to_the_library(tmp_path: Path) -> None:
    folder = save_modules(tmp_path / "bert", body="bert")
    assert not inspect_model(ModelSource(str(folder))).can_build
    folder = save_modules(tmp_path / "pickled")
    (folder / "2_Dense" / "model.safetensors").rename(folder / "2_Dense" / "pytorch_model.bin")
    assert not inspect_model(ModelSource(str(folder))).can_build


def test_weights_of_another_size_are_refused(tmp_path: Path) -> None:
    folder = save_modules(tmp_path / "model")
    save_file({"linear.weight": np.zeros((16, 32), np.float32)}, folder / "2_Dense" / "model.safetensors")
    with pytest.raises(ModelError, match=r"head\.dense\.weight has shape \[16, 32\], config\.json asks for \[32, 32\]"):
        CrossEncoderRerankFunction(str(folder), device="cpu", engine="onnx")


def test_the_inventory_knows_that_it_needs_no_torch(
    ettin: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, body in (("ettin", None), ("other", "bert")):
        snapshot = tmp_path / f"models--org--{name}" / "snapshots" / ("0" * 40)
        shutil.copytree(ettin if body is None else save_modules(tmp_path / "bert", body=body), snapshot)
    monkeypatch.setitem(sys.modules, "torch", None)
    problems = {model.name: model.problem for model in take_inventory(cache_dir=tmp_path).models}
    assert problems["org/ettin"] is None
    assert "torch not installed" in str(problems["org/other"])


def test_a_missing_tokenizer_is_named(ettin: Path, tmp_path: Path) -> None:
    shutil.copytree(ettin, tmp_path / "m")
    (tmp_path / "m" / "tokenizer.json").unlink()
    with pytest.raises(ModelError, match=r"has no tokenizer: expected tokenizer\.json"):
        CrossEncoderRerankFunction(str(tmp_path / "m"), device="cpu")


def test_int8_is_refused(ettin: Path) -> None:
    with pytest.raises(InputError, match="consists of modules, which are not exported in int8"):
        CrossEncoderRerankFunction(str(ettin), device="cpu", engine="onnx", dtype="int8")
