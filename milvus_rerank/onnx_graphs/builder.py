"""ONNX graphs, built node by node over a model's weights: what the builders of all families share."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
import onnx.numpy_helper
from onnx import TensorProto, helper

from milvus_rerank.models.weights import Tensor, read_array

OPSET = 20  # the first opset with Gelu
IR_VERSION = 10
MASKED = np.float32(-1e4)
"""Number added to the attention scores of what a token does not see; their softmax is then 0 in every precision."""
FIRST_ROW = "first_row_"
"""Prefix of the names of nodes at the end of the graph that compute only one row of each pair."""

_STORED = {"F32": TensorProto.FLOAT, "F16": TensorProto.FLOAT16, "BF16": TensorProto.BFLOAT16}


class GraphBuilder:
    """Collect the nodes and weights of a graph. Methods that add some return the name of their result.

    :param tensors: the model's weights.
    :param embed: whether the graph holds the weights, in float32, or reads them from the model's own files.
    :param epsilon: the number that norms add to a variance.
    :param held: prefixes of weights that the graph holds in any case.
    """

    def __init__(self, tensors: Mapping[str, Tensor], embed: bool, epsilon: float, held: tuple[str, ...] = ()) -> None:
        self._tensors = tensors
        self._embed = embed
        self._epsilon = epsilon
        self._held = held
        self._part = ""
        self._nodes: list[onnx.NodeProto] = []
        self._initializers: dict[str, onnx.TensorProto] = {}

    def _finish(self, inputs: list[str], logits: str, labels: int) -> onnx.ModelProto:
        """Return the graph with these inputs, whose output is a result of shape ``(pairs, labels)``."""
        next(node for node in self._nodes if node.output[0] == logits).output[0] = "logits"
        ports = [helper.make_tensor_value_info(name, TensorProto.INT64, ["pairs", "tokens"]) for name in inputs]
        outputs = [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["pairs", labels])]
        graph = helper.make_graph(self._nodes, "reranker", ports, outputs, list(self._initializers.values()))
        opset = helper.make_opsetid("", OPSET)
        return helper.make_model(graph, opset_imports=[opset], ir_version=IR_VERSION, producer_name="milvus-rerank")

    def _padding_mask(self) -> str:
        """Return 0 for tokens and :data:`MASKED` for padding, shape ``(pairs, 1, 1, tokens)``."""
        kept = self._node("Cast", "attention_mask", to=TensorProto.FLOAT)
        missing = self._node("Sub", self._constant(np.float32(1)), kept)
        return self._node("Unsqueeze", self._node("Mul", missing, self._constant(MASKED)), self._constant([1, 2]))

    def _positions(self) -> str:
        """Return 0, 1, 2 and so on for each token of a row, shape ``(tokens,)``."""
        length = self._node("Gather", self._node("Shape", "input_ids"), self._constant(np.int64(1)))
        return self._node("Range", self._constant(np.int64(0)), length, self._constant(np.int64(1)))

    def _first_row(self, states: str) -> str:
        """Return the first token's row, shape ``(pairs, 1, width)``."""
        return self._node("Slice", states, self._constant([0]), self._constant([1]), self._constant([1]))

    def _norm(self, states: str, name: str, *, bias: bool = True, epsilon: float | None = None) -> str:
        weights = [self._weight(f"{name}.{part}") for part in ("weight", *["bias"] * bias)]
        return self._node("LayerNormalization", states, *weights, axis=-1, epsilon=epsilon or self._epsilon)

    def _linear(self, states: str, name: str, *, bias: bool = True) -> str:
        # Shape (out, in), as in the checkpoint: engines use a transposed weight as it is, and remove this node.
        product = self._node("MatMul", states, self._node("Transpose", self._weight(name + ".weight"), perm=[1, 0]))
        return self._node("Add", product, self._weight(name + ".bias")) if bias else product

    def _rows(self, name: str, numbers: str) -> str:
        """Add rows of a table. A table in 16 bits stays so: only the rows become float32."""
        return self._float(name, self._node("Gather", self._stored(name), numbers))

    def _node(self, kind: str, *inputs: str, **attributes: Any) -> str:
        name = f"{self._part}{kind}_{len(self._nodes)}"
        self._nodes.append(helper.make_node(kind, list(inputs), [name], name=name, **attributes))
        return name

    def _weight(self, name: str) -> str:
        return self._float(name, self._stored(name))

    def _float(self, name: str, values: str) -> str:
        is_float = self._holds(name) or self._tensors[name].dtype not in ("F16", "BF16")
        return values if is_float else self._node("Cast", values, to=TensorProto.FLOAT)

    def _stored(self, name: str) -> str:
        """Add a weight in its stored type, or in float32 if the graph holds it."""
        tensor = self._tensors[name]
        if name in self._initializers:  # layers may share weights
            return name
        if self._holds(name):
            return self._add(name, read_array(tensor).astype(np.float32))
        entry = TensorProto(name=name, data_type=_STORED[tensor.dtype], dims=tensor.shape)
        entry.data_location = TensorProto.EXTERNAL
        for key, value in (("location", tensor.path.name), ("offset", tensor.start), ("length", tensor.size)):
            entry.external_data.add(key=key, value=str(value))
        self._initializers[name] = entry
        return name

    def _holds(self, name: str) -> bool:
        return self._embed or name.startswith(self._held)

    def _constant(self, value: Any) -> str:
        return self._add(f"constant_{len(self._initializers)}", np.asarray(value))

    def _add(self, name: str, value: Any) -> str:
        self._initializers[name] = onnx.numpy_helper.from_array(np.asarray(value, order="C"), name)
        return name
