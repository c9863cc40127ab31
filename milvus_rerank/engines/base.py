"""The seam between batching and a model: padded token ids in, logits out."""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Batch:
    """Padded pairs, ready for a model.

    :param input_ids: int64 token ids, shape ``(pairs, tokens)``.
    :param attention_mask: int64, 1 for a token and 0 for padding, same shape.
    :param token_type_ids: int64, 0 for the query's part and 1 for the document's, same shape;
        None for models that do not take it.
    """

    input_ids: NDArray[np.int64]
    attention_mask: NDArray[np.int64]
    token_type_ids: NDArray[np.int64] | None


class Engine(Protocol):
    """What runs a model. ``logits`` must be safe to call from several threads at once."""

    @property
    def device(self) -> str:
        """The device in torch's words, such as ``cpu`` or ``cuda:0``."""
        ...

    @property
    def dtype(self) -> str:
        """The precision of the weights, such as ``float32``."""
        ...

    def logits(self, batch: Batch) -> NDArray[np.float32]:
        """Run one forward pass.

        :param batch: the padded pairs.
        :returns: one raw logit per pair in float32, shape ``(pairs,)``.
        :raises OutOfMemoryError: if the batch does not fit the device.
        """
        ...
