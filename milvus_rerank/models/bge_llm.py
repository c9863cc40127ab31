"""BGE's layerwise and lightweight rerankers, built on stock models of transformers.

FlagEmbedding and the models' repositories bring code for them that transformers 5 does not run. Both are stock models
with a score head on each layer. ``bge-reranker-v2-minicpm-layerwise`` is a Llama whose scalings can be multiplied into
its weights. ``bge-reranker-v2.5-gemma2-lightweight`` is a Gemma 2 that merges document tokens between layers. Layers
after the layer whose head is read are not loaded. Scores equal those of FlagEmbedding 1.4.2 on the same weights.
"""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import Gemma2Config, LlamaConfig
from transformers.models.gemma2.modeling_gemma2 import Gemma2Model, Gemma2PreTrainedModel
from transformers.models.llama.modeling_llama import LlamaModel, LlamaPreTrainedModel

from milvus_rerank.errors import ModelError
from milvus_rerank.models.model_type import cache_argument


class _Head(torch.nn.Module):
    """Score head of one layer, under the name that the weight files use."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.linear_head = torch.nn.Linear(width, 1, bias=False)

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        """Return one logit for each state."""
        logits: torch.Tensor = self.linear_head(states)
        return logits


class LayerwiseOutput(NamedTuple):
    """Logits of the last position, shape ``(pairs, 1, 1)``, and the keys and values of all tokens."""

    logits: torch.Tensor
    cache: Any


class LayerwiseModel(LlamaPreTrainedModel):  # type: ignore[misc]
    """First layers of a layerwise MiniCPM, with the score heads.

    :param config: the configuration from :func:`layerwise_config`.
    """

    def __init__(self, config: LlamaConfig) -> None:
        super().__init__(config)
        self.model = LlamaModel(config)
        self.lm_head = torch.nn.ModuleList(_Head(config.hidden_size) for _ in range(config.heads))
        self.post_init()

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        cache: Any = None,
        use_cache: bool = False,
    ) -> LayerwiseOutput:
        """Return the logits of the last position, shape ``(pairs, 1, 1)``, with the cache."""
        cache_name = cache_argument(self.model.forward) or "cache"
        output = self.model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            use_cache=use_cache,
            **{cache_name: cache},
        )
        logits = self.lm_head[self.config.head](output.last_hidden_state[:, -1:])
        return LayerwiseOutput(logits, getattr(output, cache_name))

    def fold(self) -> None:
        """Multiply MiniCPM's scalings into the weights. Call it once, after loading."""
        with torch.no_grad():
            self.model.embed_tokens.weight.mul_(self.config.scale_emb)
            for layer in self.model.layers:
                for part in (layer.self_attn.o_proj, layer.mlp.down_proj):
                    for weight in part.parameters():
                        weight.mul_(self.config.scale_states)


def layerwise_config(config: Mapping[str, Any], layer: int | None) -> LlamaConfig:
    """Return the configuration of :class:`LayerwiseModel` up to the layer whose head is read; None for the last."""
    if config.get("head_type", "simple") != "simple" or not config.get("head_multi", True):
        raise ModelError(
            f"expected head_type 'simple' and head_multi true, as bge-reranker-v2-minicpm-layerwise has them; "
            f"got {config.get('head_type')!r} and {config.get('head_multi')!r}"
        )
    first, count = config.get("start_layer", 8), config["num_hidden_layers"]
    chosen = _layer(layer, first, count, 1)
    stock = LlamaConfig(
        num_hidden_layers=chosen,
        rope_theta=_theta(config),
        **{name: config[name] for name in _SHARED if name in config},
    )
    stock.heads = count + 1 - first
    stock.head = chosen - first
    stock.scale_emb = config.get("scale_emb", 1)
    stock.scale_states = config.get("scale_depth", 1) / math.sqrt(count)
    return stock


