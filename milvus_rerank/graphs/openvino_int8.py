"""OpenVINO's int8: weights alone with activations quantised as they come, or both with ranges from calibration.

The only module that imports nncf, which would report its use to its makers: that is kept from it.
"""

import contextlib
import io
import logging
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import openvino
from openvino.passes import ConstantFolding, Manager

from milvus_rerank.engines.base import Batch, pick_inputs
from milvus_rerank.errors import InputError
from milvus_rerank.graphs.encoder import FIRST_ROW


def quantize_openvino(source: Path, target: Path, *, method: str, batches: Sequence[Batch]) -> None:
    """Write an int8 form of a graph for OpenVINO.

    :param source: a float32 ``model.onnx``.
    :param target: the ``.xml`` file to write; its weights go to a ``.bin`` beside it.
    :param method: ``dynamic``: int8 weights, one scale for each output, and activations quantised as they
        come, token by token; ``calibrated``: fixed ranges for activations too, which is faster and less exact.
    :param batches: what to calibrate with; unused for ``dynamic``.
    :raises InputError: for ``calibrated`` without batches.
    """
    model = openvino.Core().read_model(source)
    # nncf takes only constants for weights, not transposed constants.
    manager = Manager()
    manager.register_pass(ConstantFolding())
    manager.run_passes(model)
    names = frozenset(port.any_name for port in model.inputs)
    with _silent_nncf() as nncf:
        if method == "dynamic":
            model = nncf.compress_weights(model, mode=nncf.CompressWeightsMode.INT8_SYM)
        elif not batches:
            raise InputError("method 'calibrated' needs texts to calibrate with")
        else:
            data = nncf.Dataset([pick_inputs(batch, names) for batch in batches])
            # What is computed for one row costs nothing to keep, and its errors go straight into the logits:
            # keeping it shared 9.5 of the top 10 instead of 8.9 on cranfield and cisi.
            kept = nncf.IgnoredScope(patterns=[FIRST_ROW + ".*"], validate=False)
            kind = nncf.ModelType.TRANSFORMER
            model = nncf.quantize(model, data, model_type=kind, subset_size=len(batches), ignored_scope=kept)
    openvino.save_model(model, target, compress_to_fp16=False)


@contextlib.contextmanager
def _silent_nncf() -> Iterator[Any]:
    """Give nncf without its telemetry and its printing.

    nncf sends how it is used unless the user has a file that says no, or the package that sends is not there.
    """
    absent = "openvino_telemetry" not in sys.modules
    if absent:
        sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]
    try:
        import nncf
        from nncf.telemetry import telemetry
    finally:
        if absent:
            del sys.modules["openvino_telemetry"]
    if hasattr(telemetry, "_impl"):  # somebody else imported nncf first, with what sends
        telemetry._impl.consent = False
    logging.getLogger("nncf").setLevel(logging.ERROR)  # not set_log_level: it sets the handlers of others too
    with contextlib.redirect_stdout(io.StringIO()):
        yield nncf
