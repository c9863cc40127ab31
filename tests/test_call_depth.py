"""How many functions of this package a call goes through: a reader has to follow each of them."""

import asyncio
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

import pytest

import milvus_rerank
from milvus_rerank import CrossEncoderRerankFunction, load

if TYPE_CHECKING:
    from milvus_rerank.server.app import Application

PACKAGE = str(Path(milvus_rerank.__file__).parent)


class Functions(set[tuple[str, str]]):
    """Functions of the package that were entered while it was on, without comprehensions and lambdas."""

    on = False

    def profile(self, frame: FrameType, event: str, argument: object) -> None:
        code = frame.f_code
        if self.on and event == "call" and code.co_filename.startswith(PACKAGE) and not code.co_name.startswith("<"):
            self.add((code.co_filename.removeprefix(PACKAGE), f"{code.co_name}:{code.co_firstlineno}"))


@contextmanager
def profiled() -> Iterator[Functions]:
    """Profile this thread and the threads that it starts."""
    functions, before = Functions(), sys.getprofile()
    threading.setprofile(functions.profile)
    sys.setprofile(functions.profile)
    try:
        yield functions
    finally:
        sys.setprofile(before)
        threading.setprofile(None)


def test_loading_a_model_enters_few_functions() -> None:
    make = partial(CrossEncoderRerankFunction, "builtin/rerank", device="cpu")
    make()  # imports, and writes the graph into the cache
    with profiled() as functions:
        functions.on = True
        make()
    assert 20 < len(functions) <= 55, sorted(functions)


def test_reranking_hits_enters_few_functions() -> None:
    reranker = CrossEncoderRerankFunction("builtin/rerank", device="cpu")
    hits = [{"id": i, "distance": 0.5, "entity": {"text": text}} for i, text in enumerate(["a cat", "a dog", "a bird"])]
    reranker.rerank_hits("a query", hits)
    with profiled() as functions:
        functions.on = True
        reranker.rerank_hits("another query", hits)
    assert 20 < len(functions) <= 40, sorted(functions)


@pytest.mark.needs("fastapi", "httpx")
def test_a_request_to_the_server_enters_few_functions() -> None:
    from milvus_rerank.server.app import Application
    from milvus_rerank.server.models import Models
    from milvus_rerank.server.settings import Settings

    with profiled() as functions:  # the threads of the server, too
        models = Models({"m": partial(load, "builtin/rerank", device="cpu")})
        statuses = asyncio.run(_request_twice(Application(models, Settings(), ["m"]), functions))
    assert statuses == [200, 200]
    assert 40 < len(functions) <= 65, sorted(functions)


async def _request_twice(application: "Application", functions: Functions) -> list[int]:
    """Start an application, send it two requests, the second one with the functions counted, and end it."""
    import httpx

    received: asyncio.Queue[Any] = asyncio.Queue()
    sent: asyncio.Queue[Any] = asyncio.Queue()
    lifespan = asyncio.create_task(application({"type": "lifespan", "state": {}}, received.get, sent.put))
    await received.put({"type": "lifespan.startup"})
    assert (await sent.get())["type"] == "lifespan.startup.complete"
    statuses = []
    transport = httpx.ASGITransport(application)
    async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:8787") as client:
        for query in ("who barks", "who purrs"):
            functions.on = query == "who purrs"
            response = await client.post("/v1/rerank", json={"query": query, "documents": ["cats", "dogs", "birds"]})
            statuses.append(response.status_code)
        functions.on = False
    await received.put({"type": "lifespan.shutdown"})
    await lifespan
    return statuses
