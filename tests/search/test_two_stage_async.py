"""TwoStageSearch off the event loop: with an AsyncMilvusClient on a server, and with a blocking client."""

import asyncio
import signal
import subprocess
import threading
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from milvus_fixtures import DIM, MILVUS_INDEX, SEARCH_RESULTS, cosine, embed, lite_server, make_docs, vector
from pymilvus import AsyncMilvusClient, MilvusClient
from two_stage_docs import docs, ids

from milvus_rerank.errors import HitError, InputError, SearchError, StoppedError
from milvus_rerank.reranker import BaseRerankFunction, LexicalRerankFunction
from milvus_rerank.scoring import Request
from milvus_rerank.search import Dense, FullText, Hybrid, Timings
from milvus_rerank.search.first_stage import FirstStage

LiteServer = tuple[str, "subprocess.Popen[bytes]"]
Work = Callable[[AsyncMilvusClient], Awaitable[Any]]
DENSE = Dense("dense")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiteServer]:
    with lite_server(tmp_path_factory.mktemp("server")) as (uri, process):
        client = MilvusClient(uri)
        make_docs(client)
        client.close()
        yield uri, process


@pytest.fixture
def blocking(server: LiteServer) -> Iterator[MilvusClient]:
    client = MilvusClient(server[0])
    yield client
    client.close()


def with_async_client(uri: str, work: Work) -> Any:
    """Run ``work(client)`` in an event loop of its own."""

    async def main() -> Any:
        client = AsyncMilvusClient(uri)
        try:
            return await work(client)
        finally:
            await client.close()

    return asyncio.run(main())


def test_a_released_collection_is_loaded_by_the_search_that_finds_it_so(
    server: LiteServer, blocking: MilvusClient
) -> None:
    async def work(client: AsyncMilvusClient) -> Any:
        return await docs(client).asearch(MILVUS_INDEX, top_k=3)

    blocking.release_collection("docs")
    assert len(with_async_client(server[0], work)) == 3
    blocking.release_collection("docs")
    assert len(asyncio.run(docs(blocking).asearch(MILVUS_INDEX, top_k=3))) == 3


@pytest.mark.parametrize("stage", [DENSE, FullText(), Hybrid((DENSE, FullText()))])
def test_the_async_client_finds_what_the_blocking_one_does(
    server: LiteServer, blocking: MilvusClient, stage: FirstStage
) -> None:
    options: dict[str, Any] = {"top_k": 3, "candidates": 7, "filter": "year < 2022", "output_fields": ["tag"]}
    expected = docs(blocking, first_stage=stage)([MILVUS_INDEX, SEARCH_RESULTS], **options)

    async def work(client: AsyncMilvusClient) -> Any:
        return await docs(client, first_stage=stage).asearch([MILVUS_INDEX, SEARCH_RESULTS], **options)

    found = with_async_client(server[0], work)
    assert [answer.results for answer in found] == [answer.results for answer in expected]
    assert ids(found[0])[:2] in (["d4", "d5"], ["d5", "d4"])
    assert found[0][0].entity["tag"] in ("t4", "t5")


def test_one_query_gives_one_answer(server: LiteServer) -> None:
    answer = with_async_client(server[0], lambda client: docs(client).asearch(MILVUS_INDEX, top_k=2, candidates=6))
    assert [(hit.id, hit.score) for hit in answer] == [("d4", 1.0), ("d5", 1.0)]
    assert answer[1].distance == pytest.approx(cosine(5), abs=1e-6)


def test_a_blocking_client_works_in_an_event_loop(blocking: MilvusClient) -> None:
    async def work() -> Any:
        return await asyncio.gather(*(docs(blocking).asearch(MILVUS_INDEX, top_k=1) for _ in range(4)))

    assert [ids(answer) for answer in asyncio.run(work())] == [["d4"]] * 4


def test_the_blocking_call_works_inside_an_event_loop(blocking: MilvusClient) -> None:
    async def work() -> Any:
        return docs(blocking)(MILVUS_INDEX, top_k=1)

    assert ids(asyncio.run(work())) == ["d4"]


def test_an_asynchronous_embedder_is_awaited(blocking: MilvusClient) -> None:
    async def embed_later(queries: Sequence[str]) -> Any:
        await asyncio.sleep(0)
        return [vector(80) for _ in queries]

    class Embedder:
        async def __call__(self, queries: Sequence[str]) -> Any:
            return await embed_later(queries)

    for embedder in (embed_later, Embedder()):
        answer = asyncio.run(docs(blocking, embed=embedder).asearch("q", top_k=1, candidates=1))
        assert ids(answer) == ["d8"]


def test_the_blocking_form_of_an_async_client_names_asearch(server: LiteServer) -> None:
    async def work(client: AsyncMilvusClient) -> None:
        with pytest.raises(InputError, match=r"asynchronous; write: await search.asearch\(...\)"):
            docs(client)(MILVUS_INDEX)

    with_async_client(server[0], work)


def test_nothing_blocks_the_event_loop(blocking: MilvusClient) -> None:
    class Slow(LexicalRerankFunction):
        def score_requests(self, requests: Sequence[Request], stop: threading.Event) -> Any:
            time.sleep(0.3)
            return super().score_requests(requests, stop)

    def slow_embed(queries: Sequence[str]) -> Any:
        time.sleep(0.3)
        return embed(queries)

    async def work() -> Any:
        search = asyncio.ensure_future(docs(blocking, reranker=Slow(), embed=slow_embed).asearch(MILVUS_INDEX))
        longest, before = 0.0, time.perf_counter()
        while not search.done():
            await asyncio.sleep(0.005)
            now = time.perf_counter()
            longest, before = max(longest, now - before), now
        return longest, (await search).timings

    longest, timings = asyncio.run(work())
    assert longest < 0.25
    assert (timings.embed > 0.29, timings.rerank > 0.29) == (True, True)


