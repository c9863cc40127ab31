"""The tool ``search`` of the MCP server."""

import asyncio
from functools import cache, partial
from typing import Annotated, Any

from mcp.server import MCPServer
from mcp.server.mcpserver import Context
from pydantic import Field

from milvus_rerank.errors import InputError
from milvus_rerank.indexing import CollectionInfo, describe, embedder_of, load, open_search
from milvus_rerank.integrations.mcp.tools import (
    READ_ONLY,
    Candidates,
    Filter,
    Instruction,
    Query,
    Results,
    Threshold,
    TopK,
    with_message,
)
from milvus_rerank.reranker.base import BaseRerankFunction
from milvus_rerank.search import TwoStageSearch
from milvus_rerank.text_field import TextField


def add_search(
    server: MCPServer,
    reranker: BaseRerankFunction,
    client: Any,
    collections: tuple[str, ...],
    *,
    embedder: str | None,
    text_field: TextField | None,
    timeout: float,
) -> None:
    """Add the tool to a server; the arguments are those of :func:`milvus_rerank.integrations.mcp.make_server`."""

    @cache
    def opened(name: str) -> tuple[TwoStageSearch[Any], CollectionInfo]:
        if name not in collections:
            raise InputError(f"there is no collection {name!r} to search; choose from: {', '.join(collections)}")
        info = describe(client, name, timeout)
        embed = partial(embedder_of, info, embedder)
        two_stage = open_search(client, info, reranker=reranker, embedder=embed, text_field=text_field)
        load(client, info, timeout)
        return two_stage, info

    @server.tool(title="Search Milvus and rerank", annotations=READ_ONLY)
    async def search(
        query: Query,
        collection: Annotated[str, Field(description=f"One of: {', '.join(collections)}.")],
        context: Context,
        top_k: TopK = 10,
        candidates: Candidates = 100,
        filter: Filter = "",
        threshold: Threshold = None,
        instruction: Instruction = None,
    ) -> Results:
        """Search a Milvus collection and rerank its hits. A larger score is better; distance is the first stage's."""
        await context.report_progress(0, 2, "opening the collection")
        two_stage, info = await with_message(asyncio.to_thread(opened, collection))
        await context.report_progress(1, 2, "searching and reranking")
        call = two_stage.asearch(
            query, top_k=top_k, candidates=max(candidates, top_k), filter=filter, threshold=threshold,
            output_fields=list(info.fields), timeout=timeout, instruction=instruction,
        )  # fmt: skip
        answer = await with_message(call)
        await context.report_progress(2, 2)
        return Results(results=answer.to_dict()["results"])
