"""Engine without a model, for tests of the code around engines."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from milvus_rerank.engines.base import Batch

LogitFunction = Callable[[Batch], NDArray[np.float32]]


class ConstantEngine:
    """Give every pair the same logit, or the logits that a function returns for the batch.

    :param logit: one number for every pair, or a function from a batch to its logits, shape ``(pairs,)``.
    """

    name = "constant"
    device = "cpu"
    dtype = "float32"
    pad_to_multiple_of = 1

    def __init__(self, logit: float | LogitFunction = 0.0) -> None:
        self._logit = logit

    def logits(self, batch: Batch) -> NDArray[np.float32]:
        """Return the logits of a batch, float32, shape ``(pairs,)``."""
        if callable(self._logit):
            return np.asarray(self._logit(batch), dtype=np.float32)
        return np.full(len(batch.input_ids), self._logit, dtype=np.float32)
