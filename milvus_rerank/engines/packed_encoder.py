"""The encoder of BERT's family on packed pairs: the tokens of all pairs in one row, attention inside each pair only."""

from inspect import signature
from typing import Any

import torch
from torch.nn.attention.varlen import varlen_attn  # its kernels need a CUDA device and half precision

HAS_WINDOWS = "window_size" in signature(varlen_attn).parameters
"""Whether this torch's attention without padding has windows, which ModernBERT needs."""


class PackedEncoder(torch.nn.Module):
    """Layers of BERT's family on packed pairs, with fewer and larger kernels than the model's own.

    Queries, keys and values come from one product of matrices. The last layer computes keys and values for all tokens,
    and everything else for the first token of each pair alone, which is all that the classifier reads.

    :param encoder: the encoder of a transformers model; its weights are shared.
    :param config: the model's configuration.
    """

    def __init__(self, encoder: Any, config: Any) -> None:
        super().__init__()
        self._heads = config.num_attention_heads
        self._layers = [_Layer(layer) for layer in encoder.layer]
        self._activation = encoder.layer[0].intermediate.intermediate_act_fn
        # A private function of torch: there since 1.11; without it, GELU has a kernel of its own.
        self._gelu_in_product = config.hidden_act == "gelu" and hasattr(torch, "_addmm_activation")

    def forward(
        self,
        hidden_states: torch.Tensor,
        *_: Any,
        cu_seq_lens_q: torch.Tensor,
        max_length_q: int,
        **__: Any,
    ) -> Any:
        """Return the first token's last hidden state of each pair, shape ``(pairs, 1, width)``.

        :param hidden_states: shape ``(1, tokens, width)``.
        :param cu_seq_lens_q: the first token of each pair, then the number of all tokens; int32, ``(pairs + 1,)``.
        :param max_length_q: the tokens of the longest pair.
        :returns: the output of a transformers encoder.
        """
        from transformers.modeling_outputs import BaseModelOutputWithPastAndCrossAttentions

        states = hidden_states[0]
        firsts = cu_seq_lens_q[:-1].long()
        single = torch.arange(len(cu_seq_lens_q), dtype=torch.int32, device=cu_seq_lens_q.device)
        for number, layer in enumerate(self._layers):
            last = number == len(self._layers) - 1
            states = self._run(layer, states, cu_seq_lens_q, max_length_q, (firsts, single) if last else None)
        return BaseModelOutputWithPastAndCrossAttentions(last_hidden_state=states[:, None])

    def _run(
        self,
        layer: "_Layer",
        states: torch.Tensor,
        bounds: torch.Tensor,
        longest: int,
        rows: tuple[torch.Tensor, torch.Tensor] | None,
    ) -> torch.Tensor:
        width = states.shape[1]
        if rows is None:
            query, key, value = self._project(states, layer.qkv, layer.qkv_bias)
            mixed = attend(query, key, value, bounds, bounds, longest, longest)
        else:
            key, value = self._project(states, layer.qkv[:, width:], layer.qkv_bias[width:])
            states = states[rows[0]]
            (query,) = self._project(states, layer.qkv[:, :width], layer.qkv_bias[:width])
            mixed = attend(query, key, value, rows[1], bounds, 1, longest)
        states = self._norm(
            layer.first_norm, torch.addmm(layer.output_bias, mixed.reshape(-1, width), layer.output), states
        )
        inner = self._up(layer, states)
        return self._norm(layer.second_norm, torch.addmm(layer.down_bias, inner, layer.down), states)

    @staticmethod
    def _norm(norm: Any, product: torch.Tensor, states: torch.Tensor) -> torch.Tensor:
        normed: torch.Tensor = norm(product + states)
        return normed

    def _up(self, layer: "_Layer", states: torch.Tensor) -> torch.Tensor:
        """Return the feed-forward part's inner states, activated."""
        if self._gelu_in_product and states.is_cuda:
            # GELU at the end of the product's own kernel. There it is the tanh form, which differs from the exact one
            # by less than half precision does (docs/gpu.md has both against float32).
            return torch._addmm_activation(layer.up_bias, states, layer.up, use_gelu=True)
        inner: torch.Tensor = self._activation(torch.addmm(layer.up_bias, states, layer.up))
        return inner

    def _project(self, states: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Return projections that lie side by side in a weight, each of shape ``(tokens, heads, head size)``."""
        width = states.shape[1]
        product = torch.addmm(bias, states, weight)
        return product.view(len(states), -1, self._heads, width // self._heads).unbind(1)


class _Layer:
    """Weights of a layer, as factors of products of matrices; those of queries, keys and values side by side."""

    def __init__(self, layer: Any) -> None:
        attention, output = layer.attention.self, layer.attention.output
        projections = (attention.query, attention.key, attention.value)
        with torch.no_grad():
            fused = torch.cat([projection.weight for projection in projections])
            biases = torch.cat([projection.bias for projection in projections])
            width = len(fused) // 3
            for index, projection in enumerate(projections):  # so that no weight is held twice
                projection.weight.data = fused[index * width : (index + 1) * width]
        self.qkv, self.qkv_bias = fused.t(), biases
        self.output, self.output_bias, self.first_norm = output.dense.weight.t(), output.dense.bias, output.LayerNorm
        self.up, self.up_bias = layer.intermediate.dense.weight.t(), layer.intermediate.dense.bias
        down = layer.output
        self.down, self.down_bias, self.second_norm = down.dense.weight.t(), down.dense.bias, down.LayerNorm


def attend(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    query_bounds: torch.Tensor,
    key_bounds: torch.Tensor,
    most_queries: int,
    most_keys: int,
    window: int | None = None,
) -> torch.Tensor:
    """Attend within pairs.

    :param query: shape ``(queries, heads, head size)``.
    :param key: shape ``(tokens, heads, head size)``, as is ``value``.
    :param value: values.
    :param query_bounds: the first query of each pair, then the number of all queries; int32, shape ``(pairs + 1,)``.
    :param key_bounds: the first token of each pair, then the number of all tokens.
    :param most_queries: the most queries of a pair.
    :param most_keys: the most tokens of a pair.
    :param window: the most tokens that a token sees on each side; None for all. Queries are then all tokens.
    :returns: shape ``(queries, heads, head size)``.
    """
    if not query.is_cuda:
        return _masked_attention(query, key, value, query_bounds, key_bounds, window)
    options: dict[str, Any] = {} if window is None else {"window_size": (window, window)}
    # The scale is the kernel's default: torch 2.10 has no argument for it.
    output: Any = varlen_attn(query, key, value, query_bounds, key_bounds, most_queries, most_keys, **options)
    return output  # type: ignore[no-any-return]


def _masked_attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    query_bounds: torch.Tensor,
    key_bounds: torch.Tensor,
    window: int | None,
) -> torch.Tensor:
    """Attend with a block-diagonal mask of all tokens: the definition, for devices without the kernel."""
    queries, tokens = (torch.arange(len(states), device=states.device) for states in (query, key))
    mask = torch.bucketize(queries, query_bounds[1:], right=True)[:, None] == torch.bucketize(
        tokens, key_bounds[1:], right=True
    )
    if window is not None:
        mask &= (queries[:, None] - tokens).abs() <= window
    query, key, value = (part.transpose(0, 1)[None] for part in (query, key, value))
    return torch.nn.functional.scaled_dot_product_attention(query, key, value, attn_mask=mask)[0].transpose(0, 1)
