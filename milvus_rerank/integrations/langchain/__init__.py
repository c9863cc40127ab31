"""LangChain: a document compressor, a cross-encoder, retrievers, and a tool for agents."""

from milvus_rerank.integrations.core import require_framework

require_framework("the LangChain adapter", "langchain-core", "1.3", "langchain")

from milvus_rerank.integrations.langchain.compressor import RerankCompressor
from milvus_rerank.integrations.langchain.cross_encoder import RerankCrossEncoder
from milvus_rerank.integrations.langchain.retrievers import TwoStageRetriever, candidate_retriever, search_tool

__all__ = ["RerankCompressor", "RerankCrossEncoder", "TwoStageRetriever", "candidate_retriever", "search_tool"]
