"""OpenVINO on the CPU."""

import time
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from milvus_rerank.engines.base import Batch, Label, as_logits, check_inputs, pick_inputs
from milvus_rerank.engines.no_telemetry import openvino
from milvus_rerank.errors import ModelError
from milvus_rerank.forks import ForkLock, after_fork, keep

ACTIVATION_GROUP = 64
"""Number of activations that share a scale in dynamic quantisation.

On builtin/rerank, OpenVINO's default of 32 took 8 to 18% more time. 128 took 5% less time, but changed the order of
documents more.
"""
_SETTLE = 1.0
"""Most seconds after a call in which OpenVINO's threads may still hold locks, which a forked process would wait for."""

_PRECISIONS = {"float32": "f32", "bfloat16": "bf16", "int8": "f32"}


class OpenVINOEngine:
    """Run a graph with OpenVINO on the CPU.

    :param path: an ``.xml`` or ``.onnx`` file.
    :param dtype: ``float32``, ``bfloat16``, or ``int8`` for a quantised graph.
    :param threads: the most threads of a call; None for one thread per core that the process may use.
    :param label: the label that is the score; None for a model with one label.
    :raises ModelError: if the file cannot be read.
    """

    name = "openvino"
    device = "cpu"
    pad_to_multiple_of = 8  # OpenVINO takes milliseconds to prepare kernels for a new shape: fewer shapes

    def __init__(
        self, path: Path, *, dtype: str = "float32", threads: int | None = None, label: Label | None = None
    ) -> None:
        self.dtype = dtype
        self._label = label
        core = openvino.Core()
        precision = _PRECISIONS[dtype]
        if dtype == "int8" and has_bfloat16():  # for the parts of a quantised graph that are not int8
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
        self._request = self._compiled.create_infer_request()
        self._turn = ForkLock()  # the engine has one stream, which runs one request at a time
        after_fork(self, keep)  # freeing it in a forked process would wait for the parent's threads

    def logits(self, batch: Batch) -> NDArray[np.float32]:
        """Run one forward pass, as :meth:`milvus_rerank.engines.base.Engine.logits` says."""
        turn = self._turn
        with turn.lock:
            try:
                self._request.infer(pick_inputs(batch, self._inputs), share_inputs=True)
                return as_logits(self._request.get_output_tensor(0).data, len(batch.input_ids), self._path, self._label)
            finally:
                turn.settled = time.monotonic() + _SETTLE


def has_bfloat16() -> bool:
    """Tell whether this CPU multiplies bfloat16 matrices in hardware."""
    return "BF16" in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
