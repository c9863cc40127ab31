"""ONNX files of any classification model, traced by torch."""

import contextlib
import io
import logging
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from milvus_rerank.errors import ModelError


class _Logits(torch.nn.Module):
    """Model that takes its inputs by position and returns only logits."""

    def __init__(self, model: torch.nn.Module, names: Sequence[str]) -> None:
        super().__init__()
        self._model = model
        self._names = tuple(names)

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self._model(**dict(zip(self._names, inputs, strict=True))).logits
        return logits


def trace(model: Any, names: Sequence[str], path: Path) -> None:
    """Write a model as ONNX with dynamic shapes.

    :param model: a transformers classification model in float32 on the CPU.
    :param names: its inputs: ``input_ids``, ``attention_mask`` and perhaps ``token_type_ids``.
    :param path: the ``.onnx`` file to write; large weights go to a second file in its folder.
    :raises ModelError: if torch cannot trace the model.
    """
    # Sizes unlike any hidden size, so that torch does not mistake one dimension for another.
    example = {name: torch.ones((3, 11), dtype=torch.int64) for name in names}
    example["attention_mask"][1:, 7:] = 0  # a mask without padding may disappear in the trace
    dynamic = (tuple({0: torch.export.Dim.DYNAMIC, 1: torch.export.Dim.DYNAMIC} for _ in names),)
    exporter = logging.getLogger("torch.onnx")
    level = exporter.level
    exporter.setLevel(logging.ERROR)  # it warns of packages that no reranker needs
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()), torch.inference_mode(False):
            warnings.simplefilter("ignore")
            torch.onnx.export(
                _Logits(model.eval(), names),
                tuple(example.values()),
                str(path),
                input_names=list(names),
                output_names=["logits"],
                dynamic_shapes=dynamic,
                dynamo=True,
                external_data=True,
                verbose=False,
            )
    except Exception as error:  # the errors of torch.export share no base class
        first = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise ModelError(f"torch cannot trace {type(model).__name__} to ONNX: {first}") from error
    finally:
        exporter.setLevel(level)
