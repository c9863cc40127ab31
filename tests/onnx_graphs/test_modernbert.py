"""Graphs of ModernBERT that are built from its weights."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from safetensors.numpy import load_file, save_file

from milvus_rerank import CrossEncoderRerankFunction
from milvus_rerank.engines import Batch
from milvus_rerank.engines.base import LinkedGraph
from milvus_rerank.engines.onnx_engine import OnnxEngine
from milvus_rerank.engines.openvino_engine import OpenVINOEngine, has_bfloat16
from milvus_rerank.engines.torch_engine import TorchEngine
from milvus_rerank.errors import ModelError
from milvus_rerank.models.files import read_config
from milvus_rerank.models.weights import read_tensors, weight_files
from milvus_rerank.onnx_graphs.architectures import can_build, float32_bytes, position_limit
from milvus_rerank.onnx_graphs.build import build, save
from milvus_rerank.onnx_graphs.cache import build_graph, link_files
from milvus_rerank.onnx_graphs.modernbert import read_facts

VOCABULARY = 50
SIZES = {"hidden_size": 24, "num_hidden_layers": 4, "num_attention_heads": 3, "intermediate_size": 20}


def save_model(folder: Path, **options: Any) -> Any:
    """Write a seeded tiny model, without a tokenizer, and return it."""
    tokens = {f"{role}_token_id": number for number, role in enumerate(("cls", "pad", "sep"))}
    common = {"vocab_size": VOCABULARY, "max_position_embeddings": 300, "local_attention": 8, "num_labels": 1}
    config = transformers.ModernBertConfig(bos_token_id=0, eos_token_id=2, **{**common, **tokens, **SIZES, **options})
    torch.manual_seed(0)
    model = transformers.ModernBertForSequenceClassification(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():  # biases too, which start at zero
            parameter.copy_(torch.randn_like(parameter) * 0.3 + (0.5 if parameter.dim() == 1 else 0))
    model.save_pretrained(folder)
    return model


def batch(*lengths: int, seed: int = 0) -> Batch:
    """Rows of random tokens, padded on the right to the longest."""
    width = max(lengths)
    mask = (np.arange(width) < np.array(lengths)[:, None]).astype(np.int64)
    ids = np.random.default_rng(seed).integers(3, VOCABULARY, mask.shape)
    return Batch(np.where(mask, ids, 1), mask, None)


def engines(folder: Path) -> tuple[OnnxEngine, OpenVINOEngine]:
    graph = build_graph(folder, read_tensors(folder), read_config(folder), "m", with_types=False)
    assert isinstance(graph, LinkedGraph)
    return OnnxEngine(graph if graph.folder else link_files(graph)), OpenVINOEngine(link_files(graph))


def assert_equal(model: torch.nn.Module, folder: Path) -> None:
    """Compare the graph over a folder's files with the model itself, in both graph engines, over lengths."""
    assert can_build(read_config(folder))
    for given in (batch(30, 17, 1), batch(200, 3, 64, 65), batch(5), batch(9, 8), batch(1, 2, 3)):
        expected = TorchEngine(model).logits(given)
        tolerance = 1e-5 * max(1, np.abs(expected).max())
        for engine in engines(folder):
            np.testing.assert_allclose(engine.logits(given), expected, atol=tolerance, rtol=0)
            if len(expected) > 2:
                assert np.ptp(expected) > 0.01


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"classifier_pooling": "mean"},
        {"norm_bias": True, "attention_bias": True, "mlp_bias": True, "classifier_bias": True},
        {"classifier_pooling": "mean", "mlp_bias": True},
        {"local_attention": 128},
        {"local_attention": 3},
        {"local_attention": 0},
        {"global_attn_every_n_layers": 1},
        {"global_attn_every_n_layers": 2},
        {"layer_types": ["sliding_attention", "full_attention", "full_attention", "sliding_attention"]},
        {"layer_types": ["sliding_attention"] * 4, "classifier_pooling": "mean"},
        {"global_rope_theta": 50.0, "local_rope_theta": 20.0},
        {"num_hidden_layers": 1},
        {"num_attention_heads": 1},
        {"num_attention_heads": 12},
        {"hidden_activation": "relu"},
        {"classifier_activation": "relu", "norm_eps": 0.1},
    ],
)
def test_the_graph_gives_torchs_logits(options: dict[str, Any], tmp_path: Path) -> None:
    assert_equal(save_model(tmp_path, **options), tmp_path)


