"""ONNX graphs of ModernBERT, built from the weights.

Fused weights are read as their parts: the rows of a part lie side by side in the file, and a part needs no node to cut
its result off. If the classifier reads only the first token's row, the last layer computes everything but keys and
values for that row alone.
"""

from collections.abc import Iterator, Mapping
from dataclasses import replace

import numpy as np
import onnx
from onnx import TensorProto

from milvus_rerank.models.weights import Tensor
from milvus_rerank.onnx_graphs.builder import FIRST_ROW, MASKED, GraphBuilder
from milvus_rerank.onnx_graphs.modernbert import LAYER, TOKENS, ModernBert

Angles = tuple[str, str]
"""Cosines and sines of rotary positions, shape ``(tokens, 1, head size)``."""

_FUSED = (("attn.", "Wqkv", ("query", "key", "value")), ("mlp.", "Wi", ("input", "gate")))
"""Weights of a layer that hold several, one below the other, and this module's names of the parts."""


class ModernBertBuilder(GraphBuilder):
    """Build the graph of a ModernBERT classifier.

    :param facts: the facts of its config.
    :param tensors: its weights, which :func:`~milvus_rerank.onnx_graphs.architectures.check_shapes` has checked.
    :param embed: whether the graph holds the weights, in float32, or reads them from the model's own files.
    :param held: prefixes of weights that the graph holds in any case.
    """

    def __init__(
        self, facts: ModernBert, tensors: Mapping[str, Tensor], *, embed: bool, held: tuple[str, ...] = ()
    ) -> None:
        super().__init__({**tensors, **dict(_parts(facts, tensors))}, embed, facts.epsilon, held)
        self._facts = facts
        self._head_size = facts.hidden // facts.heads

    def build(self) -> onnx.ModelProto:
        """Return the graph, as :func:`milvus_rerank.onnx_graphs.build.build` describes it."""
        facts = self._facts
        positions = self._positions()
        padding = self._padding_mask()
        windows, thetas = ({getattr(layer, key) for layer in facts.layers} for key in ("window", "theta"))
        masks = {window: self._mask(padding, positions, window) for window in sorted(windows, key=str)}
        tokens = self._node("Gather", self._node("Shape", "input_ids"), self._constant([1]))
        angles = {theta: self._angles(tokens, theta) for theta in sorted(thetas)}
        states = self._norm(self._rows(TOKENS, "input_ids"), "model.embeddings.norm", bias="norm" in facts.biases)
        for number, layer in enumerate(facts.layers):
            one_row = facts.pooling == "cls" and number == len(facts.layers) - 1
            states = self._layer(number, states, masks[layer.window], angles[layer.theta], one_row=one_row)
        return self._finish(["input_ids", "attention_mask"], self._classify(states), facts.labels)

    def _classify(self, states: str) -> str:
        """Return the logits: pool the states, and run the classifier's head on one row of each pair."""
        facts, with_bias = self._facts, "norm" in self._facts.biases
        self._part = FIRST_ROW
        axis = self._constant([1])
        if facts.pooling == "cls":
            row = self._norm(self._node("Squeeze", states, axis), "model.final_norm", bias=with_bias)
        else:
            states = self._norm(states, "model.final_norm", bias=with_bias)
            kept = self._node("Cast", "attention_mask", to=TensorProto.FLOAT)
            total = self._node("Squeeze", self._node("MatMul", self._node("Unsqueeze", kept, axis), states), axis)
            row = self._node("Div", total, self._node("ReduceSum", kept, axis, keepdims=1))
        row = self._node(facts.head_activation, self._linear(row, "head.dense", bias="head.dense" in facts.biases))
        row = self._norm(row, "head.norm", bias="head.norm" in facts.biases, epsilon=facts.head_epsilon)
        return self._linear(row, "classifier")

    def _mask(self, padding: str, positions: str, window: int | None) -> str:
        """Return the mask of layers with a window: :data:`MASKED` also for tokens that are too far away."""
        if window is None:
            return padding
        row, column = (self._node("Unsqueeze", positions, self._constant([axis])) for axis in (1, 0))
        distance = self._node("Abs", self._node("Sub", row, column))
        is_far = self._node("Greater", distance, self._constant(np.int64(window)))
        far = self._node("Mul", self._node("Cast", is_far, to=TensorProto.FLOAT), self._constant(MASKED))
        return self._node("Add", padding, far)

    def _angles(self, tokens: str, theta: float) -> Angles:
        # Tables, because an engine that runs in bfloat16 would round positions above 256.
        size = self._head_size
        exponents = np.arange(0, size, 2, dtype=np.float32) / np.float32(size)
        frequencies = np.float32(1) / np.float32(theta) ** exponents
        turns = np.arange(self._facts.positions, dtype=np.float32)[:, None, None] * frequencies
        start, axis = self._constant([0]), self._constant([0])
        rows = [self._node("Slice", self._constant(table(turns)), start, tokens, axis) for table in (np.cos, np.sin)]
        cosines, sines = (self._node("Concat", half, half, axis=-1) for half in rows)
        return cosines, sines

    def _layer(self, number: int, states: str, mask: str, angles: Angles, *, one_row: bool) -> str:
        biases, prefix = self._facts.biases, LAYER.format(number)
        normed = self._norm(states, prefix + "attn_norm", bias="norm" in biases) if number else states
        keys = self._node(
            "Transpose", self._rotate(self._heads(normed, prefix + "attn.key"), angles), perm=[0, 2, 3, 1]
        )
        values = self._node("Transpose", self._heads(normed, prefix + "attn.value"), perm=[0, 2, 1, 3])
        if one_row:
            self._part = FIRST_ROW
            states, normed = self._first_row(states), self._first_row(normed)
            if self._facts.layers[number].window is not None:
                mask = self._node("Slice", mask, *(self._constant([number]) for number in (0, 1, 2)))
        queries = self._heads(normed, prefix + "attn.query")
        if not one_row:  # the first token's position is 0: nothing to turn
            queries = self._rotate(queries, angles)
        scaled = self._node("Mul", queries, self._constant(np.float32(self._head_size**-0.5)))
        products = self._node("MatMul", self._node("Transpose", scaled, perm=[0, 2, 1, 3]), keys)
        weights = self._node("Softmax", self._node("Add", products, mask), axis=-1)
        mixed = self._node("Transpose", self._node("MatMul", weights, values), perm=[0, 2, 1, 3])
        mixed = self._node("Reshape", mixed, self._constant([0, 0, self._facts.hidden]))
        states = self._node("Add", self._linear(mixed, prefix + "attn.Wo", bias="attention" in biases), states)
        normed = self._norm(states, prefix + "mlp_norm", bias="norm" in biases)
        values, gate = (self._linear(normed, f"{prefix}mlp.{part}", bias="mlp" in biases) for part in ("input", "gate"))
        inner = self._node("Mul", self._node(self._facts.activation, values), gate)
        return self._node("Add", self._linear(inner, prefix + "mlp.Wo", bias="mlp" in biases), states)

    def _heads(self, states: str, name: str) -> str:
        """Return a projection, split into heads: shape ``(pairs, tokens, heads, head size)``."""
        shape = self._constant([0, 0, self._facts.heads, self._head_size])
        return self._node("Reshape", self._linear(states, name, bias="attention" in self._facts.biases), shape)

    def _rotate(self, states: str, angles: Angles) -> str:
        """Turn each pair of numbers, which lie half a head apart, by the angle of the token's position."""
        cosines, sines = angles
        half, whole, axis = (self._constant([number]) for number in (self._head_size // 2, self._head_size, 3))
        first = self._node("Slice", states, self._constant([0]), half, axis)
        second = self._node("Slice", states, half, whole, axis)
        turned = self._node("Concat", self._node("Neg", second), first, axis=-1)
        return self._node("Add", self._node("Mul", states, cosines), self._node("Mul", turned, sines))


def _parts(facts: ModernBert, tensors: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    """Yield the parts of fused weights, by name."""
    for number in range(len(facts.layers)):
        for module, fused, names in _FUSED:
            for kind in ("weight", "bias"):
                prefix = LAYER.format(number) + module
                whole = tensors.get(f"{prefix}{fused}.{kind}")
                if whole is not None:
                    size, shape = whole.size // len(names), (whole.shape[0] // len(names), *whole.shape[1:])
                    for index, name in enumerate(names):
                        start = whole.start + index * size
                        yield f"{prefix}{name}.{kind}", replace(whole, shape=shape, start=start, size=size)