def test_cancelling_stops_the_reranker(blocking: MilvusClient) -> None:
    class Waiting(BaseRerankFunction):
        def __init__(self) -> None:
            self.began, self.stopped = threading.Event(), threading.Event()

        def score_requests(self, requests: Sequence[Request], stop: threading.Event) -> list[list[float]]:
            self.began.set()
            if stop.wait(10):
                self.stopped.set()
            raise StoppedError("stopped")

    waiting = Waiting()

    async def work() -> None:
        search = asyncio.ensure_future(
            docs(blocking, reranker=waiting, on_rerank_error="first_stage").asearch(MILVUS_INDEX)
        )
        await asyncio.to_thread(waiting.began.wait, 10)
        search.cancel()
        with pytest.raises(asyncio.CancelledError):
            await search

    asyncio.run(work())
    assert waiting.stopped.wait(10)


def test_the_first_stage_order_is_returned_on_request(server: LiteServer) -> None:
    class Failing(BaseRerankFunction):
        def score_requests(self, requests: Sequence[Request], stop: threading.Event) -> list[list[float]]:
            raise OSError("away")

    async def work(client: AsyncMilvusClient) -> Any:
        times = iter([0.0, 1.0, 3.0, 7.0])
        search = docs(client, reranker=Failing(), on_rerank_error="first_stage", clock=lambda: next(times))
        return await search.asearch(MILVUS_INDEX, top_k=2)

    answer = with_async_client(server[0], work)
    assert ([(hit.id, hit.score) for hit in answer], answer.reranked) == ([("d0", None), ("d1", None)], False)
    assert str(answer.error) == "away"
    assert answer.timings == Timings(1.0, 2.0, 4.0)


def test_no_queries_give_no_answers(server: LiteServer) -> None:
    assert with_async_client(server[0], lambda client: docs(client).asearch([])) == []


@pytest.mark.parametrize(
    ("options", "arguments", "error", "message"),
    [
        ({}, {"vectors": [[1.0]]}, SearchError, f"The query vector has 1 dimensions, the field 'dense' has {DIM}"),
        ({}, {"filter": "year >>> 3"}, SearchError, "unexpected token '>'"),
        ({"first_stage": Dense("nope")}, {}, SearchError, "has no field 'nope'"),
        ({"text_field": "body"}, {}, HitError, "field 'body' is missing"),
        ({}, {"top_k": -1}, InputError, "top_k must not be negative"),
        ({"embed": None}, {}, InputError, "vector search needs query vectors"),
    ],
)
def test_errors_are_those_of_the_blocking_form(
    server: LiteServer, blocking: MilvusClient, options: Any, arguments: Any, error: type[Exception], message: str
) -> None:
    async def work(client: AsyncMilvusClient) -> Any:
        with pytest.raises(error) as caught:
            await docs(client, **options).asearch(MILVUS_INDEX, **arguments)
        return str(caught.value)

    assert message in with_async_client(server[0], work)
    with pytest.raises(error) as caught:
        docs(blocking, **options)(MILVUS_INDEX, **arguments)
    assert message in str(caught.value)


def test_a_closed_async_client(server: LiteServer) -> None:
    async def work(client: AsyncMilvusClient) -> None:
        await client.close()
        with pytest.raises(SearchError, match="The client is closed"):
            await docs(client).asearch(MILVUS_INDEX)

    with_async_client(server[0], work)


def test_a_paused_server_is_an_error_in_time_and_a_retry_works(server: LiteServer, blocking: MilvusClient) -> None:
    uri, process = server
    search = docs(blocking)
    assert ids(search(MILVUS_INDEX, top_k=1)) == ["d4"]

    async def work(client: AsyncMilvusClient) -> Any:
        await docs(client).asearch(MILVUS_INDEX)
        process.send_signal(signal.SIGSTOP)
        try:
            started = time.monotonic()
            with pytest.raises(SearchError, match=r"It did not answer within 0\.5 s"):
                await docs(client).asearch(MILVUS_INDEX, timeout=0.5)
            with pytest.raises(SearchError, match=r"It did not answer within 0\.5 s"):
                search(MILVUS_INDEX, timeout=0.5)
            return time.monotonic() - started, docs(client)
        finally:
            process.send_signal(signal.SIGCONT)

    async def both(client: AsyncMilvusClient) -> Any:
        seconds, again = await work(client)
        return seconds, await again.asearch(MILVUS_INDEX, top_k=1)

    seconds, answer = with_async_client(uri, both)
    assert seconds < 3
    assert ids(answer) == ["d4"]
    assert ids(search(MILVUS_INDEX, top_k=1)) == ["d4"]


def test_a_server_that_is_gone_is_an_error_that_asks_for_it(tmp_path: Path) -> None:
    with lite_server(tmp_path) as (uri, process):
        client = MilvusClient(uri)
        process.kill()
        process.wait()
        with pytest.raises(SearchError, match="Is the server running, and does the client's uri name it"):
            docs(client)(MILVUS_INDEX, timeout=1.0)
        client.close()
