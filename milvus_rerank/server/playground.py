"""The playground: a page to try queries with pasted documents or with a collection of the server's Milvus."""

import base64
import hashlib
import json
import time
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from functools import partial
from importlib import resources
from typing import Annotated, Any

import anyio.to_thread
from fastapi import FastAPI, Request
from fastapi.responses import HTMLResponse
from pydantic import BaseModel, ConfigDict, Field

from milvus_rerank.errors import InputError, SearchError
from milvus_rerank.indexing import Mode, absent_keys, describe, load, open_search
from milvus_rerank.indexing.collection import embedder_of, is_made_with
from milvus_rerank.indexing.embedders import Embedder
from milvus_rerank.indexing.schema import CollectionInfo
from milvus_rerank.results import RerankResult
from milvus_rerank.search import Hybrid
from milvus_rerank.search.filters import missing_field, names_in
from milvus_rerank.search.milvus import message_of, milvus_errors
from milvus_rerank.server.api_formats import RerankRequest
from milvus_rerank.server.service import Service
from milvus_rerank.text_field import TextField, read_text_field

TIMEOUT = 10.0
"""Timeout of one call to Milvus, in seconds."""
_SAMPLES = 4
_SAMPLE_WORDS = 12


_Name = Annotated[str, Field(min_length=1, max_length=256)]
_Template = Annotated[str, Field(min_length=1, max_length=2048)]


class CollectionBody(BaseModel):
    """Request of the page for what it can offer on a collection."""

    model_config = ConfigDict(extra="forbid")

    collection: _Name


class RerankOptions(BaseModel):
    """Options of the second stage, as ``/v1/rerank`` has them."""

    model_config = ConfigDict(extra="forbid")

    model: _Name | None = None
    top_n: Annotated[int, Field(ge=0, le=1000)] = 0
    instruction: Annotated[str, Field(max_length=65_536)] | None = None


class SearchBody(CollectionBody):
    """Search request of the page: the first stage, and the second with ``rerank``."""

    query: Annotated[str, Field(max_length=65_536)]
    mode: Mode | None = None
    candidates: Annotated[int, Field(ge=1, le=1000)] = 50
    filter: Annotated[str, Field(max_length=4096)] = ""
    fields: Annotated[list[_Name], Field(max_length=64)] | None = None
    text_field: _Template | Annotated[list[_Name], Field(min_length=1, max_length=16)] | None = None
    rerank: RerankOptions | None = None


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

    def describe(self, collection: str) -> dict[str, Any]:
        """Describe a collection for the page.

        :param collection: its name.
        :returns: the search modes that it has, those fields that a hit can have, and queries to try.
        :raises InputError: if the page may not search it.
        :raises SearchError: if Milvus fails.
        """
        info = self._info(collection)
        dense = bool(info.dense or info.embedded)
        modes = ["dense"] * dense + ["bm25"] * bool(info.bm25) + ["hybrid"] * (dense and bool(info.bm25))
        load(self.client, info, TIMEOUT)
        return {
            "modes": modes,
            "fields": [name for name in info.fields if name != "$meta"] + sorted(info.dynamic or ()),
            "samples": self._samples(info),
        }

    def search(self, body: SearchBody) -> dict[str, Any]:
        """Run the first stage.

        :param body: the search request.
        :returns: the ``hits``, best first: ``id``, ``distance``, ``text``, ``title`` if there is one apart from the
            text, and the other ``fields``; and the ``mode`` of the search.
        :raises InputError: if the page may not search the collection, or it does not support the search.
        :raises SearchError: if Milvus fails.
        """
        if not body.query.strip():
            raise InputError("the query is empty; type what you look for")
        info = self._info(body.collection)
        search = open_search(
            self.client,
            info,
            mode=body.mode,
            embedder=partial(self._embedder, info),
            text_field=body.text_field or self.text_field,
            vector_field=self.vector_field,
        )
        load(self.client, info, TIMEOUT)
        for name in absent_keys(self.client, info, [*(body.fields or ()), *names_in(body.filter)], TIMEOUT):
            raise InputError(missing_field("the search", name, info.names))
        fields = list(info.fields) if body.fields is None else body.fields
        answer = search(
            body.query,
            top_k=body.candidates,
            candidates=body.candidates,
            filter=body.filter,
            output_fields=fields,
            timeout=TIMEOUT,
        )
        used = set(read_text_field(search.text_field).names)
        stage = search.first_stage
        mode = (
            "hybrid" if isinstance(stage, Hybrid) else "bm25" if getattr(stage, "field", "") in info.bm25 else "dense"
        )
        return {"mode": mode, "hits": [_hit(hit, used, info.primary) for hit in answer]}

    def _info(self, collection: str) -> CollectionInfo:
        if not self._allows(collection):
            raise InputError(
                f"the playground may not search {collection[:100]!r}; start the server with --collection NAME"
            )
        return describe(self.client, collection, TIMEOUT)

    def _samples(self, info: CollectionInfo) -> list[str]:
        """Return queries to try: titles of some rows, or the beginnings of their texts."""
        field = next((name for name in ("title", "text", *info.texts) if name in info.texts), None)
        if field is None:
            return []
        try:
            rows = self.client.query(info.name, filter="", limit=_SAMPLES, output_fields=[field], timeout=TIMEOUT)
        except milvus_errors():  # they are a courtesy
            return []
        texts = [" ".join(str(row.get(field) or "").split()) for row in rows]
        return [" ".join(text.split()[:_SAMPLE_WORDS])[:100] for text in dict.fromkeys(texts) if text]

    def _embedder(self, info: CollectionInfo) -> Embedder:
        if self.embedder is not None and (info.embedder is None or is_made_with(info, self.embedder)):
            return self.embedder
        name = info.embedder or ""
        if name not in self.loaded:
            self.loaded[name] = embedder_of(info, None)
        return self.loaded[name]

    def _allows(self, collection: str) -> bool:
        return any(fnmatchcase(collection, pattern) for pattern in self.allowed)


