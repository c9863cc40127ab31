"""The playground: a page to try queries with pasted documents or with a collection of the server's Milvus."""

import base64
import hashlib
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from functools import partial
from importlib import resources
from typing import Annotated, Any, Literal

import anyio.to_thread
from fastapi import FastAPI
from fastapi.responses import HTMLResponse
from pydantic import BaseModel, Field

from milvus_rerank.errors import InputError, SearchError
from milvus_rerank.indexing import describe, load, open_search
from milvus_rerank.indexing.collection import embedder_of, is_made_with
from milvus_rerank.indexing.embedders import Embedder
from milvus_rerank.indexing.schema import CollectionInfo
from milvus_rerank.search.milvus import message_of, milvus_errors
from milvus_rerank.text_field import TextField

TIMEOUT = 10.0
"""Timeout of one call to Milvus, in seconds."""


class SearchBody(BaseModel):
    """Search request of the page to the first stage."""

    query: str
    collection: str
    mode: Literal["dense", "bm25", "hybrid"] = "dense"
    candidates: Annotated[int, Field(ge=1, le=1000)] = 50


@dataclass(frozen=True, slots=True)
class Milvus:
    """The only Milvus that the page may search: the one in the server's configuration.

    :param client: a ``MilvusClient``.
    :param embedder: creates query vectors for the collections that it has made, and those that remember no embedder;
        each other collection uses the one that it remembers.
    :param text_field: the field that holds the text, several, or a template; None for the one that the schema shows.
    :param vector_field: the field to search; None for the one that the schema shows.
    :param allowed: the collections that the page may search, as names or patterns such as ``docs*``.
    """

    client: Any
    embedder: Embedder | None = None
    text_field: TextField | None = None
    vector_field: str | None = None
    allowed: tuple[str, ...] = ()
    loaded: dict[str, Embedder] = field(default_factory=dict)

    def collections(self) -> list[str]:
        """List the collections that the page may search.

        :returns: their names, sorted.
        :raises SearchError: if Milvus does not answer.
        """
        try:
            return sorted(filter(self._allows, self.client.list_collections(timeout=TIMEOUT)))
        except milvus_errors() as error:
            raise SearchError(f"Milvus does not list its collections: {message_of(error)}") from error

    def search(self, body: SearchBody) -> list[dict[str, Any]]:
        """Run the first stage without reranking.

        :param body: the search request.
        :returns: hits with ``id``, ``distance`` and ``text``, best first.
        :raises InputError: if the page may not search the collection, or it does not support the search mode.
        :raises SearchError: if Milvus fails.
        """
        if not self._allows(body.collection):
            raise InputError(
                f"the playground may not search {body.collection[:100]!r}; start the server with --collection NAME"
            )
        info = describe(self.client, body.collection, TIMEOUT)
        search = open_search(
            self.client,
            info,
            mode=body.mode,
            embedder=partial(self._embedder, info),
            text_field=self.text_field,
            vector_field=self.vector_field,
        )
        load(self.client, info, TIMEOUT)
        answer = search(body.query, top_k=body.candidates, candidates=body.candidates, timeout=TIMEOUT)
        return [{"id": hit.id, "distance": hit.distance, "text": hit.text} for hit in answer]

    def _embedder(self, info: CollectionInfo) -> Embedder:
        if self.embedder is not None and (info.embedder is None or is_made_with(info, self.embedder)):
            return self.embedder
        name = info.embedder or ""
        if name not in self.loaded:
            self.loaded[name] = embedder_of(info, None)
        return self.loaded[name]

    def _allows(self, collection: str) -> bool:
        return any(fnmatchcase(collection, pattern) for pattern in self.allowed)


def page() -> tuple[str, dict[str, str]]:
    """Return the page and its headers, which allow only its own script and style and requests to its own server."""
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
    :param milvus: the Milvus that the page may search; None for pasted documents only.
    """
    text, headers = page()

    @app.get("/", include_in_schema=False)
    async def playground() -> HTMLResponse:
        return HTMLResponse(text, headers=headers)

    if milvus is None:
        return

    @app.get("/playground/collections", tags=["playground"])
    async def collections() -> dict[str, list[str]]:
        """List the collections of the server's Milvus."""
        return {"collections": await anyio.to_thread.run_sync(milvus.collections)}

    @app.post("/playground/search", tags=["playground"])
    async def search(body: SearchBody) -> dict[str, Any]:
        """Search a collection without reranking."""
        return {"hits": await anyio.to_thread.run_sync(partial(milvus.search, body))}
