"""GPTQ: round weights to int8 so that a layer's outputs on real activations change least.

Each output has one symmetric scale. GPTQ rounds the weights of one input at a time. It then corrects the weights of the
inputs that follow, as far as they correlate in the calibration texts, to compensate for the rounding error (Frantar et
al., "GPTQ", 2022, arXiv:2210.17323). Plain rounding has twice the error on builtin/rerank.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

LARGEST = 127
_DAMPING = 0.01
_CLIPS = (1.0, 0.95, 0.9, 0.85, 0.8, 0.75, 0.7, 0.6, 0.5)
_BLOCK = 128


class Moments:
    """Mean and second moments of a layer's input rows, gathered batch by batch.

    :param width: the length of a row.
    :param group: the number of neighbouring activations that share an int8 scale. The error of rounding them counts
        as noise.
    """

    def __init__(self, width: int, group: int) -> None:
        self._group = group if width % group == 0 else width
        self._rows = 0
        self._sum = np.zeros(width)
        self._squares = np.zeros((width, width))
        self._noise = np.zeros(width)

    def add(self, rows: Array) -> None:
        """Add rows in float32, shape ``(rows, width)``."""
        self._rows += len(rows)
        self._sum += rows.sum(axis=0)
        self._squares += rows.T @ rows
        grouped = rows.reshape(len(rows), -1, self._group)
        steps = np.abs(grouped).max(axis=2) / LARGEST
        # The rounding error is uniform over one step, so its variance is a twelfth of the step's square.
        self._noise += np.repeat((steps**2).mean(axis=0) / 12, self._group) * len(rows)

    @property
    def mean(self) -> Array:
        """The mean row, shape ``(width,)``."""
        return self._sum / self._rows

    @property
    def squares(self) -> Array:
        """The mean product of each pair of numbers in a row, shape ``(width, width)``."""
        return (self._squares + np.diag(self._noise)) / self._rows


@dataclass(frozen=True, slots=True)
class Rounded:
    """A weight rounded to int8.

    :param weight: int8, shape ``(outputs, inputs)``.
    :param scale: float32, shape ``(outputs,)``; ``weight * scale`` approximates the original weight.
    :param shift: float32, shape ``(outputs,)``; added to the outputs, it restores their original mean.
    """

    weight: NDArray[np.int8]
    scale: NDArray[np.float32]
    shift: NDArray[np.float32]


def round_weight(weight: Array, moments: Moments) -> Rounded:
    """Round a weight of shape ``(outputs, inputs)`` to int8, given the moments of the layer's input rows."""
    exact = weight.astype(np.float64)
    squares = moments.squares
    scale = _scales(exact, np.diag(squares))
    damped = squares + np.eye(len(squares)) * (_DAMPING * np.diag(squares).mean() or 1.0)
    order = np.argsort(-np.diag(damped), kind="stable")  # important inputs first: more are left to compensate
    rounded = np.empty_like(exact)
    rounded[:, order] = _compensated(exact[:, order], damped[np.ix_(order, order)], scale)
    shift = (exact - rounded * scale[:, None]) @ moments.mean
    return Rounded(rounded.astype(np.int8), scale.astype(np.float32), shift.astype(np.float32))


def round_rows(table: Array) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Round an embedding table of shape ``(rows, width)`` to int8; return it with its scales, shape ``(rows,)``."""
    scale = np.abs(table).max(axis=1) / LARGEST
    scale[scale == 0] = 1.0
    return np.rint(table / scale[:, None]).astype(np.int8), scale.astype(np.float32)


def _scales(weight: Array, importance: Array) -> Array:
    """Return the scale of each output with the least error; clipping a large weight can make the others more exact."""
    widest = np.abs(weight).max(axis=1) / LARGEST
    widest[widest == 0] = 1.0
    errors = [((_nearest(weight, widest * clip) - weight) ** 2 * importance).sum(axis=1) for clip in _CLIPS]
    return np.asarray(widest * np.array(_CLIPS)[np.argmin(errors, axis=0)])


def _nearest(weight: Array, scale: Array) -> Array:
    return np.asarray(np.clip(np.rint(weight / scale[:, None]), -LARGEST, LARGEST) * scale[:, None])


def _compensated(weight: Array, squares: Array, scale: Array) -> Array:
    """Return whole numbers, shape ``(outputs, inputs)``; later inputs compensate for the error of each input."""
    left = weight.copy()
    rounded: Array = np.empty_like(left)
    factor = np.linalg.cholesky(np.linalg.inv(squares)).T
    width = left.shape[1]
    for start in range(0, width, _BLOCK):  # in blocks: one product per block corrects all later inputs
        end = min(start + _BLOCK, width)
        errors = np.empty((len(left), end - start))
        for column in range(start, end):
            rounded[:, column] = np.clip(np.rint(left[:, column] / scale), -LARGEST, LARGEST)
            error = (left[:, column] - rounded[:, column] * scale) / factor[column, column]
            errors[:, column - start] = error
            left[:, column:end] -= np.outer(error, factor[column, column:end])
        left[:, end:] -= errors @ factor[start:end, end:]
    return rounded
