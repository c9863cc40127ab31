"""Types of the tools' arguments and answers, and errors that clients may read."""

from collections.abc import Awaitable
from typing import Annotated, Any, TypeVar

from mcp.server.mcpserver.exceptions import ToolError
from mcp.types import ToolAnnotations
from pydantic import BaseModel, Field

from milvus_rerank.errors import RerankError

Answer = TypeVar("Answer")

READ_ONLY = ToolAnnotations(read_only_hint=True, idempotent_hint=True, destructive_hint=False, open_world_hint=False)
"""The annotations of all tools."""

Query = Annotated[str, Field(description="The question or keywords.")]
Documents = Annotated[list[str], Field(description="The texts to rerank.", max_length=10_000)]
TopK = Annotated[int, Field(description="The most results to return.", ge=1, le=1000)]
Candidates = Annotated[int, Field(description="Hits to rerank.", ge=1, le=1000)]
Filter = Annotated[str, Field(description="Milvus' filter, such as 'year > 1950'.")]
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


async def with_message(call: Awaitable[Answer]) -> Answer:
    """Await a call; this package's errors go to the client with their text, which the SDK keeps from it otherwise."""
    try:
        return await call
    except RerankError as error:
        raise ToolError(str(error)) from error
