"""Adapters for LangChain, LlamaIndex, Haystack and MCP. Each module needs the extra of its name."""