class LightweightModel(Gemma2PreTrainedModel):  # type: ignore[misc]
    """First layers of a lightweight Gemma 2, with the score heads.

    :param config: the configuration from :func:`lightweight_config`.
    """

    def __init__(self, config: Gemma2Config) -> None:
        super().__init__(config)
        self.model = Gemma2Model(config)
        self.lm_head = torch.nn.ModuleList(_Head(config.hidden_size) for _ in range(config.heads))
        self.post_init()

    def forward(self, ids: torch.Tensor, lengths: NDArray[np.int64], bounds: NDArray[np.int64]) -> torch.Tensor:
        """Score pairs.

        :param ids: token ids, padded on the right, shape ``(pairs, tokens)``.
        :param lengths: the number of tokens in each row, without padding.
        :param bounds: the first token of each row's document and the token after its last, shape ``(pairs, 2)``.
        :returns: one logit per pair, float32.
        """
        config, model = self.config, self.model
        # The forward pass of Gemma2Model is not called: versions of transformers differ in what they scale, and where.
        states = torch.nn.functional.embedding(ids, model.embed_tokens.weight)
        states = states * torch.tensor(config.hidden_size**0.5, dtype=states.dtype)
        mask, turns = self._mask(states, lengths), self._turns(states)
        for number, layer in enumerate(model.layers):
            if config.compress_ratio > 1 and number > 0 and number in config.compress_layers:
                states, lengths, bounds = merge(states, lengths, bounds, config.compress_ratio)
                mask, turns = self._mask(states, lengths), self._turns(states)
            out = layer(states, position_embeddings=turns, attention_mask=mask)
            states = out[0] if isinstance(out, tuple) else out
        last = torch.as_tensor(lengths - 1, device=states.device)
        # Always the first head: FlagEmbedding reads that head when a single layer is requested.
        logits: torch.Tensor = self.lm_head[0](model.norm(states[torch.arange(len(last), device=states.device), last]))[
            :, 0
        ]
        cap = config.final_logit_softcapping
        return (logits if cap is None else torch.tanh(logits / cap) * cap).float()

    def _mask(self, states: torch.Tensor, lengths: NDArray[np.int64]) -> torch.Tensor:
        """Return the values to add to attention: zero for a row's earlier tokens, the lowest number for all else."""
        width = states.shape[1]
        ahead = torch.ones((width, width), dtype=torch.bool, device=states.device).triu(1)
        absent = torch.arange(width, device=states.device) >= torch.as_tensor(lengths, device=states.device)[:, None]
        hidden = ahead[None] | absent[:, None]
        least = torch.finfo(states.dtype).min
        return torch.zeros(hidden.shape, dtype=states.dtype, device=states.device).masked_fill(hidden, least)[:, None]

    def _turns(self, states: torch.Tensor) -> Any:
        positions = torch.arange(states.shape[1], device=states.device)[None]
        return self.model.rotary_emb(states, positions)


def lightweight_config(
    config: Mapping[str, Any], layer: int | None, compress_layers: tuple[int, ...], compress_ratio: int
) -> Gemma2Config:
    """Return the configuration of a lightweight model's first layers as a Gemma 2.

    :param config: the model's ``config.json``.
    :param layer: the layer whose states are scored; None for the last.
    :param compress_layers: the layers before which document tokens are merged.
    :param compress_ratio: the number of tokens merged into one.
    :returns: the configuration of :class:`LightweightModel`.
    :raises ModelError: if the form of the model is unknown, or that layer has no head.
    """
    if not config.get("layer_wise"):
        raise ModelError("expected layer_wise true, as bge-reranker-v2.5-gemma2-lightweight has it; got false")
    first, count, step = config.get("start_layer", 28), config["num_hidden_layers"], config.get("layer_sep", 28)
    chosen = _layer(layer, first, count, step)
    stock = Gemma2Config(
        num_hidden_layers=chosen,
        rope_theta=_theta(config),
        **{name: config[name] for name in (*_SHARED, *_GEMMA) if name in config},
        attn_logit_softcapping=None,  # FlagEmbedding's class runs torch's attention, which omits Gemma's cap
        attn_implementation="eager",  # the only implementation that all versions of transformers allow here
    )
    stock.heads = len(range(first, count + 1, step))
    stock.compress_layers = list(compress_layers)
    stock.compress_ratio = compress_ratio
    return stock


def merge(
    states: torch.Tensor, lengths: NDArray[np.int64], bounds: NDArray[np.int64], ratio: int
) -> tuple[torch.Tensor, NDArray[np.int64], NDArray[np.int64]]:
    """Replace neighbouring tokens of each document by their mean.

    :param states: shape ``(pairs, tokens, width)``, padded on the right.
    :param lengths: the number of tokens in each row, without padding.
    :param bounds: the first token of each row's document and the token after its last.
    :param ratio: the number of tokens merged into one; the last group of a document may be smaller.
    :returns: the new states, lengths and bounds.
    """
    rows = []
    for row, length, (start, end) in zip(states, lengths.tolist(), bounds.tolist(), strict=True):
        means = [part.mean(dim=0, keepdim=True) for part in row[start:end].split(ratio)] if end > start else []
        rows.append(torch.cat([row[:start], *means, row[end:length]]))
    merged = np.array([len(row) for row in rows])
    ends = bounds[:, 1] - (lengths - merged)
    return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True), merged, np.stack([bounds[:, 0], ends], axis=1)


_SHARED = (
    "attention_bias",
    "bos_token_id",
    "eos_token_id",
    "hidden_act",
    "hidden_size",
    "intermediate_size",
    "max_position_embeddings",
    "num_attention_heads",
    "num_key_value_heads",
    "pad_token_id",
    "rms_norm_eps",
    "vocab_size",
)
_GEMMA = (
    "final_logit_softcapping",
    "head_dim",
    "hidden_activation",
    "query_pre_attn_scalar",
    "sliding_window",
)


def _layer(layer: int | None, first: int, count: int, step: int) -> int:
    known = range(first, count + 1, step)
    chosen = count if layer is None else layer
    if chosen not in known:
        raise ModelError(f"the model has score heads on the layers {first} to {known[-1]}, got cutoff_layers={layer}")
    return chosen


def _theta(config: Mapping[str, Any]) -> float:
    if config.get("rope_scaling"):
        raise ModelError(f"rope_scaling is not supported, got {config['rope_scaling']!r}")
    return float(config.get("rope_theta") or (config.get("rope_parameters") or {}).get("rope_theta") or 10000.0)
