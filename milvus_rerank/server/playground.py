"""The playground: a page to try queries on, with pasted documents or a Milvus collection of the server's choice."""

import base64
import hashlib
from dataclasses import dataclass
from functools import partial
from importlib import resources
from typing import Annotated, Any, Literal

import anyio.to_thread
from fastapi import FastAPI
from fastapi.responses import HTMLResponse
from pydantic import BaseModel, Field

from milvus_rerank.errors import SearchError
from milvus_rerank.indexing import describe, load, open_search
from milvus_rerank.indexing.collection import Embedder
from milvus_rerank.search.milvus import message_of, milvus_errors

TIMEOUT = 10.0
"""Seconds that one call to Milvus may take."""


class SearchBody(BaseModel):
    """What the page asks of the first stage."""

    query: str
    collection: str
    mode: Literal["dense", "bm25", "hybrid"] = "dense"
    candidates: Annotated[int, Field(ge=1, le=1000)] = 50


@dataclass(frozen=True, slots=True)
class Milvus:
    """The Milvus that the page may look into: the one the server was told of, and no other.

    :param client: a ``MilvusClient``.
    :param embedder: makes query vectors.
    :param text_field: the field that holds the text.
    """

    client: Any
    embedder: Embedder
    text_field: str = "text"

    def collections(self) -> list[str]:
        """List its collections.

        :returns: their names.
        :raises SearchError: if Milvus does not answer.
        """
        try:
            return sorted(self.client.list_collections(timeout=TIMEOUT))
        except milvus_errors() as error:
            raise SearchError(f"Milvus does not list its collections: {message_of(error)}") from error

    def search(self, body: SearchBody) -> list[dict[str, Any]]:
        """Run the first stage alone.

        :param body: what to look for.
        :returns: hits with ``id``, ``distance`` and ``text``, best first.
        :raises InputError: for a collection that cannot be searched so.
        :raises SearchError: if Milvus fails.
        """
        info = describe(self.client, body.collection, TIMEOUT)
        search = open_search(self.client, info, mode=body.mode, embedder=self.embedder, text_field=self.text_field)
        load(self.client, info, TIMEOUT)
        answer = search(body.query, top_k=body.candidates, candidates=body.candidates, timeout=TIMEOUT)
        return [{"id": hit.id, "distance": hit.distance, "text": hit.text} for hit in answer]


def page() -> tuple[str, dict[str, str]]:
    """Return the page and its headers: it may run its own script and style, and talk to its own server, no more."""
    text = resources.files("milvus_rerank.server").joinpath("playground.html").read_text("utf-8")
    script, style = (_digest(text.partition(f"<{tag}>")[2].partition(f"</{tag}>")[0]) for tag in ("script", "style"))
    policy = (
        f"default-src 'none'; script-src 'sha256-{script}'; style-src 'sha256-{style}'; connect-src 'self'; "
        "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    headers = {
        "content-security-policy": policy,
        "referrer-policy": "no-referrer",
        "x-content-type-options": "nosniff",
    }
    return text, headers


def _digest(code: str) -> str:
    return base64.b64encode(hashlib.sha256(code.encode()).digest()).decode()


def add_playground(app: FastAPI, milvus: Milvus | None) -> None:
    """Add the page's routes.

    :param app: the application.
    :param milvus: what the page may search in; None for pasted documents alone.
    """
    text, headers = page()

    @app.get("/", include_in_schema=False)
    async def playground() -> HTMLResponse:
        return HTMLResponse(text, headers=headers)

    if milvus is None:
        return

    @app.get("/playground/collections", tags=["playground"])
    async def collections() -> dict[str, list[str]]:
        """List the collections of the Milvus that the server was told of."""
        return {"collections": await anyio.to_thread.run_sync(milvus.collections)}

    @app.post("/playground/search", tags=["playground"])
    async def search(body: SearchBody) -> dict[str, Any]:
        """Search one of them, without reranking."""
        return {"hits": await anyio.to_thread.run_sync(partial(milvus.search, body))}
