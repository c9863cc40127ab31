"""Rerank functions, with the names of ``pymilvus.model.reranker``."""

from milvus_rerank.reranker.base import BaseRerankFunction
from milvus_rerank.reranker.bge import BGERerankFunction
from milvus_rerank.reranker.cross_encoder import CrossEncoderRerankFunction
from milvus_rerank.reranker.lexical import LexicalRerankFunction
from milvus_rerank.reranker.remote.options import RetryPolicy
from milvus_rerank.reranker.remote.services import (
    CohereRerankFunction,
    HTTPRerankFunction,
    JinaRerankFunction,
    TEIRerankFunction,
    VoyageRerankFunction,
)

__all__ = [
    "BGERerankFunction",
    "BaseRerankFunction",
    "CohereRerankFunction",
    "CrossEncoderRerankFunction",
    "HTTPRerankFunction",
    "JinaRerankFunction",
    "LexicalRerankFunction",
    "RetryPolicy",
    "TEIRerankFunction",
    "VoyageRerankFunction",
]
