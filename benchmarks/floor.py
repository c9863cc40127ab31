"""The floor: how fast this machine multiplies matrices in each precision, and what a model needs at least.

Each of torch, onnxruntime and openvino multiplies several shapes in float32, bfloat16 and int8, where it can; the peak
of a precision is the fastest of all. ``python benchmarks/floor.py`` (in the harness' environment) prints them.
"""

import json
import math
import os
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import onnxruntime
import openvino
import torch
from onnx import TensorProto, checker, helper, numpy_helper

# Tokens of a batch x width in x width out: squares, and the multiplications of the two models themselves.
SHAPES = ((1024, 1024, 1024), (2048, 2048, 2048), (2048, 384, 1536), (2048, 1536, 384), (2048, 768, 3072))
SECONDS = 0.06  # for each shape, library and precision in one round: 45 of them are 3 seconds

Multiply = Callable[[], object]


def flops(config: dict[str, Any], lengths: Sequence[int]) -> float:
    """Floating point operations of a BERT classifier over pairs of these true lengths; a multiply-add counts two.

    For each layer and each token of a sequence of L tokens, H wide, I wide in between:
    query, key, value and output take 4 H H multiply-adds, the feed-forward 2 H I, the attention's two products 2 L H.
    Embeddings, normalisation, softmax and biases are left out (under 2%).
    """
    tokens, squares = float(sum(lengths)), float(sum(length * length for length in lengths))
    hidden, inner, layers = config["hidden_size"], config["intermediate_size"], config["num_hidden_layers"]
    linear = tokens * (4 * hidden * hidden + 2 * hidden * inner)
    attention = squares * 2 * hidden
    pooler = len(lengths) * (hidden * hidden + hidden)
    return 2.0 * (layers * (linear + attention) + pooler)


class Floor:
    """The peaks of this machine: each round can only raise them, as another process can only lower a figure.

    :param threads: how many threads to multiply with.
    """

    def __init__(self, threads: int) -> None:
        torch.set_num_threads(threads)
        self._multiplications = [
            (precision, library, shape, multiply)
            for shape in SHAPES
            for precision, library, multiply in _multiplications(shape, threads)
        ]
        self.rounds = 0
        self._best: dict[tuple[str, str, str], float] = {}

    def measure(self) -> None:
        """Run one round over everything."""
        self.rounds += 1
        for precision, library, shape, multiply in self._multiplications:
            key = (precision, library, "x".join(map(str, shape)))
            rate = 2e-9 * math.prod(shape) / _fastest(multiply)
            self._best[key] = max(rate, self._best.get(key, 0.0))

    def peaks(self) -> dict[str, dict[str, Any]]:
        """For each precision: the peak in GFLOP/s, which library and shape reached it, and what each one reached."""
        result: dict[str, dict[str, Any]] = {}
        for (precision, library, shape), rate in sorted(self._best.items(), key=lambda item: -item[1]):
            peaks = result.setdefault(
                precision, {"gflops": round(rate, 1), "library": library, "shape": shape, "rounds": self.rounds}
            )
            peaks.setdefault("each", {}).setdefault(library, {})[shape] = round(rate, 1)
        return result


def _fastest(multiply: Multiply) -> float:
    multiply()
    best, until = float("inf"), time.perf_counter() + SECONDS
    while time.perf_counter() < until:
        started = time.perf_counter()
        multiply()
        best = min(best, time.perf_counter() - started)
    return best


def _multiplications(shape: tuple[int, int, int], threads: int) -> Iterator[tuple[str, str, Multiply]]:
    tokens, wide_in, wide_out = shape
    generator = np.random.default_rng(0)
    left = generator.standard_normal((tokens, wide_in), dtype=np.float32)
    right = generator.standard_normal((wide_in, wide_out), dtype=np.float32)
    left8 = generator.integers(0, 128, (tokens, wide_in), dtype=np.uint8)
    right8 = generator.integers(-127, 128, (wide_in, wide_out), dtype=np.int8)
    yield "float32", "torch", _torch(torch.from_numpy(left), torch.from_numpy(right))
    yield "bfloat16", "torch", _torch(torch.from_numpy(left).bfloat16(), torch.from_numpy(right).bfloat16())
    yield "int8", "torch", _torch_int8(torch.from_numpy(left8.astype(np.int8)), torch.from_numpy(right8))
    yield "float32", "onnxruntime", _onnxruntime("MatMul", left, right, threads)
    yield "int8", "onnxruntime", _onnxruntime("MatMulInteger", left8, right8, threads)
    yield "float32", "openvino", _openvino(left, right, "f32", threads)
    yield "bfloat16", "openvino", _openvino(left, right, "bf16", threads)
    yield "int8", "openvino", _openvino(left, right8, "f32", threads)


def _torch(left: torch.Tensor, right: torch.Tensor) -> Multiply:
    weight = right.T.contiguous()

    def multiply() -> object:
        with torch.inference_mode():
            return torch.nn.functional.linear(left, weight)

    return multiply


def _torch_int8(left: torch.Tensor, right: torch.Tensor) -> Multiply:
    return lambda: torch._int_mm(left, right)


def _onnxruntime(operator: str, left: np.ndarray, right: np.ndarray, threads: int) -> Multiply:
    kinds = {"MatMul": (TensorProto.FLOAT, TensorProto.FLOAT), "MatMulInteger": (TensorProto.UINT8, TensorProto.INT32)}
    kind_in, kind_out = kinds[operator]
    graph = helper.make_graph(
        [helper.make_node(operator, ["left", "right"], ["product"])],
        operator,
        [helper.make_tensor_value_info("left", kind_in, left.shape)],
        [helper.make_tensor_value_info("product", kind_out, (len(left), right.shape[1]))],
        [numpy_helper.from_array(right, "right")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    checker.check_model(model)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return lambda: session.run(None, {"left": left})


def _openvino(left: np.ndarray, right: np.ndarray, precision: str, threads: int) -> Multiply:
    """int8 weights are multiplied with inputs quantised to 8 bits on the way in, as in a quantised model."""
    operators = openvino.opset13
    given = operators.parameter(left.shape, dtype=np.float32)
    if right.dtype == np.int8:
        ranges = [operators.constant(np.float32(edge)) for edge in (-4.0, 4.0, -4.0, 4.0)]
        source = operators.fake_quantize(given, *ranges, 256)
        weights = operators.convert(operators.constant(right), np.float32)
        weight = operators.multiply(weights, operators.constant(np.float32(0.01)))
    else:
        source, weight = given, operators.constant(right)
    model = openvino.Model([operators.matmul(source, weight, False, False)], [given])
    settings = {"INFERENCE_PRECISION_HINT": precision, "INFERENCE_NUM_THREADS": threads, "NUM_STREAMS": 1}
    request = openvino.Core().compile_model(model, "CPU", settings).create_infer_request()
    request.set_input_tensor(openvino.Tensor(left, shared_memory=True))
    return request.infer


if __name__ == "__main__":
    floor = Floor(len(os.sched_getaffinity(0)))
    floor.measure()
    print(json.dumps(floor.peaks(), indent=1))
