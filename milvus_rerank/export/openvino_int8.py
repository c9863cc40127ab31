"""Int8 for OpenVINO: int8 weights with activations quantised at run time, or both with calibrated ranges.

This is the only module that imports nncf. It turns off nncf's telemetry.
"""

import contextlib
import io
import logging
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from milvus_rerank.engines.base import Batch, pick_inputs
from milvus_rerank.engines.no_telemetry import openvino, without_telemetry
from milvus_rerank.engines.openvino_engine import ACTIVATION_GROUP
from milvus_rerank.errors import InputError, ModelError, WriteError
from milvus_rerank.export.gptq import Moments, round_rows, round_weight
from milvus_rerank.export.onnx_weights import drop_unused, transpose_weights
from milvus_rerank.onnx_graphs.builder import FIRST_ROW


def quantize_openvino(source: Path, target: Path, *, method: str, batches: Sequence[Batch]) -> None:
    """Write an int8 form of a graph for OpenVINO.

    The layers that compute only the classifier's row stay in float32: they cost nothing, and their errors would go
    straight into the logits.

    :param source: a float32 ``model.onnx``.
    :param target: the ``.xml`` file to write; its weights go to a ``.bin`` file in the same folder.
    :param method: ``dynamic`` for int8 weights with one scale per output, and activations quantised at run time, token
        by token; ``calibrated`` for fixed ranges of activations, too, which is faster and less exact.
    :param batches: the texts to calibrate with.
    """
    if not batches:
        raise InputError("int8 for engine 'openvino' needs texts to calibrate with, got none; type --texts FILE")
    model = _rounded(source, batches) if method == "dynamic" else _calibrated(source, batches)
    try:
        openvino.save_model(model, target, compress_to_fp16=False)
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[-1]
        raise WriteError(f"OpenVINO cannot write {target} ({reason}); free space on its disk") from error


def _rounded(source: Path, batches: Sequence[Batch]) -> Any:
    """Return the graph with int8 weights, rounded for these texts."""
    model = onnx.load(source)
    transpose_weights(model)
    graph = model.graph
    tensors = {tensor.name: tensor for tensor in graph.initializer}
    layers = [node for node in graph.node if _is_layer(node, tensors)]
    if not layers:
        raise ModelError(f"{source} has no matrix weights that could become int8; export it in float32")
    users = defaultdict(list)
    for node in graph.node:
        for name in node.input:
            users[name].append(node)
    moments = _moments(source, list(dict.fromkeys(node.input[0] for node in layers)), batches)
    floats = []
    for node in layers:
        rounded = round_weight(numpy_helper.to_array(tensors[node.input[1]]).T, moments[node.input[0]])
        floats.append(_compressed(graph, node, 1, rounded.weight.T, rounded.scale, axis=1))
        for adder in users[node.output[0]] if len(users[node.output[0]]) == 1 else ():
            _shift_bias(graph, adder, tensors, node.output[0], rounded.shift)
    for node in graph.node:
        if node.op_type == "Gather" and node.input[0] in tensors and len(tensors[node.input[0]].dims) == 2:
            table = numpy_helper.to_array(tensors[node.input[0]])
            floats.append(_compressed(graph, node, 0, *round_rows(table), axis=0))
    nodes = [*floats, *graph.node]
    del graph.node[:]
    graph.node.extend(nodes)
    drop_unused(model)
    written = source.with_name("int8.onnx")
    onnx.save_model(model, written, save_as_external_data=True, location=written.name + "_data")
    return openvino.Core().read_model(written)


def _is_layer(node: onnx.NodeProto, tensors: dict[str, onnx.TensorProto]) -> bool:
    weight = tensors.get(node.input[1]) if node.op_type == "MatMul" else None
    return weight is not None and len(weight.dims) == 2 and not node.name.startswith(FIRST_ROW)


def _shift_bias(
    graph: onnx.GraphProto,
    adder: onnx.NodeProto,
    tensors: dict[str, onnx.TensorProto],
    product: str,
    shift: NDArray[np.float32],
) -> None:
    """Add the shift that restores the outputs' mean to the bias after a product; do nothing without a bias."""
    slot = next((index for index, name in enumerate(adder.input) if name in tensors), None)
    if adder.op_type == "Add" and slot is not None:
        bias = numpy_helper.to_array(tensors[adder.input[slot]]) + shift
        adder.input[slot] = f"{product}.bias"
        graph.initializer.append(numpy_helper.from_array(bias, f"{product}.bias"))


def _compressed(
    graph: onnx.GraphProto, node: onnx.NodeProto, slot: int, weight: NDArray[Any], scale: NDArray[Any], *, axis: int
) -> onnx.NodeProto:
    """Replace a node's weight by an int8 weight; return the node that converts it back to floats."""
    names = [f"{node.output[0]}.{part}" for part in ("int8", "scale", "floats")]
    graph.initializer.append(numpy_helper.from_array(np.ascontiguousarray(weight), names[0]))
    graph.initializer.append(numpy_helper.from_array(scale, names[1]))
    node.input[slot] = names[2]
    return helper.make_node("DequantizeLinear", names[:2], names[2:], name=names[2], axis=axis)


def _moments(source: Path, names: Sequence[str], batches: Sequence[Batch]) -> dict[str, Moments]:
    """Run texts through the float32 graph and gather the moments of the layers' inputs."""
    core = openvino.Core()
    model = core.read_model(source)
    outputs = {name: len(model.outputs) + number for number, name in enumerate(names)}
    model.add_outputs(list(names))
    run = core.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    inputs = frozenset(port.any_name for port in run.inputs)
    moments: dict[str, Moments] = {}
    for batch in batches:
        results = run(pick_inputs(batch, inputs))
        mask = batch.attention_mask.astype(bool)
        for name, output in outputs.items():
            states = results[output]
            rows = states[mask] if states.ndim == 3 else states.reshape(-1, states.shape[-1])  # 2-D: pooled pairs
            moments.setdefault(name, Moments(rows.shape[1], ACTIVATION_GROUP)).add(rows)
    return moments


def _calibrated(source: Path, batches: Sequence[Batch]) -> Any:
    """Return the graph with int8 weights and fixed ranges for activations."""
    model = openvino.Core().read_model(source)
    # nncf recognises a weight only if it is a constant, not a transposed constant.
    manager = openvino.passes.Manager()
    manager.register_pass(openvino.passes.ConstantFolding())
    manager.run_passes(model)
    names = frozenset(port.any_name for port in model.inputs)
    with _silent_nncf() as nncf:
        data = nncf.Dataset([pick_inputs(batch, names) for batch in batches])
        kept = nncf.IgnoredScope(patterns=[FIRST_ROW + ".*"], validate=False)
        kind = nncf.ModelType.TRANSFORMER
        return nncf.quantize(model, data, model_type=kind, subset_size=len(batches), ignored_scope=kept)


@contextlib.contextmanager
def _silent_nncf() -> Iterator[Any]:
    """Yield nncf with its telemetry and its printing turned off."""
    with without_telemetry():
        import nncf
        from nncf.telemetry import telemetry
    if hasattr(telemetry, "_impl"):  # other code imported nncf before, with telemetry
        telemetry._impl.consent = False
    logging.getLogger("nncf").setLevel(logging.ERROR)  # set_log_level would change other handlers, too
    with contextlib.redirect_stdout(io.StringIO()):
        yield nncf
