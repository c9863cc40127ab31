"""Curves from logits to probabilities, fitted by scipy, and their errors."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from milvus_rerank.errors import InputError

METHODS = ("platt", "isotonic")
_MOST_KNOTS = 512
_FALLING = "scores do not rise with relevance: nothing to calibrate; are the judgments of this collection?"


@dataclass(frozen=True, slots=True)
class Curve:
    """A curve: a sigmoid with slope and intercept, or knots.

    :param slope: the slope; None for knots.
    :param intercept: the intercept.
    :param logits: the logits of the knots.
    :param probabilities: their probabilities.
    """

    slope: float | None = None
    intercept: float = 0.0
    logits: tuple[float, ...] = ()
    probabilities: tuple[float, ...] = ()


def fit(method: str, logits: NDArray[np.float32], labels: NDArray[np.bool_]) -> Curve:
    """Fit a curve.

    :param method: ``platt`` or ``isotonic``.
    :param logits: shape ``(pairs,)``.
    :param labels: whether each pair is relevant.
    :returns: the curve, which rises.
    :raises InputError: if scores do not rise with relevance.
    """
    return (_platt if method == "platt" else _isotonic)(logits.astype(np.float64), labels)


def _platt(logits: NDArray[np.float64], labels: NDArray[np.bool_]) -> Curve:
    """Fit a sigmoid by maximum likelihood, with Platt's targets, which keep it finite on data that can be separated."""
    from scipy.optimize import minimize

    positive = int(labels.sum())
    targets = np.where(labels, (positive + 1) / (positive + 2), 1 / (len(labels) - positive + 2))
    center, scale = float(logits.mean()), float(logits.std()) or 1.0
    wide = (logits - center) / scale

    def loss(weights: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        values = weights[0] * wide + weights[1]
        errors = 0.5 * (1 + np.tanh(values / 2)) - targets
        total = np.logaddexp(0, values) - targets * values
        return float(total.mean()), np.array([(errors * wide).mean(), errors.mean()])

    slope, intercept = minimize(loss, np.array([1.0, 0.0]), jac=True, method="L-BFGS-B").x
    if slope <= 0:
        raise InputError(_FALLING)
    return Curve(slope=float(slope / scale), intercept=float(intercept - slope * center / scale))


def _isotonic(logits: NDArray[np.float64], labels: NDArray[np.bool_]) -> Curve:
    """Fit steps that only rise; between two steps the curve is straight."""
    from scipy.optimize import isotonic_regression

    values, places, counts = np.unique(logits, return_inverse=True, return_counts=True)
    shares = np.bincount(places, weights=labels) / counts
    result = isotonic_regression(shares, weights=counts)
    starts = result.blocks[:-1]
    knots = np.unique(np.concatenate([starts, result.blocks[1:] - 1]))
    if len(knots) > _MOST_KNOTS:
        knots = knots[np.unique(np.linspace(0, len(knots) - 1, _MOST_KNOTS).round().astype(int))]
    least = 1 / (len(labels) + 2)  # no pair is certain
    probabilities = np.clip(result.x[knots], least, 1 - least)
    if len(knots) < 2 or probabilities[0] == probabilities[-1]:
        raise InputError(_FALLING)
    return Curve(
        logits=tuple(float(value) for value in values[knots]),
        probabilities=tuple(float(value) for value in np.maximum.accumulate(probabilities)),
    )


def log_loss(probabilities: NDArray[np.float64], labels: NDArray[np.bool_]) -> float:
    """Return the mean negative logarithm of the probabilities of what is the case."""
    clipped = np.clip(np.where(labels, probabilities, 1 - probabilities), 1e-12, 1)
    return float(-np.log(clipped).mean())


def error_of(bins: Sequence[tuple[float, float, int]], total: int) -> float:
    """Return the expected calibration error: the mean distance of predicted and observed shares, weighted by count."""
    return sum(count * abs(predicted - observed) for predicted, observed, count in bins) / total
