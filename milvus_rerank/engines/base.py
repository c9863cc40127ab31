"""The seam between batching and a model: padded token ids in, logits out."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from milvus_rerank.errors import ModelError


@dataclass(frozen=True, slots=True)
class Batch:
    """Padded pairs, ready for a model.

    :param input_ids: int64 token ids, shape ``(pairs, tokens)``.
    :param attention_mask: int64, 1 for a token and 0 for padding, same shape.
    :param token_type_ids: int64, 0 for the query's part and 1 for the document's, same shape;
        None for models that do not take it.
    :param bounds: where each document begins and ends, int64, shape ``(pairs, 2)``; None unless the engine asked.
    """

    input_ids: NDArray[np.int64]
    attention_mask: NDArray[np.int64]
    token_type_ids: NDArray[np.int64] | None
    bounds: NDArray[np.int64] | None = None


class Engine(Protocol):
    """What runs a model. ``logits`` must be safe to call from several threads at once."""

    @property
    def name(self) -> str:
        """What runs the model: ``torch``, ``onnx``, ``openvino``."""
        ...

    @property
    def device(self) -> str:
        """The device in torch's words, such as ``cpu`` or ``cuda:0``."""
        ...

    @property
    def dtype(self) -> str:
        """The precision of the arithmetic, such as ``float32``."""
        ...

    @property
    def pad_to_multiple_of(self) -> int:
        """The width of a batch is best a multiple of so many tokens; 1 where any will do."""
        ...

    def logits(self, batch: Batch) -> NDArray[np.float32]:
        """Run one forward pass.

        :param batch: the padded pairs.
        :returns: one raw logit per pair in float32, shape ``(pairs,)``.
        :raises OutOfMemoryError: if the batch does not fit the device.
        """
        ...


def check_inputs(names: Iterable[str], path: Path) -> frozenset[str]:
    """Return the names of a graph's inputs.

    :param names: what the graph takes.
    :param path: the graph's file, for the message.
    :returns: the same names.
    :raises ModelError: if there is one that no tokenizer fills.
    """
    found = frozenset(names)
    unknown = sorted(found - {"input_ids", "attention_mask", "token_type_ids"})
    if unknown:
        raise ModelError(
            f"{path} takes the inputs {', '.join(map(repr, unknown))}; "
            "expected 'input_ids', 'attention_mask' and perhaps 'token_type_ids'"
        )
    return found


@dataclass(frozen=True, slots=True)
class Label:
    """Which of a classifier's labels is the score.

    :param index: its place among the labels.
    :param odds: take the logarithm of its odds against all others, whose sigmoid is the label's softmax, instead of its
        own logit.
    """

    index: int
    odds: bool = False

    def pick(self, logits: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return one logit per pair.

        :param logits: of all labels, float32, shape ``(pairs, labels)``.
        :returns: shape ``(pairs,)``.
        """
        own = logits[:, self.index]
        if not self.odds:
            return np.ascontiguousarray(own)
        others = np.delete(logits, self.index, axis=1)
        most = others.max(axis=1)
        odds: NDArray[np.float32] = own - most - np.log(np.exp(others - most[:, None]).sum(axis=1))
        return odds


def as_logits(output: NDArray[Any], pairs: int, model: object, label: Label | None = None) -> NDArray[np.float32]:
    """Return a model's output as one logit per pair.

    :param output: what the model gave.
    :param pairs: how many pairs it was given.
    :param model: its file or name, for the message.
    :param label: the label that is the score; None for a model with one.
    :returns: float32, shape ``(pairs,)``; a copy, as the model's next output may take the memory of this one.
    :raises ModelError: if it is of another shape.
    """
    if label is not None and output.shape[0] == pairs and output.size > pairs * label.index:
        return label.pick(np.array(output, dtype=np.float32).reshape(pairs, -1))
    if output.size != pairs:
        raise ModelError(f"{model} gives shape {output.shape} for {pairs} pairs; expected one logit for each")
    return np.array(output, dtype=np.float32).reshape(pairs)


def pick_inputs(batch: Batch, names: frozenset[str]) -> dict[str, NDArray[np.int64]]:
    """Return what a graph takes of a batch.

    :param batch: the padded pairs.
    :param names: the names of the graph's inputs.
    :returns: arrays by input name; zeros for token types that the graph wants and the tokenizer does not make.
    """
    inputs = {"input_ids": batch.input_ids, "attention_mask": batch.attention_mask}
    if "token_type_ids" in names:
        types = batch.token_type_ids
        inputs["token_type_ids"] = np.zeros_like(batch.input_ids) if types is None else types
    return {name: array for name, array in inputs.items() if name in names}
