"""The rerank functions, by the names that ``pymilvus.model.reranker`` gives them."""

from milvus_rerank.reranker.base import BaseRerankFunction
from milvus_rerank.reranker.bge import BGERerankFunction
from milvus_rerank.reranker.cross_encoder import CrossEncoderRerankFunction
from milvus_rerank.reranker.lexical import LexicalRerankFunction

__all__ = ["BGERerankFunction", "BaseRerankFunction", "CrossEncoderRerankFunction", "LexicalRerankFunction"]
