"""MCP: a server whose tools search, rerank and list models, for agents."""

import asyncio
from dataclasses import replace
from functools import cache, partial
from typing import Annotated, Any

from milvus_rerank import __version__
from milvus_rerank.errors import InputError, RerankError
from milvus_rerank.indexing import CollectionInfo, describe, embedder_of, load, open_search
from milvus_rerank.integrations.core import require_framework
from milvus_rerank.inventory import take_inventory
from milvus_rerank.reranker.base import BaseRerankFunction
from milvus_rerank.results import RerankResult
from milvus_rerank.search import TwoStageSearch
from milvus_rerank.text_field import TextField

require_framework("milvus-rerank mcp", "mcp", "2.3", "mcp")

from mcp.server import MCPServer
from mcp.server.mcpserver import Context
from mcp.server.mcpserver.exceptions import ToolError
from mcp.types import ToolAnnotations
from pydantic import BaseModel, Field

_STEP = 64  # documents between two reports of progress
_READ_ONLY = ToolAnnotations(read_only_hint=True, idempotent_hint=True, destructive_hint=False, open_world_hint=False)

Query = Annotated[str, Field(description="The question or keywords.")]
TopK = Annotated[int, Field(description="The most results to return.", ge=1, le=1000)]
Threshold = Annotated[float | None, Field(description="The least score to return.")]
Instruction = Annotated[str | None, Field(description="Says what is relevant, for models that take instructions.")]


class Results(BaseModel):
    """Documents or hits, best first; each has ``text``, ``score`` and ``index``, a hit also ``id`` and its fields."""

    results: list[dict[str, Any]]


class Models(BaseModel):
    """The reranker of this server, the models on its machine, and the collections that ``search`` takes."""

    reranker: str
    models: list[dict[str, Any]]
    collections: list[str]


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

    @server.tool(title="Rerank documents", annotations=_READ_ONLY)
    async def rerank(
        query: Query,
        documents: Annotated[list[str], Field(description="The texts to rerank.", max_length=10_000)],
        context: Context,
        top_k: TopK = 10,
        threshold: Threshold = None,
        instruction: Instruction = None,
    ) -> Results:
        """Sort texts by their relevance to a query. A larger score is better; index is the position in documents."""
        found: list[RerankResult] = []
        step = _STEP if reranker.pointwise else max(len(documents), 1)
        for start in range(0, len(documents), step):
            await context.report_progress(start, len(documents))
            call = reranker.arerank(query, documents[start : start + step], None, threshold, instruction=instruction)
            found += [replace(result, index=result.index + start) for result in await _told(call)]
        await context.report_progress(len(documents), len(documents))
        if reranker.pointwise:
            found.sort(key=lambda result: (-result.score, result.index))
        return Results(results=[result.to_dict() for result in found[:top_k]])

    @server.tool(title="List models and collections", annotations=_READ_ONLY)
    async def list_models() -> Models:
        """List the reranker in use, the models on this machine, and the collections that can be searched."""
        inventory = await _told(asyncio.to_thread(take_inventory))
        models = inventory.to_dict()["models"]
        return Models(reranker=repr(reranker), models=models, collections=list(collections))

    if client is None:
        return server

    @cache
    def opened(name: str) -> tuple[TwoStageSearch[Any], CollectionInfo]:
        if name not in collections:
            raise InputError(f"there is no collection {name!r} to search; choose from: {', '.join(collections)}")
        info = describe(client, name, timeout)
        embed = partial(embedder_of, info, embedder)
        two_stage = open_search(client, info, reranker=reranker, embedder=embed, text_field=text_field)
        load(client, info, timeout)
        return two_stage, info

    @server.tool(title="Search Milvus and rerank", annotations=_READ_ONLY)
    async def search(
        query: Query,
        collection: Annotated[str, Field(description=f"One of: {', '.join(collections)}.")],
        context: Context,
        top_k: TopK = 10,
        candidates: Annotated[int, Field(description="Hits to rerank.", ge=1, le=1000)] = 100,
        filter: Annotated[str, Field(description="Milvus' filter, such as 'year > 1950'.")] = "",
        threshold: Threshold = None,
        instruction: Instruction = None,
    ) -> Results:
        """Search a Milvus collection and rerank its hits. A larger score is better; distance is the first stage's."""
        await context.report_progress(0, 2, "opening the collection")
        two_stage, info = await _told(asyncio.to_thread(opened, collection))
        await context.report_progress(1, 2, "searching and reranking")
        call = two_stage.asearch(
            query, top_k=top_k, candidates=max(candidates, top_k), filter=filter, threshold=threshold,
            output_fields=list(info.fields), timeout=timeout, instruction=instruction,
        )  # fmt: skip
        answer = await _told(call)
        await context.report_progress(2, 2)
        return Results(results=answer.to_dict()["results"])

    return server


async def _told(call: Any) -> Any:
    """Await a call; this package's errors go to the client with their text, which the SDK keeps from it otherwise."""
    try:
        return await call
    except RerankError as error:
        raise ToolError(str(error)) from error
