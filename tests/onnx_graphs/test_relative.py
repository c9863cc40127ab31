"""Graphs of DeBERTa, MPNet and ALBERT that are built from their weights."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from transformers.models.deberta_v2.modeling_deberta_v2 import make_log_bucket_position
from transformers.models.mpnet.modeling_mpnet import MPNetEncoder

from milvus_rerank.engines import Batch
from milvus_rerank.engines.base import Label, LinkedGraph
from milvus_rerank.engines.onnx_engine import OnnxEngine
from milvus_rerank.engines.openvino_engine import OpenVINOEngine
from milvus_rerank.engines.torch_engine import TorchEngine
from milvus_rerank.errors import ModelError
from milvus_rerank.models.files import label_names, read_config
from milvus_rerank.models.weights import read_tensors
from milvus_rerank.onnx_graphs.architectures import float32_bytes, position_limit
from milvus_rerank.onnx_graphs.build_relative import deberta_rows, mpnet_rows
from milvus_rerank.onnx_graphs.cache import build_graph, link_files
from milvus_rerank.onnx_graphs.relative import read_disentangled

VOCABULARY = 50
SIZES = {"hidden_size": 24, "num_hidden_layers": 3, "num_attention_heads": 3, "intermediate_size": 20}
CLASSES = {"deberta-v2": "DebertaV2", "mpnet": "MPNet", "albert": "Albert"}
DEBERTA = {
    "relative_attention": True,
    "position_biased_input": False,
    "pos_att_type": ["p2c", "c2p"],
    "position_buckets": 16,
    "norm_rel_ebd": "layer_norm",
    "share_att_key": True,
}
ALBERT = {"embedding_size": 10, "hidden_act": "gelu_new"}


def save_model(kind: str, folder: Path, **options: Any) -> Any:
    """Write a seeded tiny model, without a tokenizer, and return it."""
    usual = {"deberta-v2": DEBERTA, "albert": ALBERT, "mpnet": {}}[kind]
    common = {"vocab_size": VOCABULARY, "max_position_embeddings": 300, "num_labels": 1, "pad_token_id": 1}
    config = getattr(transformers, f"{CLASSES[kind]}Config")(**{**common, **SIZES, **usual, **options})
    torch.manual_seed(0)
    model = getattr(transformers, f"{CLASSES[kind]}ForSequenceClassification")(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():  # biases too, which start at zero
            parameter.copy_(torch.randn_like(parameter) * 0.5 + (0.5 if parameter.dim() == 1 else 0))
    model.save_pretrained(folder)
    return model


def batch(*lengths: int, types: bool = False) -> Batch:
    """Rows of random tokens, padded on the right to the longest."""
    width = max(lengths)
    mask = (np.arange(width) < np.array(lengths)[:, None]).astype(np.int64)
    ids = np.random.default_rng(0).integers(3, VOCABULARY, mask.shape)
    kinds = (np.arange(width) > np.array(lengths)[:, None] // 2).astype(np.int64) * mask if types else None
    return Batch(np.where(mask, ids, 1), mask, kinds)


def assert_equal(model: torch.nn.Module, folder: Path, *, types: bool = False) -> None:
    """Compare the graph over a folder's files with the model itself, in both graph engines, over lengths."""
    config = read_config(folder)
    assert position_limit(config) is not None
    graph = build_graph(folder, read_tensors(folder), config, "m", with_types=types)
    assert isinstance(graph, LinkedGraph)
    label = Label(1) if len(label_names(config)) > 1 else None
    onnx = OnnxEngine(graph if graph.folder else link_files(graph), label=label)
    openvino, reference = OpenVINOEngine(link_files(graph), label=label), TorchEngine(model, label=label)
    for lengths in ((30, 17, 1), (200, 3, 64, 65), (5,), (9, 8), (1, 2, 3), (280, 129)):
        given = batch(*lengths, types=types)
        expected = reference.logits(given)
        for engine in (onnx, openvino):
            tolerance = 1e-5 * max(1, np.abs(expected).max())
            np.testing.assert_allclose(engine.logits(given), expected, atol=tolerance, rtol=0)
        assert len(lengths) < 3 or np.ptp(expected) > 100 * tolerance


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"pos_att_type": ["c2p"]},
        {"pos_att_type": ["p2c"]},
        {"pos_att_type": "c2p|p2c"},
        {"pos_att_type": []},
        {"share_att_key": False},
        {"share_att_key": False, "pos_att_type": ["p2c"]},
        {"norm_rel_ebd": "none"},
        {"position_buckets": -1},
        {"position_buckets": -1, "max_relative_positions": 20},
        {"position_buckets": 256, "max_relative_positions": 300},
        {"pooler_hidden_act": "tanh", "hidden_act": "relu"},
        {"layer_norm_eps": 0.1},
        {"num_hidden_layers": 1},
        {"num_labels": 3},
    ],
)
def test_graphs_of_deberta_give_torchs_logits(options: dict[str, Any], tmp_path: Path) -> None:
    assert_equal(save_model("deberta-v2", tmp_path, **options), tmp_path)


