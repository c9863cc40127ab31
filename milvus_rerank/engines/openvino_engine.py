"""OpenVINO on the CPU."""

import threading
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from milvus_rerank.engines.base import Batch, Label, as_logits, check_inputs, pick_inputs
from milvus_rerank.engines.no_telemetry import openvino
from milvus_rerank.errors import ModelError

ACTIVATION_GROUP = 64
"""So many activations share a scale when they are quantised as they come.

OpenVINO's default, 32, took 8 to 18% more time on builtin/rerank, and 128 took 5% less but lost more of the order.
"""
_PRECISIONS = {"float32": "f32", "bfloat16": "bf16", "int8": "f32"}


class OpenVINOEngine:
    """Run a graph with OpenVINO on the CPU.

    :param path: an ``.xml`` or ``.onnx`` file.
    :param dtype: ``float32``, ``bfloat16``, or ``int8`` for a quantised graph.
    :param threads: how many threads a call may use; None for one per core of this machine that the process may use.
    :param label: the label that is the score; None for a model with one.
    :raises ModelError: if the file cannot be read.
    """

    name = "openvino"
    device = "cpu"
    pad_to_multiple_of = 8  # OpenVINO prepares its kernels for each new shape, for milliseconds: so there are fewer

    def __init__(
        self, path: Path, *, dtype: str = "float32", threads: int | None = None, label: Label | None = None
    ) -> None:
        self.dtype = dtype
        self._label = label
        core = openvino.Core()
        precision = _PRECISIONS[dtype]
        if dtype == "int8" and has_bfloat16():  # what is not int8 in a quantised graph
            precision = "bf16"
        options = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": precision, "NUM_STREAMS": "1"}
        if dtype == "int8":
            options["DYNAMIC_QUANTIZATION_GROUP_SIZE"] = str(ACTIVATION_GROUP)
        if threads is not None:
            options["INFERENCE_NUM_THREADS"] = str(threads)
        try:
            model = core.read_model(path)
            self._compiled = core.compile_model(model, "CPU", options)
        except RuntimeError as error:
            raise ModelError(f"OpenVINO cannot read {path}: {str(error).strip().splitlines()[-1]}") from error
        self._path = path
        self._inputs = check_inputs((port.any_name for port in self._compiled.inputs), path)
        self._local = threading.local()

    def logits(self, batch: Batch) -> NDArray[np.float32]:
        """Run one forward pass.

        :param batch: the padded pairs.
        :returns: raw logits, shape ``(pairs,)``.
        :raises ModelError: if the graph gives anything else.
        """
        request: Any = getattr(self._local, "request", None)
        if request is None:  # a request is one call's memory: threads must not share it
            request = self._local.request = self._compiled.create_infer_request()
        request.infer(pick_inputs(batch, self._inputs), share_inputs=True)
        return as_logits(request.get_output_tensor(0).data, len(batch.input_ids), self._path, self._label)


def has_bfloat16() -> bool:
    """Tell whether this CPU multiplies bfloat16 matrices in hardware."""
    return "BF16" in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
