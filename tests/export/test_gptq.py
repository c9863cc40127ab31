"""Weights in int8: what rounding does to the rows that a layer really gets."""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from milvus_rerank.engines import Batch
from milvus_rerank.engines.openvino_engine import OpenVINOEngine
from milvus_rerank.errors import ModelError
from milvus_rerank.export.gptq import LARGEST, Moments, round_rows, round_weight
from milvus_rerank.export.openvino_int8 import quantize_openvino

Floats = npt.NDArray[np.floating[Any]]


def gathered(rows: Floats, group: int = 8) -> Moments:
    moments = Moments(rows.shape[1], group)
    for part in np.array_split(rows, 3):
        moments.add(part)
    return moments


def correlated(width: int = 48, rows: int = 600) -> Floats:
    """Rows as layers get them: numbers that go together, a few much larger than the rest, and a mean."""
    random = np.random.default_rng(0)
    made = random.normal(size=(rows, 8)) @ random.normal(size=(8, width)) + 0.2 * random.normal(size=(rows, width))
    made[:, 5] *= 30
    return (made + random.normal(size=width)).astype(np.float32)


def test_moments_are_those_of_all_rows_whatever_the_batches() -> None:
    rows = correlated()
    moments = gathered(rows)
    exact = rows.astype(np.float64)
    np.testing.assert_allclose(moments.mean, exact.mean(axis=0), rtol=1e-4, atol=1e-5)
    noise = moments.squares - exact.T @ exact / len(rows)
    np.testing.assert_allclose(noise - np.diag(np.diag(noise)), 0, atol=1e-3 * np.abs(moments.squares).max())


def test_noise_is_what_rounding_activations_in_groups_adds() -> None:
    rows = correlated()
    steps = np.repeat(np.abs(rows.reshape(len(rows), -1, 8)).max(axis=2) / LARGEST, 8, axis=1)
    measured = ((np.rint(rows / steps) * steps - rows) ** 2).mean(axis=0)
    noise = np.diag(gathered(rows).squares) - (rows.astype(np.float64) ** 2).mean(axis=0)
    measured[5] = noise[5]  # always the widest of its group, which is itself a multiple of the step
    np.testing.assert_allclose(noise.reshape(-1, 8).mean(axis=1), measured.reshape(-1, 8).mean(axis=1), rtol=0.2)


def test_a_width_that_no_group_divides_is_one_group() -> None:
    assert gathered(correlated(width=45)).squares.shape == (45, 45)


def test_outputs_change_less_than_by_plain_rounding_and_keep_their_mean() -> None:
    rows, weight = correlated(), np.random.default_rng(1).normal(size=(32, 48)).astype(np.float32)
    made = round_weight(weight, gathered(rows))
    assert made.weight.dtype == np.int8
    assert np.abs(made.weight.astype(int)).max() <= LARGEST
    exact = rows @ weight.T
    changed = rows @ (made.weight * made.scale[:, None]).T + made.shift - exact
    plain_scale = np.abs(weight).max(axis=1, keepdims=True) / LARGEST
    plain = rows @ (np.rint(weight / plain_scale) * plain_scale).T - exact
    assert np.sqrt((changed**2).mean()) < 0.6 * np.sqrt((plain**2).mean())
    np.testing.assert_allclose(changed.mean(axis=0), 0, atol=1e-3)


def test_independent_inputs_are_rounded_to_the_nearest() -> None:
    rows = np.random.default_rng(2).normal(size=(20000, 6)).astype(np.float32)
    weight = np.random.default_rng(3).normal(size=(4, 6)).astype(np.float32)
    made = round_weight(weight, gathered(rows, group=6))
    assert np.abs(made.weight * made.scale[:, None] - weight).max() < 1.1 * made.scale.max()


@pytest.mark.parametrize("rows", [np.zeros((10, 16), np.float32), np.ones((10, 16), np.float32)])
def test_rows_that_never_change_and_weights_of_zero_are_no_trouble(rows: Floats) -> None:
    weight = np.zeros((3, 16), np.float32)
    weight[1] = 2.0
    made = round_weight(weight, gathered(rows))
    for array in (made.scale, made.shift):
        assert np.isfinite(array).all()
    np.testing.assert_allclose(made.weight * made.scale[:, None], weight, atol=0.02)
    assert not made.weight[[0, 2]].any()


