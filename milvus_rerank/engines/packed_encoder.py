"""Encoders on packed pairs: the tokens of all pairs in one row, attention inside each pair only."""

from inspect import signature
from typing import Any

import torch
from torch.nn.attention.varlen import varlen_attn  # its kernels need a CUDA device and half precision

from milvus_rerank.engines.layer_ops import LayerOps, pick_ops

HAS_WINDOWS = "window_size" in signature(varlen_attn).parameters
"""Whether this torch's attention without padding has windows, which ModernBERT needs."""


class PackedBert(torch.nn.Module):
    """Layers of BERT's family on packed pairs, with fewer and larger kernels than the model's own.

    Queries, keys and values come from one product of matrices. The last layer computes keys and values for all tokens,
    and everything else for the first token of each pair alone, which is all that the classifier reads.

    :param encoder: the encoder of a transformers model; its weights are shared.
    :param config: the model's configuration.
    """

    def __init__(self, encoder: Any, config: Any) -> None:
        super().__init__()
        self._heads = config.num_attention_heads
        self._layers = [_BertLayer(layer) for layer in encoder.layer]
        self.ops: LayerOps = pick_ops(self._layers[0].qkv)
        self._activation = None if config.hidden_act == "gelu" else encoder.layer[0].intermediate.intermediate_act_fn

    def forward(
        self, hidden_states: torch.Tensor, *_: Any, cu_seq_lens_q: torch.Tensor, max_length_q: int, **__: Any
    ) -> Any:
        """Return the first token's last hidden state of each pair, shape ``(pairs, 1, width)``.

        :param hidden_states: shape ``(1, tokens, width)``.
        :param cu_seq_lens_q: the first token of each pair, then the number of all tokens; int32, ``(pairs + 1,)``.
        :param max_length_q: the tokens of the longest pair.
        :returns: the output of a transformers encoder.
        """
        from transformers.modeling_outputs import BaseModelOutputWithPastAndCrossAttentions

        states = hidden_states[0]
        for layer in self._layers[:-1]:
            query, key, value = _project(states, layer.qkv, layer.qkv_bias, self._heads).unbind(1)
            mixed = attend(query, key, value, cu_seq_lens_q, cu_seq_lens_q, max_length_q, max_length_q)
            states = self._rest(layer, mixed, states)
        layer, width = self._layers[-1], states.shape[1]
        key, value = _project(states, layer.qkv[:, width:], layer.qkv_bias[width:], self._heads).unbind(1)
        states = states[cu_seq_lens_q[:-1].long()]
        query = _project(states, layer.qkv[:, :width], layer.qkv_bias[:width], self._heads)[:, 0]
        single = torch.arange(len(cu_seq_lens_q), dtype=torch.int32, device=cu_seq_lens_q.device)
        states = self._rest(layer, attend(query, key, value, single, cu_seq_lens_q, 1, max_length_q), states)
        return BaseModelOutputWithPastAndCrossAttentions(last_hidden_state=states[:, None])

    def _rest(self, layer: "_BertLayer", mixed: torch.Tensor, states: torch.Tensor) -> torch.Tensor:
        """Return a layer's output from that of its attention."""
        product = torch.addmm(layer.output_bias, mixed.reshape(states.shape), layer.output)
        states = self.ops.add_norm(product, states, layer.first_norm)
        inner = torch.addmm(layer.up_bias, states, layer.up)
        inner = self.ops.gelu(inner) if self._activation is None else self._activation(inner)
        return self.ops.add_norm(torch.addmm(layer.down_bias, inner, layer.down), states, layer.second_norm)


class _BertLayer:
    """Weights of a layer, as factors of products of matrices; those of queries, keys and values side by side."""

    def __init__(self, layer: Any) -> None:
        attention, output, down = layer.attention.self, layer.attention.output, layer.output
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
        self.down, self.down_bias, self.second_norm = down.dense.weight.t(), down.dense.bias, down.LayerNorm


