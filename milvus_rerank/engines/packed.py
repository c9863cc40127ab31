"""Forward pass without padding: the tokens of all pairs in one row, with attention inside each pair only."""

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from milvus_rerank.engines.base import Batch
from milvus_rerank.engines.packed_encoder import HAS_WINDOWS, PackedEncoder, attend

if TYPE_CHECKING:
    from milvus_rerank.engines.torch_engine import ToDevice

NAME = "milvus_rerank_packed"  # of the attention, in transformers' registry

MODEL_TYPES = ("bert", "roberta", "xlm-roberta", "modernbert")
"""Types of models that run without padding."""


def can_pack(model: Any, device: str, dtype: str) -> bool:
    """Tell whether a model runs without padding.

    :param model: a transformers model for sequence classification.
    :param device: the device that it runs on.
    :param dtype: the precision of its weights.
    :returns: True for :data:`MODEL_TYPES` on a CUDA device in half precision.
    """
    if not device.startswith("cuda") or dtype == "float32":
        return False
    model_type = model.config.model_type
    return model_type in MODEL_TYPES and (model_type != "modernbert" or HAS_WINDOWS)


class PackedClassifier:
    """Run a sequence classification model on packed pairs.

    A padded batch spends time on padding in every layer. Here the tokens of all pairs form one row of shape
    ``(1, tokens)``, positions start anew for each pair, and attention stays inside a pair.

    :param model: the model; its attention is replaced.
    """

    def __init__(self, model: Any) -> None:
        from transformers import AttentionInterface, AttentionMaskInterface  # seconds, and not needed on a CPU

        AttentionInterface.register(NAME, packed_attention)
        AttentionMaskInterface.register(NAME, _no_mask)
        model.set_attn_implementation(NAME)
        config = model.config
        if config.model_type != "modernbert":
            model.base_model.encoder = PackedEncoder(model.base_model.encoder, config)
        padding = config.pad_token_id if config.model_type in ("roberta", "xlm-roberta") else None
        self._first_position = 0 if padding is None else padding + 1
        self._mean = getattr(config, "classifier_pooling", "cls") == "mean"
        if config.model_type == "modernbert":
            model.base_model.register_forward_hook(self._pool, with_kwargs=True)

    def __call__(self, model: Any, batch: Batch, to_device: "ToDevice") -> torch.Tensor:
        """Run the model on a batch and return its logits, shape ``(pairs, labels)``."""
        mask = batch.attention_mask.astype(bool)
        lengths = mask.sum(axis=1)
        ends = np.cumsum(lengths)
        inputs = {
            "input_ids": batch.input_ids[mask],
            "position_ids": np.arange(ends[-1]) - np.repeat(ends - lengths, lengths) + self._first_position,
        }
        if batch.token_type_ids is not None:
            inputs["token_type_ids"] = batch.token_type_ids[mask]
        bounds = to_device(np.concatenate([[0], ends])).to(torch.int32)
        logits: torch.Tensor = model(
            **{name: to_device(array)[None] for name, array in inputs.items()},
            cu_seq_lens_q=bounds,
            max_length_q=int(lengths.max()),
        ).logits
        return logits

    def _pool(self, module: Any, inputs: Any, options: dict[str, Any], output: Any) -> Any:
        """Replace the hidden states of tokens by one for each pair, shape ``(pairs, 1, width)``.

        It is that of the first token, or the mean over the pair. The head sees the only token of each pair.
        """
        states, bounds = output[0][0], options["cu_seq_lens_q"].long()
        if self._mean:
            lengths = bounds.diff()
            pairs = torch.repeat_interleave(lengths, output_size=len(states))
            sums = torch.zeros(len(lengths), states.shape[1], device=states.device)
            pooled = (sums.index_add_(0, pairs, states.float()) / lengths[:, None]).to(states.dtype)
        else:
            pooled = states[bounds[:-1]]
        output.last_hidden_state = pooled[:, None]
        return output


def packed_attention(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    cu_seq_lens_q: torch.Tensor,
    max_length_q: int,
    sliding_window: int | None = None,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """Attend within pairs, as transformers calls an attention function.

    :param module: the attention module.
    :param query: shape ``(1, heads, tokens, head size)``, as are ``key`` and ``value``.
    :param key: keys.
    :param value: values.
    :param attention_mask: None.
    :param cu_seq_lens_q: the first token of each pair, then the number of all tokens; int32, shape ``(pairs + 1,)``.
    :param max_length_q: the tokens of the longest pair.
    :param sliding_window: a token sees fewer than this many tokens on each side; None for all.
    :returns: shape ``(1, tokens, heads, head size)``, and None for the weights.
    """
    query, key, value = (states[0].transpose(0, 1) for states in (query, key, value))
    window = None if sliding_window is None else sliding_window - 1
    output = attend(query, key, value, cu_seq_lens_q, cu_seq_lens_q, max_length_q, max_length_q, window)
    return output[None], None


def _no_mask(**_: Any) -> None:
    """Return None: the bounds of the pairs say what a token sees."""
