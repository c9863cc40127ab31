"""Names of the files that hold the graphs and weights of models. Imports quickly."""

from collections.abc import Iterable
from fnmatch import fnmatchcase
from typing import Literal

GraphEngine = Literal["openvino", "onnx"]
"""Engines that run ONNX graphs."""

GraphDtype = Literal["float32", "int8"]
"""Precisions of graphs; engines run float32 graphs in bfloat16, too."""

Int8Method = Literal["dynamic", "calibrated"]
"""Ways to quantise a graph to int8."""

WEIGHTS = ("model*.safetensors", "model.safetensors.index.json")
PICKLED = ("pytorch_model*.bin",)
_FLOAT = {"openvino": ("openvino/openvino_model.xml", "onnx/model.onnx"), "onnx": ("onnx/model.onnx",)}
# Names from sentence-transformers, optimum and transformers.js; this package writes the first of each.
_INT8 = {
    "openvino": ("openvino/openvino_model_qint8*.xml", "openvino/openvino_model_int8*.xml"),
    "onnx": ("onnx/model_qint8*.onnx", "onnx/model_int8.onnx", "onnx/model_quantized.onnx"),
}


def find_carried(files: Iterable[str], engine: str, dtype: str) -> str | None:
    """Return the graph that is shipped with a model.

    :param files: the names of the model's files, sorted.
    :param engine: ``onnx`` or ``openvino``.
    :param dtype: ``int8``, or any float type.
    :returns: its name, such as ``onnx/model.onnx``; None for a model without a graph.
    """
    for pattern in (_INT8 if dtype == "int8" else _FLOAT)[engine]:
        for name in files:
            if fnmatchcase(name, pattern):
                return name
    return None


def graph_files(name: str) -> tuple[str, ...]:
    """Return the names of a graph and of the files that may hold its weights; not all of them need to exist."""
    if name.endswith(".xml"):
        return (name, name.removesuffix(".xml") + ".bin")
    return (name, name + "_data", name + ".data")
