"""The MCP server with its tools ``rerank`` and ``list_models``."""

import asyncio
from typing import Any

from mcp.server import MCPServer
from mcp.server.mcpserver import Context

from milvus_rerank import __version__
from milvus_rerank.integrations.core import arerank_in_steps
from milvus_rerank.integrations.mcp.search import add_search
from milvus_rerank.integrations.mcp.tools import (
    READ_ONLY,
    Documents,
    Instruction,
    Models,
    Query,
    Results,
    Threshold,
    TopK,
    with_message,
)
from milvus_rerank.inventory import take_inventory
from milvus_rerank.reranker.base import BaseRerankFunction
from milvus_rerank.text_field import TextField


def make_server(
    reranker: BaseRerankFunction,
    client: Any = None,
    collections: tuple[str, ...] = (),
    *,
    embedder: str | None = None,
    text_field: TextField | None = None,
    timeout: float = 30.0,
) -> MCPServer:
    """Return an MCP server.

    :param reranker: the reranker of all calls.
    :param client: a ``MilvusClient``; None for a server without the tool ``search``.
    :param collections: the names of the collections that ``search`` may read.
    :param embedder: the embedder of queries; None for the one that each collection remembers.
    :param text_field: the field to rerank by, several, or a template; None for the one that the schema shows.
    :param timeout: seconds to wait for Milvus.
    :returns: the server; ``server.run("stdio")`` runs it.
    """
    server = MCPServer("milvus-rerank", version=__version__, log_level="WARNING")

    @server.tool(title="Rerank documents", annotations=READ_ONLY)
    async def rerank(
        query: Query, documents: Documents, context: Context,
        top_k: TopK = 10, threshold: Threshold = None, instruction: Instruction = None,
    ) -> Results:  # fmt: skip
        """Sort texts by their relevance to a query. A larger score is better; index is the position in documents."""

        async def report(done: int) -> None:
            await context.report_progress(done, len(documents))

        options = {"threshold": threshold, "instruction": instruction}
        results = await with_message(arerank_in_steps(reranker, query, documents, report, **options))
        return Results(results=[result.to_dict() for result in results[:top_k]])

    @server.tool(title="List models and collections", annotations=READ_ONLY)
    async def list_models() -> Models:
        """List the reranker in use, the models on this machine, and the collections that can be searched."""
        inventory = await with_message(asyncio.to_thread(take_inventory))
        models = inventory.to_dict()["models"]
        return Models(reranker=repr(reranker), models=models, collections=list(collections))

    if client is not None:
        add_search(server, reranker, client, collections, embedder=embedder, text_field=text_field, timeout=timeout)
    return server
