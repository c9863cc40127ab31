"""Calibrations: from a model's logits to probabilities of relevance, in a file ``calibration.json``."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from milvus_rerank.errors import InputError, ModelError
from milvus_rerank.models.files import fingerprint, read_config

FILE = "calibration.json"
"""Name of the file beside a model."""

Method = Literal["platt", "isotonic"]
"""Ways to calibrate: a sigmoid with a slope and a shift, or steps that only rise."""

_MOST_KNOTS = 1024
_SLOPE = 1e-3
"""Share of the plain sigmoid in an isotonic probability: without it, the documents of one step would be ties."""


@dataclass(frozen=True, slots=True)
class Calibration:
    """Function from the logits of one model to probabilities of relevance. It keeps the order of documents.

    :param model: the model's name.
    :param fingerprint: the :func:`~milvus_rerank.models.files.fingerprint` of its files.
    :param max_length: the most tokens of a pair with which the logits were computed.
    :param slope: for ``platt``, the factor of a logit; None for ``isotonic``.
    :param intercept: for ``platt``, the number added to it.
    :param logits: for ``isotonic``, the logits of the knots, rising; empty for ``platt``.
    :param probabilities: their probabilities, rising.
    """

    model: str
    fingerprint: str
    max_length: int
    slope: float | None = None
    intercept: float = 0.0
    logits: tuple[float, ...] = ()
    probabilities: tuple[float, ...] = ()

    @property
    def method(self) -> Method:
        """The way it was made."""
        return "isotonic" if self.slope is None else "platt"

    def __call__(self, logits: NDArray[np.float32]) -> NDArray[np.float64]:
        """Return the probability of each logit, in an array of the same shape."""
        wide = logits.astype(np.float64)
        if self.slope is not None:
            return _sigmoid(self.slope * wide + self.intercept)
        steps = np.interp(wide, self.logits, self.probabilities)
        return np.asarray((1 - _SLOPE) * steps + _SLOPE * _sigmoid(wide), np.float64)

    def check(self, folder: Path, max_length: int, where: Path) -> None:
        """Raise ``InputError`` if it is of another model than the one in a folder, or of pairs of another length."""
        if fingerprint(folder) != self.fingerprint:
            raise InputError(
                f"{where} is a calibration of the model {self.model!r} with other files than those in {folder}: "
                "calibrate this model with milvus-rerank calibrate"
            )
        if max_length != self.max_length:
            raise InputError(
                f"{where} was made with max_length={self.max_length}, this reranker has {max_length}: use the same "
                "one, or calibrate again"
            )

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON-safe Python values, which :func:`read_calibration` reads."""
        numbers: dict[str, Any] = {"slope": self.slope, "intercept": self.intercept}
        if self.slope is None:
            numbers = {"logits": list(self.logits), "probabilities": list(self.probabilities)}
        common = {"model": self.model, "fingerprint": self.fingerprint, "max_length": self.max_length}
        return {**common, "method": self.method, **numbers}


def read_calibration(path: Path) -> Calibration:
    """Return the calibration in a file.

    :param path: the file.
    :returns: the calibration.
    :raises ModelError: if the file cannot be read, or does not hold a calibration; it names the key.
    """
    values = read_config(path.parent, path.name)
    for key, kinds in (("model", str), ("fingerprint", str), ("max_length", int)):
        if not isinstance(values.get(key), kinds) or isinstance(values.get(key), bool):
            raise ModelError(f"{path}: {key!r} must be of type {kinds.__name__}, got {values.get(key)!r:.60}")
    common = (values["model"], values["fingerprint"], values["max_length"])
    method = values.get("method")
    if method == "platt":
        slope, intercept = (_numbers(path, key, [values.get(key)])[0] for key in ("slope", "intercept"))
        if slope <= 0:
            raise ModelError(f"{path}: 'slope' must be positive, got {slope}")
        return Calibration(*common, slope=slope, intercept=intercept)
    if method != "isotonic":
        raise ModelError(f"{path}: 'method' must be 'platt' or 'isotonic', got {method!r:.60}")
    logits, probabilities = (_numbers(path, key, values.get(key)) for key in ("logits", "probabilities"))
    if not 2 <= len(logits) == len(probabilities) <= _MOST_KNOTS:
        raise ModelError(
            f"{path}: 'logits' and 'probabilities' must be of one length, from 2 to {_MOST_KNOTS}, got {len(logits)} "
            f"and {len(probabilities)}"
        )
    if any(np.diff(logits) <= 0) or any(np.diff(probabilities) < 0) or probabilities[0] < 0 or probabilities[-1] > 1:
        raise ModelError(f"{path}: 'logits' must rise, and 'probabilities' must not fall and lie between 0 and 1")
    return Calibration(*common, logits=logits, probabilities=probabilities)


def _numbers(path: Path, key: str, values: object) -> tuple[float, ...]:
    if not isinstance(values, list) or len(values) > _MOST_KNOTS:
        raise ModelError(f"{path}: {key!r} must be a list of at most {_MOST_KNOTS} numbers, got {values!r:.60}")
    for value in values:
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not np.isfinite(value):
            raise ModelError(f"{path}: {key!r} must be made of finite numbers, got {value!r:.60}")
    return tuple(float(value) for value in values)


def _sigmoid(values: NDArray[np.float64]) -> NDArray[np.float64]:
    small = np.exp(-np.abs(values))  # never overflows
    return np.where(values >= 0, 1 / (1 + small), small / (1 + small))