def test_one_large_weight_does_not_take_the_precision_of_those_that_matter() -> None:
    rows = np.random.default_rng(4).normal(size=(500, 16)).astype(np.float32)
    rows[:, 0] *= 1e-3
    weight = np.random.default_rng(5).normal(size=(1, 16)).astype(np.float32) * 0.1
    weight[0, 0] = 0.8  # of an input that is next to nothing
    made = round_weight(weight, gathered(rows, group=16))
    assert made.scale[0] < 0.8 / LARGEST


def test_a_table_keeps_each_row_within_half_a_step() -> None:
    table = np.random.default_rng(6).normal(size=(5, 8)).astype(np.float32) * np.array([[1], [10], [0], [1e-3], [5]])
    weight, scale = round_rows(table.astype(np.float32))
    assert [weight.dtype, scale.dtype] == [np.dtype(np.int8), np.dtype(np.float32)]
    assert (np.abs(weight * scale[:, None] - table) <= 0.5001 * scale[:, None]).all()


def bag_of_words(path: Path, width: int = 16) -> None:
    """Write a graph of another build than any model's: pooled states, a weight used twice, products without a bias."""
    random = np.random.default_rng(7)
    weights = {
        "table": random.normal(size=(30, width)),
        "square": random.normal(size=(width, width)) / width**0.5,
        "bias": random.normal(size=width),
        "last": random.normal(size=(width, 1)),
    }
    tensors = [numpy_helper.from_array(array.astype(np.float32), name) for name, array in weights.items()]
    nodes = [
        helper.make_node("Gather", ["table", "input_ids"], ["tokens"]),
        helper.make_node("MatMul", ["tokens", "square"], ["product"]),
        helper.make_node("Add", ["bias", "product"], ["states"]),
        helper.make_node("ReduceMean", ["states", "axis"], ["pooled"], keepdims=0),
        helper.make_node("MatMul", ["pooled", "square"], ["again"]),
        helper.make_node("MatMul", ["again", "last"], ["logits"]),
    ]
    inputs = [
        helper.make_tensor_value_info(name, TensorProto.INT64, ["pairs", "words"])
        for name in ("input_ids", "attention_mask")
    ]
    outputs = [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["pairs", 1])]
    tensors.append(numpy_helper.from_array(np.array([1]), "axis"))
    graph = helper.make_graph(nodes, "bag", inputs, outputs, tensors)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), path)


def batches() -> list[Batch]:
    random = np.random.default_rng(8)
    return [Batch(random.integers(0, 30, (6, width)), np.ones((6, width), np.int64), None) for width in (5, 16, 9)]


def test_a_graph_of_any_build_becomes_int8(tmp_path: Path) -> None:
    bag_of_words(tmp_path / "model.onnx")
    quantize_openvino(tmp_path / "model.onnx", tmp_path / "made.xml", method="dynamic", batches=batches())
    exact, made = (
        OpenVINOEngine(tmp_path / name, dtype=dtype)
        for name, dtype in (("model.onnx", "float32"), ("made.xml", "int8"))
    )
    for batch in batches():
        expected = exact.logits(batch)
        np.testing.assert_allclose(made.logits(batch), expected, atol=0.05 * np.ptp(expected))
    assert (tmp_path / "made.bin").stat().st_size < 30 * 16 + 2 * 16 * 16 + 16 + 4 * (30 + 16 * 4) + 200


def test_a_graph_without_weights_says_so(tmp_path: Path) -> None:
    bag_of_words(tmp_path / "model.onnx")
    graph = onnx.load(tmp_path / "model.onnx")
    for node in graph.graph.node:
        if node.op_type == "MatMul":
            node.name = f"first_row_{node.output[0]}"
    onnx.save(graph, tmp_path / "model.onnx")
    with pytest.raises(ModelError, match="has no matrix weights that could become int8"):
        quantize_openvino(tmp_path / "model.onnx", tmp_path / "made.xml", method="dynamic", batches=batches())
