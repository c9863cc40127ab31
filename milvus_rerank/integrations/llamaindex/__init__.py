"""LlamaIndex: a node postprocessor."""

from milvus_rerank.integrations.core import require_framework

require_framework("the LlamaIndex adapter", "llama-index-core", "0.13", "llamaindex")

from milvus_rerank.integrations.llamaindex.postprocessor import RerankPostprocessor

__all__ = ["RerankPostprocessor"]