def test_graphs_of_deberta_with_token_types_give_torchs_logits(tmp_path: Path) -> None:
    assert_equal(save_model("deberta-v2", tmp_path, type_vocab_size=2), tmp_path, types=True)


@pytest.mark.parametrize("options", [{}, {"num_hidden_layers": 1}, {"hidden_act": "relu"}, {"num_labels": 2}])
def test_graphs_of_mpnet_give_torchs_logits(options: dict[str, Any], tmp_path: Path) -> None:
    assert_equal(save_model("mpnet", tmp_path, **options), tmp_path)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"hidden_act": "gelu"},
        {"hidden_act": "gelu_pytorch_tanh"},
        {"num_hidden_groups": 3},
        {"num_hidden_groups": 2, "num_hidden_layers": 5},
        {"embedding_size": 24},
        {"num_labels": 2},
    ],
)
@pytest.mark.parametrize("types", [False, True])
def test_graphs_of_albert_give_torchs_logits(options: dict[str, Any], types: bool, tmp_path: Path) -> None:
    assert_equal(save_model("albert", tmp_path, **options), tmp_path, types=types)


@pytest.mark.parametrize(("buckets", "farthest"), [(16, 300), (256, 512), (32, 512), (6, 10), (256, 300)])
def test_debertas_distances_have_torchs_rows(buckets: int, farthest: int) -> None:
    facts = read_disentangled({**CONFIG, "position_buckets": buckets, "max_relative_positions": farthest})
    assert facts is not None
    distances = torch.arange(-511, 512)
    rows = make_log_bucket_position(distances, buckets, farthest).long() + buckets
    np.testing.assert_array_equal(deberta_rows(facts, 512), rows.clamp(0, 2 * buckets - 1).numpy())


def test_mpnets_distances_have_torchs_rows() -> None:
    rows = MPNetEncoder.relative_position_bucket(-torch.arange(-513, 514))
    np.testing.assert_array_equal(mpnet_rows(514), rows.numpy())


CONFIG = {"model_type": "deberta-v2", "max_position_embeddings": 512, "hidden_act": "gelu", **SIZES, **DEBERTA}
MPNET = {"model_type": "mpnet", "max_position_embeddings": 514, "hidden_act": "gelu", **SIZES}
ALBERT_CONFIG = {"model_type": "albert", "max_position_embeddings": 512, **SIZES, **ALBERT}


def test_the_longest_input_is_that_of_the_config() -> None:
    assert [position_limit(config) for config in (CONFIG, MPNET, ALBERT_CONFIG)] == [512, 512, 512]


@pytest.mark.parametrize(
    ("config", "options"),
    [
        (CONFIG, {"relative_attention": False}),
        (CONFIG, {"position_biased_input": True}),
        (CONFIG, {"pos_att_type": ["c2p", "p2p"]}),
        (CONFIG, {"conv_kernel_size": 3}),
        (CONFIG, {"embedding_size": 8}),
        (CONFIG, {"attention_head_size": 4}),
        (CONFIG, {"pooler_hidden_act": "mish"}),
        (CONFIG, {"hidden_act": "mish"}),
        (MPNET, {"relative_attention_num_buckets": 64}),
        (ALBERT_CONFIG, {"inner_group_num": 2}),
        (ALBERT_CONFIG, {"hidden_act": "gelu_fast"}),
    ],
)
def test_no_graph_is_built_for_settings_that_are_not_known(config: dict[str, Any], options: dict[str, Any]) -> None:
    assert position_limit({**config, **options}) is None


def test_layers_that_share_weights_count_once() -> None:
    one, three = float32_bytes(ALBERT_CONFIG), float32_bytes({**ALBERT_CONFIG, "num_hidden_groups": 3})
    assert three - one == 2 * 4 * (4 * 24 * 24 + 2 * 24 * 20)


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        ("deberta-v2", {"position_buckets": 8}, r"rel_embeddings.weight has shape \[32, 24\], config.json asks for"),
        ("deberta-v2", {"share_att_key": False}, "lack deberta.encoder.layer.0.attention.self.pos_key_proj.weight"),
        ("albert", {"num_hidden_groups": 3}, "lack albert.encoder.albert_layer_groups.1"),
        ("mpnet", {"num_attention_heads": 4}, r"relative_attention_bias.weight has shape \[32, 3\]"),
    ],
)
def test_weights_that_do_not_fit_the_config_are_an_error(
    kind: str, options: dict[str, Any], message: str, tmp_path: Path
) -> None:
    save_model(kind, tmp_path)
    with pytest.raises(ModelError, match=message):
        build_graph(tmp_path, read_tensors(tmp_path), {**read_config(tmp_path), **options}, "m", with_types=False)
