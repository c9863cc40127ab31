"""Graphs that are shipped with a model: whether they are whole, fit the model's other files, and where they are."""

import logging
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

from milvus_rerank.engines.base import LinkedGraph
from milvus_rerank.errors import ModelError
from milvus_rerank.models.files import check_file
from milvus_rerank.models.weights import Tensor, read_array
from milvus_rerank.onnx_graphs.files import OpenedGraph

logger = logging.getLogger(__name__)

_TOLERANCE = 2e-3  # of the largest number of a weight: graphs in 16 bits round it
_FLOATS = (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16)
_INTEGERS = (onnx.TensorProto.INT8, onnx.TensorProto.UINT8, onnx.TensorProto.INT4, onnx.TensorProto.UINT4)
_HEADS = ("classifier.bias", "classifier.out_proj.bias", "score.bias")
_OLDER = 3600.0  # seconds; a download takes a while, too


def open_carried(path: Path, name: str, tensors: Mapping[str, Tensor]) -> OpenedGraph:
    """Check an ONNX graph that is shipped with a model, and find out how large its tables are.

    :param path: the ``.onnx`` file.
    :param name: the model's name, for messages.
    :param tensors: the model's weights in safetensors; empty if it has none.
    :returns: the graph. Links of the hub client's cache are resolved: engines read no data from other folders.
    :raises ModelError: if a file is missing or damaged, or if the graph was made from other weights.
    """
    check_file(path)
    try:
        model = onnx.load(path, load_external_data=False)
    except Exception as error:  # protobuf's error classes depend on its implementation
        raise ModelError(f"{path} cannot be read: {error}; download the model again, or export it again") from error
    files = data_files(path, model)
    for file in files:
        check_file(file)
    weights = {tensor.name: tensor for tensor in model.graph.initializer}
    if any(tensor.data_type in _INTEGERS and _is_table(tensor.dims) for tensor in weights.values()):
        _compare_times(path, tensors)  # rounding to int8 may change even biases and norms
    else:
        read = partial(numpy_helper.to_array, base_dir=str(path.parent))
        small = {
            weight: partial(read, tensor)
            for weight, tensor in weights.items()
            if tensor.data_type in _FLOATS and len(tensor.dims) == 1
        }
        _compare(path, small, tensors)
    gathers = [
        (node.input[1], node.input[0], weights[node.input[0]].dims[0])
        for node in model.graph.node
        if node.op_type == "Gather" and node.input[0] in weights and _is_table(weights[node.input[0]].dims)
    ]
    graph: Path | LinkedGraph = path
    if any(file.resolve().parent != path.parent.resolve() for file in files):
        for tensor in model.graph.initializer:
            for entry in tensor.external_data:
                if entry.key == "location":
                    entry.value = (path.parent / entry.value).resolve().name
        graph = LinkedGraph(name, model.SerializeToString(), tuple(file.resolve() for file in files))
    return OpenedGraph(graph, *_rows(gathers))


def open_carried_ir(path: Path, tensors: Mapping[str, Tensor]) -> OpenedGraph:
    """Do for a graph of OpenVINO (``.xml`` and ``.bin``) what :func:`open_carried` does for ONNX."""
    from milvus_rerank.engines.no_telemetry import openvino

    for file in (path, path.with_suffix(".bin")):
        check_file(file)
    try:
        model = openvino.Core().read_model(path, path.with_suffix(".bin"))
    except RuntimeError as error:
        first = str(error).strip().splitlines()[-1]
        raise ModelError(f"{path} cannot be read: {first}; download the model again, or export it again") from error
    constants = [node for node in model.get_ops() if node.get_type_name() == "Constant"]
    if any(node.get_element_type().bitwidth <= 8 and _is_table(node.get_output_shape(0)) for node in constants):
        _compare_times(path, tensors)
    else:
        vectors = [node for node in constants if node.get_element_type().is_real() and len(node.shape) == 1]
        names = [node.get_friendly_name().removesuffix("_compressed") for node in vectors]  # to 16 bits
        _compare(path, {name: node.get_data for name, node in zip(names, vectors, strict=True)}, tensors)
    gathers = []
    for node in model.get_ops():
        if node.get_type_name() == "Gather":
            table, numbers = (_behind_conversions(node.input_value(index).get_node()) for index in (0, 1))
            if table.get_type_name() == "Constant" and _is_table(table.get_output_shape(0)):
                name = numbers.output(0).any_name if numbers.get_type_name() == "Parameter" else ""
                gathers.append((name, table.get_friendly_name(), table.get_output_shape(0)[0]))
    return OpenedGraph(path, *_rows(gathers))


