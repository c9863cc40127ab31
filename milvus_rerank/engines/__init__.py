"""Engines, which turn padded batches of token ids into logits."""

from milvus_rerank.engines.base import Batch, Engine
from milvus_rerank.engines.constant import ConstantEngine

__all__ = ["Batch", "ConstantEngine", "Engine"]
