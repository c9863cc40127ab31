"""Haystack: a ranker component."""

from milvus_rerank.integrations.core import require_framework

require_framework("the Haystack adapter", "haystack-ai", "3.0", "haystack")

from haystack.core.serialization import allow_deserialization_module

from milvus_rerank.integrations.haystack.ranker import MilvusRerankRanker

allow_deserialization_module(__name__)  # whoever imports this module trusts it: Pipeline.loads may make its component

__all__ = ["MilvusRerankRanker"]