class PackedModernBert(torch.nn.Module):
    """The base model of ModernBERT on packed pairs, with fewer and larger kernels than its own.

    :param model: the base model; its weights are shared.
    :param config: the model's configuration.
    """

    def __init__(self, model: Any, config: Any) -> None:
        super().__init__()
        self._model = model
        self._heads = config.num_attention_heads
        self._mean = config.classifier_pooling == "mean"
        self._gelu = config.hidden_activation == "gelu"
        self.ops: LayerOps = pick_ops(model.layers[0].attn.Wqkv.weight)

    def forward(
        self,
        input_ids: torch.Tensor,
        position_ids: torch.Tensor,
        cu_seq_lens_q: torch.Tensor,
        max_length_q: int,
        **_: Any,
    ) -> Any:
        """Return one hidden state of each pair, shape ``(pairs, 1, width)``: the first token's or the mean.

        :param input_ids: shape ``(1, tokens)``.
        :param position_ids: positions within the pairs, same shape.
        :param cu_seq_lens_q: the first token of each pair, then the number of all tokens; int32, ``(pairs + 1,)``.
        :param max_length_q: the tokens of the longest pair.
        :returns: the output of a transformers model.
        """
        from transformers.modeling_outputs import BaseModelOutput

        model, ops = self._model, self.ops
        normed = model.embeddings(input_ids)[0]
        states = normed.clone()  # the sum of all layers' outputs, which the operations write over
        exact = torch.empty(0, device=states.device)  # angles in float32, as their precision is that of positions
        turns = {}
        for kind in set(model.config.layer_types):
            cosines, sines = model.rotary_emb(exact, position_ids, kind)
            half = cosines.shape[-1] // 2  # the second half of a head has the angles of the first
            turns[kind] = cosines[0, :, :half].contiguous(), sines[0, :, :half].contiguous()
        following = [*(layer.attn_norm for layer in model.layers[1:]), model.final_norm]
        for layer, next_norm in zip(model.layers, following, strict=True):
            attention = layer.attn
            qkv = attention.Wqkv(normed).view(len(normed), 3, self._heads, -1)
            ops.rotate(qkv, *turns[layer.attention_type])
            query, key, value = qkv.unbind(1)
            window = None if attention.sliding_window is None else attention.sliding_window - 1
            mixed = attend(query, key, value, cu_seq_lens_q, cu_seq_lens_q, max_length_q, max_length_q, window)
            normed = ops.add_norm(attention.Wo(mixed.reshape(states.shape)), states, layer.mlp_norm, keep=True)
            product = layer.mlp.Wo(self._inner(layer.mlp, normed))
            normed = ops.add_norm(product, states, next_norm, keep=True)
        return BaseModelOutput(last_hidden_state=self._pool(normed, cu_seq_lens_q.long())[:, None])

    def _inner(self, mlp: Any, normed: torch.Tensor) -> torch.Tensor:
        inner: torch.Tensor = mlp.Wi(normed)
        if self._gelu:
            return self.ops.gated_gelu(inner)
        values, gate = inner.chunk(2, dim=-1)
        gated: torch.Tensor = mlp.act(values) * gate
        return gated

    def _pool(self, states: torch.Tensor, bounds: torch.Tensor) -> torch.Tensor:
        if not self._mean:
            return states[bounds[:-1]]
        lengths = bounds.diff()
        pairs = torch.repeat_interleave(lengths, output_size=len(states))
        sums = torch.zeros(len(lengths), states.shape[1], device=states.device)
        return (sums.index_add_(0, pairs, states.float()) / lengths[:, None]).to(states.dtype)


def _project(states: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, heads: int) -> torch.Tensor:
    """Return projections that lie side by side in a weight, shape ``(tokens, projections, heads, head size)``."""
    return torch.addmm(bias, states, weight).view(len(states), -1, heads, states.shape[1] // heads)


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
    attended: torch.Tensor = output
    return attended


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