def test_an_older_config_is_read_as_transformers_reads_it(tmp_path: Path) -> None:
    model = save_model(tmp_path, global_attn_every_n_layers=2, global_rope_theta=50.0, local_rope_theta=20.0)
    config = read_config(tmp_path)
    older = {key: value for key, value in config.items() if key not in ("rope_parameters", "layer_types")}
    older |= {"global_attn_every_n_layers": 2, "global_rope_theta": 50.0, "local_rope_theta": 20.0}
    assert read_facts(older) == read_facts(config)
    assert [layer.theta for layer in read_facts(older).layers] == [50.0, 20.0] * 2  # type: ignore[union-attr]
    defaults = read_facts({"model_type": "modernbert", **SIZES})
    assert defaults is not None
    theirs = transformers.ModernBertConfig(**SIZES)
    assert [layer.window for layer in defaults.layers] == [None, 64, 64, None]
    assert theirs.layer_types == [
        "sliding_attention" if layer.window else "full_attention" for layer in defaults.layers
    ]
    assert (defaults.pooling, defaults.epsilon) == (theirs.classifier_pooling, theirs.norm_eps)
    assert model.config.layer_types == ["full_attention", "sliding_attention"] * 2


@pytest.mark.parametrize("pooling", ["cls", "mean"])
def test_padding_changes_no_score(pooling: str, tmp_path: Path) -> None:
    save_model(tmp_path, classifier_pooling=pooling)
    short = batch(20, 11)
    widths = ((0, 0), (0, 45))
    padded = replace(
        short,
        input_ids=np.pad(short.input_ids, widths, constant_values=1),
        attention_mask=np.pad(short.attention_mask, widths),
    )
    for engine in engines(tmp_path):
        alone = [
            engine.logits(Batch(short.input_ids[row : row + 1, :length], np.ones((1, length), np.int64), None))[0]
            for row, length in enumerate((20, 11))
        ]
        np.testing.assert_allclose(engine.logits(short), alone, atol=2e-6)
        np.testing.assert_allclose(engine.logits(padded), alone, atol=2e-6)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_weights_in_half_precision_are_computed_in_float32(dtype: torch.dtype, tmp_path: Path) -> None:
    save_model(tmp_path, classifier_pooling="mean", attention_bias=True).to(dtype).save_pretrained(tmp_path)
    assert {tensor.dtype for tensor in read_tensors(tmp_path).values()} <= {"F16", "BF16"}
    # to(dtype) has rounded the model's rotary frequencies, too, which no file holds.
    model = transformers.ModernBertForSequenceClassification.from_pretrained(tmp_path, dtype=torch.float32)
    assert_equal(model.eval(), tmp_path)


def test_weights_in_several_files_are_all_read(tmp_path: Path) -> None:
    model = save_model(tmp_path / "whole")
    model.save_pretrained(tmp_path, max_shard_size="10KB")
    assert len(weight_files(tmp_path)) > 3
    assert_equal(model, tmp_path)


def test_a_graph_that_holds_its_weights_gives_the_same(tmp_path: Path) -> None:
    save_model(tmp_path)
    save(build(read_config(tmp_path), read_tensors(tmp_path), with_types=False, embed=True), tmp_path / "model.onnx")
    given = batch(30, 12)
    for engine in engines(tmp_path):
        np.testing.assert_allclose(type(engine)(tmp_path / "model.onnx").logits(given), engine.logits(given), atol=1e-6)


