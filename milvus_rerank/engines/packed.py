"""Forward pass without padding: the tokens of all pairs in one row, with attention inside each pair only."""

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from milvus_rerank.engines.base import Batch
from milvus_rerank.engines.packed_encoder import HAS_WINDOWS, PackedBert, PackedModernBert

if TYPE_CHECKING:
    from milvus_rerank.engines.torch_engine import ToDevice

NAME = "milvus_rerank_packed"  # in transformers' registries

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

    :param model: the model; its encoder is replaced.
    """

    def __init__(self, model: Any) -> None:
        from transformers import AttentionInterface, AttentionMaskInterface  # seconds, and not needed on a CPU

        config = model.config
        if config.model_type == "modernbert":
            model.model = PackedModernBert(model.model, config)
        else:
            model.base_model.encoder = PackedBert(model.base_model.encoder, config)
            # The model would make a mask of all tokens by all tokens for its own attention, which never runs.
            AttentionInterface.register(NAME, AttentionInterface()["sdpa"])
            AttentionMaskInterface.register(NAME, _no_mask)
            model.set_attn_implementation(NAME)
        padding = config.pad_token_id if config.model_type in ("roberta", "xlm-roberta") else None
        self._first_position = 0 if padding is None else padding + 1

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


def _no_mask(**_: Any) -> None:
    """Return None: the bounds of the pairs say what a token sees."""
