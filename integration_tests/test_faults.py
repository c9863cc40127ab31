"""A Milvus that is paused, stopped or killed while it is searched: an error in time, and on with it when it is back."""

import asyncio
import logging
import threading
import time
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
from milvus_container import Server, eventually, run_server
from milvus_fixtures import MILVUS_INDEX, make_docs
from pymilvus import AsyncMilvusClient, MilvusClient
from two_stage_docs import docs as two_stage
from two_stage_docs import ids

from milvus_rerank import BaseRerankFunction, LexicalRerankFunction, TwoStageSearch
from milvus_rerank.errors import SearchError
from milvus_rerank.scoring import Request

TIMEOUT = 3.0
LATEST = TIMEOUT + 1.0  # a second for two busy cores


@pytest.fixture(scope="module")
def victim() -> Iterator[Server]:
    """A Milvus for these tests alone, with the collection ``docs``."""
    with run_server() as server:
        with server.client() as client:
            make_docs(client, full_text=False)
            client.flush("docs")
        yield server


@pytest.fixture
def client(victim: Server) -> Iterator[MilvusClient]:
    with victim.client() as client:
        eventually(lambda: two_stage(client)(MILVUS_INDEX, timeout=TIMEOUT))
        yield client


class Searching(threading.Thread):
    """Search again and again until it fails; notes the error and how long the failed search took."""

    def __init__(self, search: TwoStageSearch) -> None:
        super().__init__(daemon=True)
        self.search = search
        self.done = 0
        self.error: Exception | None = None
        self.seconds = 0.0
        self.start()
        while self.done < 20 and self.is_alive():
            time.sleep(0.01)

    def run(self) -> None:
        while self.error is None:
            started = time.monotonic()
            try:
                self.search(MILVUS_INDEX, timeout=TIMEOUT)
                self.done += 1
            except Exception as error:
                self.seconds = time.monotonic() - started
                self.error = error


def failures(search: TwoStageSearch, until: float) -> list[tuple[float, SearchError]]:
    """Search until it works again.

    :returns: the failed searches' errors, with their seconds.
    """
    failed = []
    deadline = time.monotonic() + until
    while time.monotonic() < deadline:
        started = time.monotonic()
        try:
            answer = search(MILVUS_INDEX, top_k=2, timeout=TIMEOUT)
        except SearchError as error:
            failed.append((time.monotonic() - started, error))
            time.sleep(0.2)
        else:
            assert ids(answer) == ["d4", "d5"]
            return failed
    pytest.fail(f"Milvus is not back after {until} s: {failed[-1][1]}")


def test_paused_in_mid_search(victim: Server, client: MilvusClient) -> None:
    search = two_stage(client)
    searching = Searching(search)
    with victim.paused():
        searching.join(LATEST + 1)
    assert isinstance(searching.error, SearchError)
    assert TIMEOUT - 0.1 < searching.seconds < LATEST
    assert str(searching.error).endswith("It did not answer within 3.0 s; retry, or pass a longer timeout=...")
    assert failures(search, until=5) == []


def test_the_async_client_paused_in_mid_search(victim: Server, client: MilvusClient) -> None:
    async def main() -> tuple[float, Any]:
        paused = AsyncMilvusClient(uri=victim.uri)
        try:
            search = two_stage(paused)
            assert ids(await search.asearch(MILVUS_INDEX, top_k=2)) == ["d4", "d5"]
            with victim.paused():
                started = time.monotonic()
                with pytest.raises(SearchError, match="did not answer within 2 s"):
                    await search.asearch(MILVUS_INDEX, timeout=2)
                seconds = time.monotonic() - started
            return seconds, await search.asearch(MILVUS_INDEX, top_k=2)
        finally:
            await paused.close()

    seconds, answer = asyncio.run(main())
    assert 1.9 < seconds < 3.0
    assert ids(answer) == ["d4", "d5"]


def test_the_reranker_is_not_asked_when_milvus_does_not_answer(victim: Server, client: MilvusClient) -> None:
    class Untouched(LexicalRerankFunction):
        def score_requests(self, requests: Sequence[Request], stop: threading.Event) -> list[list[float]]:
            raise AssertionError("nothing was found that could be reranked")

    search = two_stage(client, reranker=Untouched(), on_rerank_error="first_stage")
    with victim.paused(), pytest.raises(SearchError):
        search(MILVUS_INDEX, timeout=1)


@pytest.mark.parametrize("how", ["stop", "kill"])
def test_gone_in_mid_search_and_back(victim: Server, client: MilvusClient, how: str) -> None:
    search = two_stage(client)
    searching = Searching(search)
    if how == "stop":
        victim.container.stop(timeout=1)  # SIGTERM, and SIGKILL after a second
    else:
        victim.container.kill()
    searching.join(LATEST + 1)
    assert isinstance(searching.error, SearchError)
    assert searching.seconds < LATEST

    started = time.monotonic()
    with pytest.raises(SearchError, match="Is the server running, and does the client's uri name it") as caught:
        search(MILVUS_INDEX, timeout=TIMEOUT)
    assert time.monotonic() - started < LATEST
    assert victim.uri.removeprefix("http://") in str(caught.value)

    victim.container.start()
    # The port answers before Milvus does, and Milvus before the collection is loaded again: none of it may hang.
    failed = failures(search, until=90)
    assert max(seconds for seconds, _ in failed) < LATEST


def test_a_failing_reranker_beside_a_healthy_milvus(client: MilvusClient, caplog: pytest.LogCaptureFixture) -> None:
    class Away(BaseRerankFunction):
        def score_requests(self, requests: Sequence[Request], stop: threading.Event) -> list[list[float]]:
            raise ConnectionError("the service is away")

    with pytest.raises(ConnectionError):
        two_stage(client, reranker=Away())(MILVUS_INDEX)
    with caplog.at_level(logging.WARNING, logger="milvus_rerank"):
        answer = two_stage(client, reranker=Away(), on_rerank_error="first_stage")(MILVUS_INDEX, top_k=3)
    assert [(hit.id, hit.score) for hit in answer] == [("d0", None), ("d1", None), ("d2", None)]
    assert (answer.reranked, str(answer.error)) == (False, "the service is away")
    assert "returning the first stage's order" in caplog.text
