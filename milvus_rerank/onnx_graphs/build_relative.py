"""ONNX graphs of BERT-like models with relative positions, DeBERTa-v2 and MPNet, built from the weights."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from milvus_rerank.models.weights import Tensor
from milvus_rerank.onnx_graphs.build_bert import BertBuilder
from milvus_rerank.onnx_graphs.relative import (
    BIAS_TABLE,
    BUCKETS,
    DEBERTA,
    FARTHEST,
    PROJECTIONS,
    TABLE,
    TABLE_NORM,
    Disentangled,
    read_disentangled,
)


def deberta_rows(facts: Disentangled, positions: int) -> NDArray[np.int64]:
    """Return the row of DeBERTa's table for each distance from a token to another.

    Near distances have a row each, farther ones share rows by their logarithm. The arithmetic is float32, as in torch.

    :param facts: the facts of the attention.
    :param positions: the most tokens.
    :returns: the rows of the distances ``1 - positions`` to ``positions - 1``, the query's position less the key's.
    """
    distances = np.arange(1 - positions, positions)
    if facts.buckets:
        middle = facts.buckets // 2
        far = np.maximum(np.abs(distances), middle).astype(np.float32) / np.float32(middle)
        longest = np.log(np.float32((facts.farthest - 1) / middle))
        logarithms = np.ceil(np.log(far) / longest * np.float32(middle - 1)) + middle
        buckets = np.where(np.abs(distances) <= middle, distances, np.sign(distances) * logarithms)
        distances = buckets.astype(np.int64)
    return np.clip(distances + facts.span, 0, 2 * facts.span - 1).astype(np.int64)


def mpnet_rows(positions: int) -> NDArray[np.int64]:
    """Return the row of MPNet's table for each distance, as :func:`deberta_rows` does."""
    distances = np.arange(1 - positions, positions)
    half, size = BUCKETS // 2, np.abs(distances)
    near = half // 2
    scale = np.float32(np.log(FARTHEST / near))
    logarithms = np.log(np.maximum(size, near).astype(np.float32) / np.float32(near)) / scale * np.float32(half - near)
    far = np.minimum(near + logarithms.astype(np.int64), half - 1)
    return np.asarray((distances < 0) * half + np.where(size < near, size, far), np.int64)


class RelativeBuilder(BertBuilder):
    """Build the graph of a model whose attention depends on the distance between two tokens."""

    def _distances(self, rows: NDArray[np.int64]) -> str:
        """Return the row of a table of distances for each two tokens, shape ``(tokens, tokens)``.

        :param rows: the rows by distance, the query's position less the key's; the middle one is that of distance 0.
        :returns: the rows.
        """
        positions = self._positions()
        query, key = (self._node("Unsqueeze", positions, self._constant([axis])) for axis in (1, 0))
        distance = self._node("Add", self._node("Sub", query, key), self._constant(np.int64(len(rows) // 2)))
        return self._node("Gather", self._constant(rows), distance)

    def _one_query(self, scores: str) -> str:
        """Return the numbers for the first token's query, shape ``(pairs, heads or 1, 1, tokens)``."""
        return self._node("Slice", scores, *(self._constant([number]) for number in (0, 1, 2)))


class MPNetBuilder(RelativeBuilder):
    """Build the graph of an MPNet classifier: a number for each head and distance is added to the attention scores."""

    def _mask(self) -> str:
        """Return the padding mask plus those numbers, shape ``(pairs, heads, tokens, tokens)``."""
        rows = self._distances(mpnet_rows(int(self._config["max_position_embeddings"])))
        biases = self._node("Transpose", self._rows(BIAS_TABLE, rows), perm=[2, 0, 1])
        return self._node("Add", self._padding_mask(), self._node("Unsqueeze", biases, self._constant([0])))

    def _layer(self, number: int, states: str, mask: str, *, last: bool) -> str:
        return super()._layer(number, states, self._one_query(mask) if last else mask, last=last)


class DebertaBuilder(RelativeBuilder):
    """Build the graph of a DeBERTa-v2 or DeBERTa-v3 classifier.

    The projected table of distances depends on the weights alone: engines compute it once, when they load the graph.
    Only the rows of distances that a batch has are multiplied.

    :param config: the model's ``config.json``.
    :param tensors: its weights, which :func:`~milvus_rerank.onnx_graphs.architectures.check_shapes` has checked.
    :param with_types: whether the tokenizer makes token types; if not, every token has type 0.
    :param embed: whether the graph holds the weights, in float32, or reads them from the model's own files.
    """

    def __init__(
        self, config: Mapping[str, Any], tensors: Mapping[str, Tensor], *, with_types: bool, embed: bool
    ) -> None:
        super().__init__(config, tensors, with_types=with_types, embed=embed)
        facts = read_disentangled(config)
        if config["model_type"] != DEBERTA or facts is None:
            raise ValueError(f"expected a config of {DEBERTA} for which position_limit() is not None, got {config!r}")
        self._facts = facts
        self._scale = (self._hidden // self._heads * (1 + len(facts.terms))) ** -0.5

    def build(self) -> onnx.ModelProto:
        """Return the graph, as :func:`milvus_rerank.onnx_graphs.build.build` describes it."""
        facts = self._facts
        table = self._weight(TABLE)
        self._table = self._norm(table, TABLE_NORM) if facts.norm else table
        rows = self._distances(deberta_rows(facts, int(self._config["max_position_embeddings"])))
        first, last = (self._node(kind, rows, keepdims=0) for kind in ("ReduceMin", "ReduceMax"))
        one = self._constant([1])
        self._first = self._node("Unsqueeze", first, self._constant([0]))
        self._end = self._node("Add", self._node("Unsqueeze", last, self._constant([0])), one)
        pairs = self._node("Gather", self._node("Shape", "input_ids"), self._constant([0]))
        batch = self._node("Concat", pairs, self._constant([self._heads]), one, one, axis=0)
        # Engines pick numbers by an index of the scores' own shape: it is made once, for all layers.
        self._index = self._node("Expand", self._node("Sub", rows, first), batch)
        return super().build()

    def _add_positions(self, scores: str, queries: str, keys: str, prefix: str) -> str:
        """Add products of queries and of keys with the table, for the distance between the two."""
        index = self._one_query(self._index) if self._part else self._index
        if "c2p" in self._facts.terms:
            columns = self._distance_states(prefix, "c2p", "attention.self.key_proj", [1, 2, 0], axis=2)
            products = self._node("MatMul", queries, columns)
            scores = self._node("Add", scores, self._node("GatherElements", products, index, axis=3))
        if "p2c" in self._facts.terms:
            states = self._distance_states(prefix, "p2c", "attention.self.query_proj", [1, 0, 2], axis=1)
            scaled = self._node("Mul", states, self._constant(np.float32(self._scale)))
            products = self._node("MatMul", scaled, keys)
            scores = self._node("Add", scores, self._node("GatherElements", products, index, axis=2))
        return scores

    def _distance_states(self, prefix: str, term: str, shared: str, order: list[int], axis: int) -> str:
        """Return the projected rows of the table that a batch needs, split into heads, in this order of axes."""
        name = prefix + (shared if self._facts.shared else f"attention.self.{PROJECTIONS[term]}")
        shape = self._constant([2 * self._facts.span, self._heads, self._hidden // self._heads])
        states = self._node("Reshape", self._linear(self._table, name), shape)
        states = self._node("Transpose", states, perm=order)
        return self._node("Slice", states, self._first, self._end, self._constant([axis]))
