"""ONNX graphs of BERT's family, built from the weights: without torch, and with less work than a traced model.

The classifier reads only the first token's row. So the last layer computes keys and values for all tokens, and
everything else for that row alone. This saves 14% of the arithmetic with 6 layers and 7% with 12, and gives the same
logits.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.numpy_helper
from onnx import TensorProto, helper

from milvus_rerank.models.weights import Tensor, read_array
from milvus_rerank.onnx_graphs.architectures import ACTIVATIONS, LAYOUTS, SIZES, position_limit

OPSET = 20  # the first opset with Gelu
IR_VERSION = 10
MASKED = np.float32(-1e4)
"""Number added to the attention scores of padding tokens; their softmax is then 0 in every precision."""
FIRST_ROW = "first_row_"
"""Prefix of the names of nodes at the end of the graph that compute only the first token's row."""

_STORED = {"F32": TensorProto.FLOAT, "F16": TensorProto.FLOAT16, "BF16": TensorProto.BFLOAT16}


def build(
    config: Mapping[str, Any], tensors: Mapping[str, Tensor], *, with_types: bool, embed: bool
) -> onnx.ModelProto:
    """Build the ONNX graph of a model.

    :param config: the model's ``config.json``, for which
        :func:`~milvus_rerank.onnx_graphs.architectures.position_limit` is not None.
    :param tensors: its weights, which :func:`~milvus_rerank.onnx_graphs.architectures.check_shapes` has checked.
    :param with_types: whether the tokenizer makes token types; if not, every token has type 0.
    :param embed: whether the graph holds the weights, in float32. If not, they are external data: the engine reads them
        from the model's own files, which it expects in one folder under the names of :attr:`Tensor.path`.
    :returns: a model that computes in float32. Its inputs are ``input_ids``, ``attention_mask`` and, with types,
        ``token_type_ids``, all int64 of shape ``(pairs, tokens)`` and padded on the right. Its output is ``logits``,
        shape ``(pairs, 1)``.
    """
    return _Builder(config, tensors, with_types, embed).build()


def save(graph: onnx.ModelProto, path: Path) -> None:
    """Write a graph, with its weights in a second file.

    The second file lets engines map the weights into memory, and keeps protobuf messages small enough.

    :param graph: the graph from :func:`build`.
    :param path: the ``.onnx`` file to write.
    """
    onnx.save_model(graph, path, save_as_external_data=True, location=path.name + "_data")


