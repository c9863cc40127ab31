"""MCP: a server whose tools search, rerank and list models, for agents."""

from milvus_rerank.integrations.core import require_framework

require_framework("milvus-rerank mcp", "mcp", "2.3", "mcp")

from milvus_rerank.integrations.mcp.server import make_server

__all__ = ["make_server"]