@pytest.mark.skipif(not has_bfloat16(), reason="this CPU has no bfloat16 hardware")
def test_positions_of_long_texts_stay_exact_in_bfloat16(tmp_path: Path) -> None:
    shape = {"num_hidden_layers": 2, "num_attention_heads": 2, "max_position_embeddings": 2000}
    model = save_model(tmp_path, classifier_pooling="mean", local_attention=128, **shape)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.mul_(4 if "Wqkv" in name else 1)  # attention that follows positions
    model.save_pretrained(tmp_path)
    graph = build_graph(tmp_path, read_tensors(tmp_path), read_config(tmp_path), "m", with_types=False)
    assert isinstance(graph, LinkedGraph)
    exact, half = (OpenVINOEngine(link_files(graph), dtype=dtype) for dtype in ("float32", "bfloat16"))
    rows = [batch(2000, seed=seed) for seed in range(3)]
    expected = np.concatenate([exact.logits(row) for row in rows])
    # Measured: 0.013; and 0.25 with angles that the engine computes from positions in bfloat16.
    np.testing.assert_allclose(np.concatenate([half.logits(row) for row in rows]), expected, atol=0.05)


def test_a_longer_text_than_the_table_of_positions_is_cut(tiny: dict[str, Path]) -> None:
    text = "a b c d e f g h i j k " * 20
    cut, short = (
        CrossEncoderRerankFunction(str(tiny["modernbert"]), device="cpu", max_length=length).score("q", [text])
        for length in (500, 64)
    )
    assert cut == short


CONFIG = {"model_type": "modernbert", "max_position_embeddings": 300, **SIZES}


def test_the_config_of_a_plain_model_is_known() -> None:
    assert can_build(CONFIG)
    assert (position_limit(CONFIG), position_limit({"model_type": "modernbert", **SIZES})) == (300, 8192)
    assert float32_bytes({**CONFIG, "vocab_size": 1000}) == pytest.approx(4 * (1000 * 24 + 4 * 24 * 156), rel=0.05)


@pytest.mark.parametrize(
    "change",
    [
        {"model_type": "modernbert-decoder"},
        {"hidden_size": None},
        {"num_attention_heads": 24},
        {"num_attention_heads": 5},
        {"num_hidden_layers": None},
        {"hidden_activation": "gelu_new"},
        {"classifier_activation": "silu"},
        {"classifier_pooling": "max"},
        {"local_attention": -1},
        {"local_rope_theta": None},
        {"layer_types": ["full_attention"]},
        {"layer_types": ["full_attention"] * 3 + ["chunked_attention"]},
        {"rope_scaling": {"rope_type": "linear", "factor": 2.0}},
        {"rope_parameters": {"rope_type": "default", "rope_theta": 100.0}},
        {"rope_parameters": {"full_attention": {"rope_type": "yarn", "rope_theta": 100.0}}},
        {"rope_parameters": {"full_attention": {"rope_theta": 100.0, "partial_rotary_factor": 0.5}}},
        {"auto_map": {"AutoModelForSequenceClassification": "own.Model"}},
    ],
)
def test_a_config_that_the_graph_would_get_wrong_is_not_known(change: Mapping[str, Any]) -> None:
    assert not can_build({**CONFIG, **change})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model.layers.1.attn.Wqkv.weight": None}, r"its weights lack model\.layers\.1\.attn\.Wqkv\.weight"),
        ({"classifier.weight": None}, r"is not a trained reranker: its weights lack classifier\.weight"),
        ({"model.layers.2.mlp.Wi.weight": (20, 24)}, r"has shape \[20, 24\], config\.json asks for \[40, 24\]"),
        ({"model.layers.4.mlp_norm.weight": (24,)}, "its weights have 5 layers, config.json has 4"),
    ],
)
def test_weights_that_do_not_fit_the_config_are_named(
    change: Mapping[str, tuple[int, ...] | None], message: str, tmp_path: Path
) -> None:
    save_model(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    for name, shape in change.items():
        if shape is None:
            del weights[name]
        else:
            weights[name] = np.zeros(shape, np.float32)
    save_file(weights, tmp_path / "model.safetensors")
    with pytest.raises(ModelError, match=message):
        build_graph(tmp_path, read_tensors(tmp_path), read_config(tmp_path), "m", with_types=False)
