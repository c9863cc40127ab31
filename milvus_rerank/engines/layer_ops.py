"""Operations between the matrix products of encoder layers: their definitions, and the choice of faster kernels."""

import logging
from typing import Any

import torch
from torch.nn.functional import gelu

logger = logging.getLogger(__name__)


class LayerOps:
    """Operations of an encoder's layers as torch has them. States have shape ``(tokens, width)``."""

    name = "torch"

    def add_norm(self, product: torch.Tensor, states: torch.Tensor, norm: Any, *, keep: bool = False) -> torch.Tensor:
        """Add two tensors and normalise the sum.

        :param product: the output of a layer's part; its memory may be used for the result.
        :param states: the input of that part.
        :param norm: a LayerNorm, with or without a bias.
        :param keep: whether to write the sum over ``states``.
        :returns: the normalised sum.
        """
        total = states.add_(product) if keep else product + states
        normed: torch.Tensor = norm(total)
        return normed

    def gelu(self, states: torch.Tensor) -> torch.Tensor:
        """Return the exact GELU, with the error function; the memory of ``states`` may be used for it."""
        return gelu(states)

    def gated_gelu(self, states: torch.Tensor) -> torch.Tensor:
        """Return the GELU of each row's first half times its second half, shape ``(tokens, width / 2)``."""
        values, gate = states.chunk(2, dim=-1)
        return gelu(values) * gate

    def rotate(self, states: torch.Tensor, cosines: torch.Tensor, sines: torch.Tensor) -> None:
        """Rotate queries and keys in place, as rotary positions do.

        :param states: queries, keys and values, shape ``(tokens, 3, heads, head size)``.
        :param cosines: of a token's angles, float32, shape ``(tokens, head size / 2)``, as are ``sines``.
        :param sines: sines.
        """
        first, second = states[:, :2].float().chunk(2, dim=-1)
        cosines, sines = cosines[:, None, None], sines[:, None, None]
        states[:, :2] = torch.cat([first * cosines - second * sines, second * cosines + first * sines], dim=-1)


def pick_ops(weight: torch.Tensor) -> LayerOps:
    """Return kernels of Triton if they run on a weight's device, else torch's operations.

    Triton comes with torch for CUDA and compiles each of four kernels once for a model's widths and precision, never
    for a number of tokens. It needs a C compiler, and keeps what it made in its cache on disk.

    :param weight: a matrix of a layer, whose precision and width are those of the states.
    :returns: the operations.
    """
    if not weight.is_cuda:
        return LayerOps()
    try:
        from milvus_rerank.engines.triton_ops import TritonOps

        ops = TritonOps()
        _try(ops, weight)
    except Exception as error:  # noqa: BLE001 (of a compiler, a driver or any version of Triton: the result is the same)
        logger.info("Triton's kernels do not run here, torch's operations take their place: %s", error)
        return LayerOps()
    return ops


def _try(ops: LayerOps, weight: torch.Tensor) -> None:
    """Run every operation once; raise what it raises."""
    width = weight.shape[-1]
    norm = torch.nn.LayerNorm(width, device=weight.device, dtype=weight.dtype)
    states = torch.ones(16, width, device=weight.device, dtype=weight.dtype)
    angles = torch.ones(16, 16, device=weight.device)
    with torch.inference_mode():
        ops.add_norm(states.clone(), states, norm)
        ops.gelu(states)
        ops.gated_gelu(torch.ones(16, 32, device=weight.device, dtype=weight.dtype))
        ops.rotate(torch.ones(16, 3, 1, 32, device=weight.device, dtype=weight.dtype), angles, angles)
    torch.cuda.synchronize(weight.device)
