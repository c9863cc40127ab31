"""Activations: functions from logits to scores."""

import logging
from collections.abc import Callable, Mapping
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from milvus_rerank.errors import InputError
from milvus_rerank.models.files import label_names
from milvus_rerank.requirements import require

logger = logging.getLogger(__name__)

Activation = Callable[[NDArray[np.float32]], NDArray[Any]]
ActivationName = Literal["model", "raw", "sigmoid", "softmax", "calibrated"]
"""Names of activations; ``model`` is the activation that the model's files name, ``calibrated`` the
:class:`~milvus_rerank.models.calibration.Calibration` beside it."""

NAMES: tuple[ActivationName, ...] = get_args(ActivationName)


def raw(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the logits as they are."""
    return logits


def sigmoid(logits: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return ``1 / (1 + exp(-logit))`` in float64, where large logits still differ."""
    wide = logits.astype(np.float64)
    small = np.exp(-np.abs(wide))  # never overflows
    return np.where(wide >= 0, 1 / (1 + small), small / (1 + small))


def pick_activation(
    choice: ActivationName | Callable[[Any], Any] | None, config: Mapping[str, Any], beside: str | None = None
) -> Activation:
    """Return the activation to use.

    As in sentence-transformers, only classes of ``torch`` are taken from a config: any other class is foreign code.
    Without an activation in the model's files, that of the model is the sigmoid if it has one label, else none.

    :param choice: None or ``model`` for the model's activation, ``raw`` for logits, ``sigmoid``, ``softmax`` for one
        label of several, or a function on torch tensors such as ``torch.nn.Sigmoid()``.
    :param config: the model's ``config.json``.
    :param beside: the activation in ``config_sentence_transformers.json``; None without one.
    :returns: a function from logits to scores.
    :raises InputError: for any other word.
    :raises MissingDependencyError: for a function, or a model's activation beyond the sigmoid, without torch.
    """
    if callable(choice):
        require("an activation_fct that is a function on tensors", "torch")
        from milvus_rerank.engines.torch_engine import on_numpy

        return on_numpy(choice)
    if choice is not None and choice not in NAMES:
        raise InputError(f"activation_fct must be one of {', '.join(map(repr, NAMES))} or a function, got {choice!r}")
    if choice is not None and choice != "model":
        return raw if choice == "raw" else sigmoid  # softmax is the sigmoid of log odds, see engines.base.Label
    path = (
        beside
        or (config.get("sentence_transformers") or {}).get("activation_fn")
        or config.get("sbert_ce_default_activation_function")
    )
    if path is None:
        return sigmoid if len(label_names(config)) == 1 else raw
    name = str(path).rsplit(".", 1)[-1]
    if not str(path).startswith("torch.nn."):
        logger.warning("the model's activation %s is not part of torch.nn and is not run; the sigmoid is used", path)
        return sigmoid
    if name in ("Identity", "Sigmoid"):
        return raw if name == "Identity" else sigmoid
    require(f"the model's activation {name}", "torch")
    from milvus_rerank.engines.torch_engine import torch_activation

    return torch_activation(name)
