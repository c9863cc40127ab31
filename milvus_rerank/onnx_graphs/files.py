"""Names of the files that hold the graphs and weights of models. Imports quickly."""

from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from milvus_rerank.engines.base import LinkedGraph

GraphEngine = Literal["openvino", "onnx"]
"""Engines that run ONNX graphs."""

GraphDtype = Literal["float32", "int8"]
"""Precisions of graphs; engines run float32 graphs in bfloat16, too."""

Int8Method = Literal["dynamic", "calibrated"]
"""Ways to quantise a graph to int8."""

WEIGHTS = ("model*.safetensors", "model.safetensors.index.json")
PICKLED = ("pytorch_model*.bin", "pytorch_model.bin.index.json")
# Names from sentence-transformers, optimum and transformers.js; this package writes the first of each.
_FLOAT = {
    "openvino": ("openvino/openvino_model.xml", "openvino_model.xml", "onnx/model.onnx", "model.onnx"),
    "onnx": ("onnx/model.onnx", "model.onnx"),
}
_INT8 = {
    "openvino": ("openvino/openvino_model_qint8*.xml", "openvino/openvino_model_int8*.xml"),
    "onnx": (
        "onnx/model_qint8*.onnx",
        "onnx/model_int8.onnx",
        "onnx/model_quantized.onnx",
        "model_qint8*.onnx",
        "model_int8.onnx",
        "model_quantized.onnx",
    ),
}


@dataclass(frozen=True, slots=True)
class OpenedGraph:
    """Graph that is ready for an engine.

    :param graph: its file, or the graph over a model's own files.
    :param word_rows: the rows of its table of tokens; None if it does not show that.
    :param position_rows: the rows of its table of positions; None without one.
    """

    graph: "Path | LinkedGraph"
    word_rows: int | None = None
    position_rows: int | None = None

    def position_limit(self, expected: int) -> int | None:
        """Return the most tokens that the table of positions allows; None without one.

        :param expected: the tokenizer's own limit. Tables of RoBERTa's kind have up to two rows more.
        :returns: the number of tokens, or None.
        """
        if self.position_rows is None:
            return None
        return expected if 0 <= self.position_rows - expected <= 2 else self.position_rows


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