class _Builder:
    """Build a graph node by node. Methods that add nodes or weights return the name of their result."""

    def __init__(self, config: Mapping[str, Any], tensors: Mapping[str, Tensor], with_types: bool, embed: bool) -> None:
        self._config = config
        self._layout = LAYOUTS[config["model_type"]]
        self._tensors = tensors
        self._has_types = f"{self._layout.body}embeddings.token_type_embeddings.weight" in tensors
        # DistilBERT does not use token types, though its tokenizer may make them.
        self._with_types = with_types and self._has_types
        self._embed = embed
        self._part = ""
        self._nodes: list[onnx.NodeProto] = []
        self._initializers: list[onnx.TensorProto] = []
        sizes = (next(config[name] for name in names if config.get(name)) for names in SIZES)
        self._hidden, self._layers, self._heads = map(int, sizes)
        self._epsilon = float(config.get("layer_norm_eps") or 1e-12)
        self._activation = ACTIVATIONS[config.get("hidden_act", config.get("activation", "gelu"))]

    def build(self) -> onnx.ModelProto:
        mask = self._mask()
        states = self._embeddings()
        for number in range(self._layers):
            states = self._layer(number, states, mask, last=number == self._layers - 1)
        first, second = self._layout.head
        row = self._node("Squeeze", states, self._constant(np.array([1])))
        row = self._node(self._layout.head_activation, self._linear(row, first))
        self._linear(row, second)
        self._nodes[-1].output[0] = "logits"
        names = ["input_ids", "attention_mask", *(["token_type_ids"] if self._with_types else [])]
        inputs = [helper.make_tensor_value_info(name, TensorProto.INT64, ["pairs", "tokens"]) for name in names]
        outputs = [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["pairs", 1])]
        graph = helper.make_graph(self._nodes, "reranker", inputs, outputs, self._initializers)
        opset = helper.make_opsetid("", OPSET)
        return helper.make_model(graph, opset_imports=[opset], ir_version=IR_VERSION, producer_name="milvus-rerank")

    def _embeddings(self) -> str:
        prefix = self._layout.body + "embeddings."
        tokens = self._rows(prefix + "word_embeddings.weight", "input_ids")
        states = self._node("Add", tokens, self._rows(prefix + "position_embeddings.weight", self._places()))
        if self._has_types:
            types = "token_type_ids" if self._with_types else self._constant(np.int64(0))
            states = self._node("Add", states, self._rows(prefix + "token_type_embeddings.weight", types))
        states = self._norm(states, prefix + "LayerNorm")
        project = self._layout.body + "embeddings_project"
        return self._linear(states, project) if project + ".weight" in self._tensors else states

    def _places(self) -> str:
        """Return each token's row in the table of positions."""
        first = int(self._config["max_position_embeddings"]) - (position_limit(self._config) or 0)
        if first == 0:
            length = self._node("Gather", self._node("Shape", "input_ids"), self._constant(np.int64(1)))
            return self._node("Range", self._constant(np.int64(0)), length, self._constant(np.int64(1)))
        # RoBERTa's family counts the tokens that are not padding, even if a text contains "<pad>".
        padding = self._constant(np.int64(first - 1))
        counted = self._node("Cast", self._node("Not", self._node("Equal", "input_ids", padding)), to=TensorProto.INT64)
        count = self._node("CumSum", counted, self._constant(np.int64(1)))
        return self._node("Add", self._node("Mul", count, counted), padding)

    def _mask(self) -> str:
        """Return the attention mask: 0 for tokens and :data:`MASKED` for padding, shape ``(pairs, 1, 1, tokens)``."""
        kept = self._node("Cast", "attention_mask", to=TensorProto.FLOAT)
        missing = self._node("Sub", self._constant(np.float32(1)), kept)
        return self._node("Unsqueeze", self._node("Mul", missing, self._constant(MASKED)), self._constant([1, 2]))

    def _layer(self, number: int, states: str, mask: str, *, last: bool) -> str:
        prefix = self._layout.body + self._layout.layer.format(number)
        query, key, value, output, first_norm, up, down, second_norm = (prefix + name for name in self._layout.names)
        keys = self._split(self._linear(states, key), [0, 2, 3, 1])
        values = self._split(self._linear(states, value), [0, 2, 1, 3])
        rows = states
        if last:
            self._part = FIRST_ROW
            rows = self._node("Slice", states, self._constant([0]), self._constant([1]), self._constant([1]))
        scale = self._constant(np.float32((self._hidden // self._heads) ** -0.5))
        scaled = self._split(self._node("Mul", self._linear(rows, query), scale), [0, 2, 1, 3])
        weights = self._node("MatMul", scaled, keys)
        weights = self._node("Softmax", self._node("Add", weights, mask), axis=-1)
        mixed = self._node("MatMul", weights, values)
        joined = self._node("Transpose", mixed, perm=[0, 2, 1, 3])
        joined = self._node("Reshape", joined, self._constant([0, 0, self._hidden]))
        rows = self._norm(self._node("Add", self._linear(joined, output), rows), first_norm)
        inner = self._node(self._activation, self._linear(rows, up))
        return self._norm(self._node("Add", self._linear(inner, down), rows), second_norm)

    def _split(self, states: str, order: list[int]) -> str:
        shape = self._constant([0, 0, self._heads, self._hidden // self._heads])
        return self._node("Transpose", self._node("Reshape", states, shape), perm=order)

    def _norm(self, states: str, name: str) -> str:
        scale, bias = self._weight(name + ".weight"), self._weight(name + ".bias")
        return self._node("LayerNormalization", states, scale, bias, axis=-1, epsilon=self._epsilon)

    def _linear(self, states: str, name: str) -> str:
        # Shape (out, in), as in the checkpoint: engines use a transposed weight as it is, and remove this node.
        product = self._node("MatMul", states, self._node("Transpose", self._weight(name + ".weight"), perm=[1, 0]))
        return self._node("Add", product, self._weight(name + ".bias"))

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
        is_float = self._embed or self._tensors[name].dtype not in ("F16", "BF16")
        return values if is_float else self._node("Cast", values, to=TensorProto.FLOAT)

    def _stored(self, name: str) -> str:
        """Add a weight in its stored type, or in float32 if the graph holds it."""
        tensor = self._tensors[name]
        if self._embed:
            return self._add(name, read_array(tensor).astype(np.float32))
        entry = TensorProto(name=name, data_type=_STORED[tensor.dtype], dims=tensor.shape)
        entry.data_location = TensorProto.EXTERNAL
        for key, value in (("location", tensor.path.name), ("offset", tensor.start), ("length", tensor.size)):
            entry.external_data.add(key=key, value=str(value))
        self._initializers.append(entry)
        return name

    def _constant(self, value: Any) -> str:
        return self._add(f"constant_{len(self._initializers)}", np.asarray(value))

    def _add(self, name: str, value: Any) -> str:
        self._initializers.append(onnx.numpy_helper.from_array(np.asarray(value, order="C"), name))
        return name