def _hit(hit: RerankResult[Any], used: set[str], primary: str) -> dict[str, Any]:
    entity = hit.entity or {}
    title = entity.get("title")
    fields = {name: value for name, value in entity.items() if name not in used and name not in ("title", primary)}
    shown = {"id": hit.id, "distance": hit.distance, "text": hit.text, "fields": fields}
    if isinstance(title, str) and title and "title" not in used:
        shown["title"] = title
    # Fields may hold what JSON cannot, such as numpy's numbers.
    return {name: json.loads(json.dumps(value, default=str)) for name, value in shown.items()}


def page(name: str) -> tuple[str, dict[str, str]]:
    """Return a page and its headers, which allow only its own script and style and requests to its own server."""
    text = resources.files("milvus_rerank.server").joinpath(name).read_text("utf-8")
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


def add_playground(app: FastAPI, milvus: Milvus | None, service: Service) -> None:
    """Add the page's routes, and the page that shows the API.

    :param app: the application.
    :param milvus: the Milvus that the page may search; None for pasted documents only.
    :param service: scores what a search finds.
    """

    def add_page(path: str, name: str) -> None:
        text, headers = page(name)

        @app.get(path, include_in_schema=False)
        async def show() -> HTMLResponse:
            return HTMLResponse(text, headers=headers)

    add_page("/", "playground.html")
    add_page("/docs", "api_docs.html")

    if milvus is None:
        return

    @app.get("/playground/collections", tags=["playground"])
    async def collections() -> dict[str, list[str]]:
        """List the collections of the server's Milvus."""
        return {"collections": await anyio.to_thread.run_sync(milvus.collections)}

    @app.post("/playground/collection", tags=["playground"])
    async def collection(body: CollectionBody) -> dict[str, Any]:
        """Describe a collection: its search modes, fields, and queries to try."""
        return await anyio.to_thread.run_sync(milvus.describe, body.collection)

    @app.post("/playground/search", tags=["playground"])
    async def search(request: Request, body: SearchBody) -> dict[str, Any]:
        """Search a collection, and rerank its hits if ``rerank`` has the options for that."""
        began = time.perf_counter()
        answer: dict[str, Any] = await anyio.to_thread.run_sync(partial(milvus.search, body))
        answer["search_ms"] = round(1000 * (time.perf_counter() - began))
        if body.rerank is not None and answer["hits"]:
            documents = [hit["text"] for hit in answer["hits"]]
            values = {"query": body.query, "documents": documents, "return_spans": True}
            asked = RerankRequest.model_validate(values | body.rerank.model_dump(exclude_none=True))
            scored = await service.rerank(request.state, asked)
            values = json.loads(bytes(scored.body))
            answer |= {"results": values["results"], "usage": values["usage"]}
        return answer
