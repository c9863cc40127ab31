"""The caller's context variables reach pymilvus, httpx, embedders and custom rerankers on every path."""

import asyncio
import json
from collections.abc import Iterator, Sequence
from contextvars import ContextVar
from typing import Any

import httpx
import pytest

from milvus_rerank import JinaRerankFunction, TwoStageSearch
from milvus_rerank.reranker.custom import wrap

REQUEST_ID: ContextVar[str] = ContextVar("request_id", default="lost")


@pytest.fixture(autouse=True)
def request_id() -> Iterator[None]:
    token = REQUEST_ID.set("r-1")
    yield
    REQUEST_ID.reset(token)


class Reranker:
    """A custom reranker that notes the context it is called in."""

    def __init__(self) -> None:
        self.seen: list[str] = []

    def score(self, query: str, documents: Sequence[str]) -> list[float]:
        self.seen.append(REQUEST_ID.get())
        return [float(len(document)) for document in documents]


class BlockingClient:
    """A Milvus client that notes the context it is called in."""

    def __init__(self) -> None:
        self.seen: list[str] = []

    def search(self, collection: str, data: Sequence[Any], **options: Any) -> Any:
        self.seen.append(REQUEST_ID.get())
        return [[{"id": 1, "distance": 0.5, "entity": {"text": "a text"}}] for _ in data]

    def hybrid_search(self, *arguments: Any, **options: Any) -> Any:
        raise NotImplementedError


class AsyncClient(BlockingClient):
    async def search(self, collection: str, data: Sequence[Any], **options: Any) -> Any:
        return super().search(collection, data, **options)


class Embedder:
    def __init__(self) -> None:
        self.seen: list[str] = []

    def __call__(self, queries: Sequence[str]) -> list[list[float]]:
        self.seen.append(REQUEST_ID.get())
        return [[1.0, 0.0] for _ in queries]


@pytest.mark.parametrize("timeout", [None, 30.0])
@pytest.mark.parametrize(
    ("make_client", "asynchronous"),
    [(BlockingClient, False), (BlockingClient, True), (AsyncClient, True)],
    ids=["sync", "async with a blocking client", "async with an asynchronous client"],
)
def test_a_two_stage_search_keeps_the_context(make_client: Any, asynchronous: bool, timeout: float | None) -> None:
    client, embedder, reranker = make_client(), Embedder(), Reranker()
    search = TwoStageSearch(client, "docs", embed=embedder, reranker=reranker)
    answer = asyncio.run(search.asearch("q", timeout=timeout)) if asynchronous else search("q", timeout=timeout)
    assert [result.id for result in answer] == [1]
    assert (client.seen, embedder.seen, reranker.seen) == (["r-1"], ["r-1"], ["r-1"])


@pytest.mark.parametrize(
    "rerank",
    [
        lambda function: function("q", ["a", "bb"]),
        lambda function: function.rerank_many(["q"], [["a", "bb"]]),
        lambda function: function.rerank_hits("q", [{"id": 1, "text": "a"}]),
        lambda function: asyncio.run(function.arerank("q", ["a", "bb"])),
        lambda function: asyncio.run(function.arerank_many(["q"], [["a", "bb"]])),
        lambda function: asyncio.run(function.arerank_hits("q", [{"id": 1, "text": "a"}])),
    ],
    ids=["call", "rerank_many", "rerank_hits", "arerank", "arerank_many", "arerank_hits"],
)
def test_a_custom_reranker_sees_the_context(rerank: Any) -> None:
    reranker = Reranker()
    assert rerank(wrap(reranker, "custom"))
    assert reranker.seen == ["r-1"]


def answer(request: httpx.Request) -> httpx.Response:
    documents = json.loads(request.content)["documents"]
    return httpx.Response(200, json={"results": [{"index": i, "relevance_score": 1} for i in range(len(documents))]})


@pytest.mark.parametrize("requests", [1, 5])
def test_a_service_call_keeps_the_context(requests: int) -> None:
    transports, hooks = [], []

    def handle(request: httpx.Request) -> httpx.Response:
        transports.append(REQUEST_ID.get())
        return answer(request)

    client = httpx.Client(
        transport=httpx.MockTransport(handle), event_hooks={"request": [lambda _: hooks.append(REQUEST_ID.get())]}
    )
    with client:
        function = JinaRerankFunction(api_key="key", client=client, max_documents=2)
        assert function.score("q", ["a", "b"] * requests) == [1.0, 1.0] * requests
    assert transports == hooks == ["r-1"] * requests


@pytest.mark.parametrize("requests", [1, 5])
def test_an_awaited_service_call_keeps_the_context(requests: int) -> None:
    transports, hooks = [], []

    async def handle(request: httpx.Request) -> httpx.Response:
        transports.append(REQUEST_ID.get())
        return answer(request)

    async def note(_: Any) -> None:
        hooks.append(REQUEST_ID.get())

    async def main() -> list[float]:
        async with httpx.AsyncClient(transport=httpx.MockTransport(handle), event_hooks={"request": [note]}) as client:
            function = JinaRerankFunction(api_key="key", client=client, max_documents=2)
            return await function.ascore("q", ["a", "b"] * requests)

    assert asyncio.run(main()) == [1.0, 1.0] * requests
    assert transports == hooks == ["r-1"] * requests
