"""Kernels of Triton give what torch's operations give: on a GPU, or in Triton's interpreter on a CPU."""

import os
import subprocess
import sys

import pytest
import torch

COMPARE = """
import sys
import torch
from milvus_rerank.engines.layer_ops import LayerOps, pick_ops
from milvus_rerank.engines.triton_ops import TritonOps

device = sys.argv[1]
plain, kernels = LayerOps(), TritonOps() if device == "cpu" else pick_ops(torch.ones(4, 4, device=device))
assert kernels.name == "triton"
torch.manual_seed(0)


def check(found, expected):
    tolerance = {torch.float32: 1e-5, torch.float16: 1e-2, torch.bfloat16: 7e-2}[expected.dtype]
    torch.testing.assert_close(found, expected, atol=tolerance, rtol=tolerance)


for dtype in (torch.float32, torch.bfloat16) if device == "cpu" else (torch.float16,):  # compiling takes long
    options = {"device": device, "dtype": dtype}
    for width in (48, 384):
        product, states = torch.randn(5, width, **options), torch.randn(5, width, **options)
        for bias in (True, False):
            norm = torch.nn.LayerNorm(width, bias=bias, **options)
            torch.nn.init.normal_(norm.weight)
            for keep in (False, True):
                with torch.inference_mode():
                    sums = [states.clone(), states.clone()]
                    expected = plain.add_norm(product.clone(), sums[0], norm, keep=keep)
                    check(kernels.add_norm(product.clone(), sums[1], norm, keep=keep), expected)
                    check(sums[1], product + states if keep else states)
        check(kernels.gelu(4 * product), plain.gelu(4 * product))
        check(kernels.gated_gelu(product), plain.gated_gelu(product))
    for heads, size in ((3, 64), (12, 32), (2, 24)):
        states = torch.randn(7, 3, heads, size, **options)
        turned = [states.clone(), states.clone()]
        angles = torch.randn(7, size // 2, device=device)
        for ops, target in zip((plain, kernels), turned):
            ops.rotate(target, angles.cos(), angles.sin())
        assert (turned[0] - states).abs().max() > 0.1
        check(turned[1], turned[0])
print("equal")
"""


@pytest.mark.parametrize(
    "device",
    [
        "cpu",
        pytest.param(
            "cuda",
            marks=pytest.mark.skipif(
                not torch.cuda.is_available(), reason="needs a CUDA device, and this machine has none"
            ),
        ),
    ],
)
def test_kernels_equal_torchs_operations(device: str) -> None:
    pytest.importorskip("triton", reason="needs triton, which comes with torch for CUDA")
    environment = os.environ | ({"TRITON_INTERPRET": "1"} if device == "cpu" else {})
    run = subprocess.run(
        [sys.executable, "-c", COMPARE, device], env=environment, capture_output=True, text=True, check=False
    )
    assert run.stdout == "equal\n", run.stderr
