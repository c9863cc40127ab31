"""ONNX Runtime on the CPU. Only this module imports onnxruntime to run models."""

import os
from pathlib import Path

import numpy as np

# The wheels report use to their makers. The variable stops that before the import, the call below after it.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
import onnxruntime
from numpy.typing import NDArray

from milvus_rerank.engines.base import Batch, Label, LinkedGraph, as_logits, check_inputs, pick_inputs
from milvus_rerank.errors import ModelError
from milvus_rerank.forks import after_fork, keep

onnxruntime.disable_telemetry_events()


class OnnxEngine:
    """Run a graph with ONNX Runtime on the CPU.

    :param graph: an ``.onnx`` file, or a graph over a model's files in one folder.
    :param dtype: ``float32``, or ``int8`` for a quantised graph.
    :param threads: the most threads of a call; None for one thread per core that the process may use.
    :param label: the label that is the score; None for a model with one label.
    :raises ModelError: if the file cannot be read.
    """

    name = "onnx"
    device = "cpu"
    pad_to_multiple_of = 1

    def __init__(
        self,
        graph: Path | LinkedGraph,
        *,
        dtype: str = "float32",
        threads: int | None = None,
        label: Label | None = None,
    ) -> None:
        self.dtype = dtype
        self._label = label
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads or 0
        options.log_severity_level = 3
        # Spinning threads take the cores from other processes and from the tokenizer between two batches.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        model: str | bytes
        if isinstance(graph, LinkedGraph):
            self._name, model = graph.name, graph.model
            options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(graph.folder))
        else:
            self._name = model = str(graph)
        try:
            self._session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime's error classes share only the base Exception
            raise ModelError(f"ONNX Runtime cannot read {self._name}: {error}") from error
        self._inputs = check_inputs((port.name for port in self._session.get_inputs()), self._name)
        self._output = self._session.get_outputs()[0].name
        after_fork(self, keep)  # freeing it in a forked process would wait for the parent's threads

    def logits(self, batch: Batch) -> NDArray[np.float32]:
        """Run one forward pass, as :meth:`milvus_rerank.engines.base.Engine.logits` says."""
        logits = self._session.run([self._output], pick_inputs(batch, self._inputs))[0]
        return as_logits(logits, len(batch.input_ids), self._name, self._label)
