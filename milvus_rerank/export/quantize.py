"""Quantise float32 graphs to int8."""

import logging
from collections.abc import Sequence
from pathlib import Path

from milvus_rerank.engines.base import Batch
from milvus_rerank.errors import InputError


def quantize(source: Path, target: Path, *, engine: str, method: str, batches: Sequence[Batch]) -> None:
    """Write an int8 form of a float32 ``model.onnx``: an ``.xml`` file for openvino, an ``.onnx`` file for onnx."""
    if engine == "openvino":
        from milvus_rerank.export.openvino_int8 import quantize_openvino

        quantize_openvino(source, target, method=method, batches=batches)
        return
    if method != "dynamic":
        raise InputError(f"engine {engine!r} supports method 'dynamic', got {method!r}; use that or engine 'openvino'")
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    from milvus_rerank.export.onnx_weights import transpose_weights

    model = onnx.load(source)
    transpose_weights(model)
    del model.graph.value_info[:]  # torch recorded shapes of 3 x 11 tokens, which contradict the inferred shapes
    onnx.helper.set_model_props(model, {"onnx.quant.pre_process": "onnxruntime.quant"})  # avoids a warning
    logging.getLogger(__name__).info("quantising to %s", target.name)
    quantize_dynamic(model, target, per_channel=True, weight_type=QuantType.QInt8)
