"""Interface between batching and a model: padded token ids in, logits out."""

from collections.abc import Iterable
from dataclasses import dataclass, field
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
        None for models that do not take token types.
    :param bounds: the first token of each document and the token after its last, int64, shape ``(pairs, 2)``; None for
        engines that do not need them.
    """

    input_ids: NDArray[np.int64]
    attention_mask: NDArray[np.int64]
    token_type_ids: NDArray[np.int64] | None
    bounds: NDArray[np.int64] | None = None


@dataclass(frozen=True, slots=True)
class LinkedGraph:
    """Graph that leaves its weights in the model's own files.

    :param name: the model's name, for messages.
    :param model: the serialised ONNX model; its external data lies in ``files``, under their names.
    :param files: the files, in any folders.
    """

    name: str
    model: bytes = field(repr=False)
    files: tuple[Path, ...]

    @property
    def folder(self) -> Path | None:
        """The folder of all files; None if they lie in several."""
        folders = {path.parent for path in self.files}
        return folders.pop() if len(folders) == 1 else None


class Engine(Protocol):
    """Engine that runs a model. ``logits`` must be thread-safe."""

    @property
    def name(self) -> str:
        """Name of the engine: ``torch``, ``onnx``, ``openvino``."""
        ...

    @property
    def device(self) -> str:
        """Device, in torch's notation, such as ``cpu`` or ``cuda:0``."""
        ...

    @property
    def dtype(self) -> str:
        """Precision of the arithmetic, such as ``float32``."""
        ...

    @property
    def pad_to_multiple_of(self) -> int:
        """Number of tokens of which the width of a batch is best a multiple; 1 if any width will do."""
        ...

    def logits(self, batch: Batch) -> NDArray[np.float32]:
        """Run one forward pass.

        :param batch: the padded pairs.
        :returns: one raw logit per pair in float32, shape ``(pairs,)``.
        :raises OutOfMemoryError: if the batch does not fit the device.
        """
        ...


def check_inputs(names: Iterable[str], model: object) -> frozenset[str]:
    """Return the names of a graph's inputs; raise ModelError that names ``model`` if no tokenizer provides one."""
    inputs = frozenset(names)
    unknown = sorted(inputs - {"input_ids", "attention_mask", "token_type_ids"})
    if unknown:
        raise ModelError(
            f"{model} takes the inputs {', '.join(map(repr, unknown))}; "
            "expected 'input_ids', 'attention_mask' and perhaps 'token_type_ids'"
        )
    return inputs


@dataclass(frozen=True, slots=True)
class Label:
    """Label of a classifier that is the score.

    :param index: the position among the labels.
    :param odds: whether to take the log odds of the label against all others instead of its logit. The sigmoid of these
        log odds is the label's softmax.
    """

    index: int
    odds: bool = False

    def pick(self, logits: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the label's logits, shape ``(pairs,)``, from those of all labels, shape ``(pairs, labels)``."""
        label_logits = logits[:, self.index]
        if not self.odds:
            return np.ascontiguousarray(label_logits)
        others = np.delete(logits, self.index, axis=1)
        largest = others.max(axis=1)
        odds: NDArray[np.float32] = label_logits - largest - np.log(np.exp(others - largest[:, None]).sum(axis=1))
        return odds


def as_logits(output: NDArray[Any], pairs: int, model: object, label: Label | None = None) -> NDArray[np.float32]:
    """Return a model's output as one logit per pair.

    :param output: the model's output.
    :param pairs: the number of pairs in its input.
    :param model: its file or name, for the message.
    :param label: the label that is the score; None for a model with one label.
    :returns: float32, shape ``(pairs,)``; a copy, because the model's next output may reuse the memory.
    :raises ModelError: if the output has another shape.
    """
    if label is not None and output.shape[0] == pairs and output.size > pairs * label.index:
        return label.pick(np.array(output, dtype=np.float32).reshape(pairs, -1))
    if output.size != pairs:
        raise ModelError(f"{model} gives shape {output.shape} for {pairs} pairs; expected one logit for each")
    return np.array(output, dtype=np.float32).reshape(pairs)


def pick_inputs(batch: Batch, names: frozenset[str]) -> dict[str, NDArray[np.int64]]:
    """Return a graph's inputs by name; zeros for token types that the graph takes and the tokenizer does not make."""
    inputs = {"input_ids": batch.input_ids, "attention_mask": batch.attention_mask}
    if "token_type_ids" in names:
        types = batch.token_type_ids
        inputs["token_type_ids"] = np.zeros_like(batch.input_ids) if types is None else types
    return {name: array for name, array in inputs.items() if name in names}