def data_files(path: Path, model: onnx.ModelProto) -> list[Path]:
    """Return the files beside a graph that hold its weights.

    :param path: the graph's file.
    :param model: the graph, without its weights.
    :returns: the files; not all of them need to exist.
    :raises ModelError: if a file is in another folder.
    """
    names = {
        entry.value for tensor in model.graph.initializer for entry in tensor.external_data if entry.key == "location"
    }
    outside = [name for name in names if Path(name).name != name]
    if outside:  # a downloaded graph must not make us read or copy other files of this machine
        raise ModelError(
            f"{path} keeps weights in {outside[0]!r}, expected a file in the graph's folder; download the model again "
            "from a source that you trust"
        )
    return [path.parent / name for name in sorted(names)]


def _is_table(shape: Iterable[int]) -> bool:
    return len(tuple(shape)) == 2


def _behind_conversions(node: Any) -> Any:
    while node.get_type_name() == "Convert":
        node = node.input_value(0).get_node()
    return node


def _rows(gathers: list[tuple[str, str, int]]) -> tuple[int | None, int | None]:
    """Return the rows of the tables of tokens and of positions, from what takes rows of tables, and by which name."""
    words = [rows for numbers, _, rows in gathers if numbers == "input_ids"]
    positions = [rows for _, name, rows in gathers if "position" in name]
    return min(words, default=None), min(positions, default=None)


def _compare(path: Path, small: Mapping[str, Callable[[], Any]], tensors: Mapping[str, Tensor]) -> None:
    """Raise if biases or norms of a graph are not those of the weights beside it."""
    arrays = {name: np.asarray(read(), np.float32).ravel() for name, read in small.items()} if tensors else {}
    differing, found = "", set()
    for name, array in arrays.items():
        stored, last = None, name
        while stored is None and last:  # torch and OpenVINO put names of wrappers before a weight's own
            stored, last = tensors.get(last), last.partition(".")[2]
        if stored is not None and len(stored.shape) == 1:
            found.add(stored)
            differing = differing or ("" if _equal(array, stored) else name)
    for name, stored in tensors.items():  # equal weights share one name in a graph
        if name.endswith(_HEADS) and stored not in found and len(stored.shape) == 1:
            alike = [array for array in arrays.values() if array.shape == stored.shape]
            differing = differing or ("" if not alike or any(_equal(array, stored) for array in alike) else name)
    if differing:
        raise ModelError(
            f"{path} was made from other weights than those beside it ({differing!r} differs): delete the older of the "
            "two, export the model again, or use engine='torch', which runs the weights"
        )


def _equal(array: Any, stored: Tensor) -> bool:
    expected = read_array(stored).astype(np.float32)
    tolerance = _TOLERANCE * float(np.abs(expected).max(initial=0.0))
    return array.shape == expected.shape and bool(np.allclose(array, expected, rtol=0.0, atol=tolerance))


def _compare_times(path: Path, tensors: Mapping[str, Tensor]) -> None:
    newest = max((file.stat().st_mtime for file in {tensor.path for tensor in tensors.values()}), default=0.0)
    if path.resolve().stat().st_mtime < newest - _OLDER:
        logger.warning("%s runs, which is older than the model's weights: if they have changed, export it again", path)
