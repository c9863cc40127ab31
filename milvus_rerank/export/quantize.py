"""Quantise float32 graphs to int8."""

import logging
from collections.abc import Sequence
from pathlib import Path

from milvus_rerank.engines.base import Batch
from milvus_rerank.errors import InputError


def quantize(source: Path, target: Path, *, engine: str, method: str, batches: Sequence[Batch]) -> None:
    """Write an int8 form of a graph.

    :param source: a float32 ``model.onnx``.
    :param target: the file to write: ``.xml`` for openvino, ``.onnx`` for onnx.
    :param engine: ``openvino`` or ``onnx``.
    :param method: ``dynamic`` or ``calibrated``.
    :param batches: the texts to calibrate with; unused for onnx.
    :raises InputError: if the engine does not support the method.
    """
    if engine == "openvino":
        from milvus_rerank.export.openvino_int8 import quantize_openvino

        quantize_openvino(source, target, method=method, batches=batches)
        return
    if method != "dynamic":
        raise InputError(f"engine {engine!r} has no method {method!r}; use method 'dynamic' or engine 'openvino'")
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    from milvus_rerank.export.onnx_weights import transpose_weights

    model = onnx.load(source)
    transpose_weights(model)
    del model.graph.value_info[:]  # torch recorded shapes of 3 x 11 tokens, which contradict the inferred shapes
    onnx.helper.set_model_props(model, {"onnx.quant.pre_process": "onnxruntime.quant"})  # avoids a warning
    logging.getLogger(__name__).info("quantising to %s", target.name)
    quantize_dynamic(model, target, per_channel=True, weight_type=QuantType.QInt8)
