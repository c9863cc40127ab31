# ruff: noqa: ANN001, ANN202 (pointers of Triton have no type in Python)
"""Operations of encoder layers as kernels of Triton, which passes over the states once for several steps."""

from typing import Any

import torch
import triton
import triton.language as tl

from milvus_rerank.engines.layer_ops import LayerOps

_GELU_BLOCK = 1024


class TritonOps(LayerOps):
    """Operations of an encoder's layers, one kernel each. They compute in float32, whatever the states' precision."""

    name = "triton"

    def add_norm(self, product: torch.Tensor, states: torch.Tensor, norm: Any, *, keep: bool = False) -> torch.Tensor:
        """Add two tensors and normalise the sum, in place of ``product``."""
        rows, width = product.shape
        block = triton.next_power_of_2(width)
        _add_norm[(rows,)](
            product,
            states,
            norm.weight,
            norm.bias,
            norm.eps,
            width=width,
            block=block,
            has_bias=norm.bias is not None,
            keep=keep,
            num_warps=max(1, min(8, block // 256)),
        )
        return product

    def gelu(self, states: torch.Tensor) -> torch.Tensor:
        """Apply the exact GELU in place."""
        rows, width = states.shape
        _gelu[(rows, triton.cdiv(width, _GELU_BLOCK))](states, width=width, block=_GELU_BLOCK)
        return states

    def gated_gelu(self, states: torch.Tensor) -> torch.Tensor:
        """Multiply the GELU of each row's first half by its second half."""
        rows, width = states.shape
        output = states.new_empty(rows, width // 2)
        _gated_gelu[(rows, triton.cdiv(width // 2, 512))](states, output, width=width // 2, block=512, num_warps=2)
        return output

    def rotate(self, states: torch.Tensor, cosines: torch.Tensor, sines: torch.Tensor) -> None:
        """Rotate queries and keys in place."""
        rows, _, heads, size = states.shape
        half = size // 2
        if half & (half - 1):  # a block's sides are powers of two
            super().rotate(states, cosines, sines)
            return
        block = triton.next_power_of_2(2 * heads)
        _rotate[(rows,)](states, cosines, sines, heads=heads, half=half, block=block)


@triton.jit  # type: ignore[untyped-decorator]
def _add_norm(  # type: ignore[no-untyped-def]
    product,
    states,
    weight,
    bias,
    epsilon,
    width: tl.constexpr,
    block: tl.constexpr,
    has_bias: tl.constexpr,
    keep: tl.constexpr,
):
    """Normalise one row."""
    start = tl.program_id(0).to(tl.int64) * width
    columns = tl.arange(0, block)
    inside = columns < width
    total = tl.load(product + start + columns, mask=inside, other=0.0).to(tl.float32)
    total += tl.load(states + start + columns, mask=inside, other=0.0).to(tl.float32)
    if keep:
        tl.store(states + start + columns, total, mask=inside)
    centred = tl.where(inside, total - tl.sum(total, 0) / width, 0.0)
    normed = centred * tl.rsqrt(tl.sum(centred * centred, 0) / width + epsilon)
    normed *= tl.load(weight + columns, mask=inside, other=0.0).to(tl.float32)
    if has_bias:
        normed += tl.load(bias + columns, mask=inside, other=0.0).to(tl.float32)
    tl.store(product + start + columns, normed, mask=inside)


@triton.jit  # type: ignore[untyped-decorator]
def _gelu(states, width: tl.constexpr, block: tl.constexpr):  # type: ignore[no-untyped-def]
    """Apply GELU to a part of one row."""
    columns = tl.program_id(1) * block + tl.arange(0, block)
    inside = columns < width
    places = states + tl.program_id(0).to(tl.int64) * width + columns
    values = tl.load(places, mask=inside, other=0.0).to(tl.float32)
    tl.store(places, 0.5 * values * (1.0 + tl.math.erf(values * 0.7071067811865476)), mask=inside)


@triton.jit  # type: ignore[untyped-decorator]
def _gated_gelu(states, output, width: tl.constexpr, block: tl.constexpr):  # type: ignore[no-untyped-def]
    """Apply gated GELU to a part of one row; ``width`` is that of the output."""
    row = tl.program_id(0).to(tl.int64)
    columns = tl.program_id(1) * block + tl.arange(0, block)
    inside = columns < width
    places = states + row * (2 * width) + columns
    values = tl.load(places, mask=inside, other=0.0).to(tl.float32)
    gate = tl.load(places + width, mask=inside, other=0.0).to(tl.float32)
    values = 0.5 * values * (1.0 + tl.math.erf(values * 0.7071067811865476))
    tl.store(output + row * width + columns, values * gate, mask=inside)


@triton.jit  # type: ignore[untyped-decorator]
def _rotate(  # type: ignore[no-untyped-def]
    states, cosines, sines, heads: tl.constexpr, half: tl.constexpr, block: tl.constexpr
):
    """Rotate the queries and keys of one token."""
    token = tl.program_id(0).to(tl.int64)
    head = tl.arange(0, block)[:, None]  # queries' heads, then keys'
    column = tl.arange(0, half)[None, :]
    inside = (head < 2 * heads) & (column < half)
    places = states + token * (6 * heads * half) + head * (2 * half) + column
    first = tl.load(places, mask=inside, other=0.0).to(tl.float32)
    second = tl.load(places + half, mask=inside, other=0.0).to(tl.float32)
    cosine, sine = tl.load(cosines + token * half + column), tl.load(sines + token * half + column)
    tl.store(places, first * cosine - second * sine, mask=inside)
    tl.store(places + half, second * cosine + first * sine, mask=inside)
