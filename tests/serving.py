"""A server in a thread of the tests, on a port of its own."""

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import httpx

from milvus_rerank.reranker.base import BaseRerankFunction
from milvus_rerank.server.app import Application
from milvus_rerank.server.main import Server
from milvus_rerank.server.models import Models
from milvus_rerank.server.settings import Limits, Settings

TIMEOUT = 30.0


class Running:
    """A server that runs, and a client of it."""

    def __init__(self, server: Server, application: Application, address: str) -> None:
        self.server, self.application, self.address = server, application, address
        self.client = httpx.Client(base_url=address, timeout=TIMEOUT)

    def post(self, path: str, body: Any, **options: Any) -> httpx.Response:
        return self.client.post(path, json=body, **options)

    def metric(self, name: str, **labels: str) -> float:
        """Sum of a counter over all its labels but those given."""
        total = 0.0
        for family in self.application.metrics.registry.collect():
            for sample in family.samples:
                if sample.name == name and all(sample.labels.get(key) == value for key, value in labels.items()):
                    total += sample.value
        return total

    def outcomes(self) -> dict[str, int]:
        """How the requests for scores ended."""
        found: dict[str, int] = {}
        for family in self.application.metrics.registry.collect():
            for sample in family.samples:
                if sample.name == "milvus_rerank_outcomes_total" and "rerank" in sample.labels["route"]:
                    outcome = sample.labels["outcome"]
                    found[outcome] = found.get(outcome, 0) + int(sample.value)
        return found

    def settled(self) -> None:
        """Wait until no request is being worked on, and check that the counts add up."""
        wait_for(lambda: self.metric("milvus_rerank_active_requests") == 0)
        assert self.metric("milvus_rerank_requests_total") == self.metric("milvus_rerank_outcomes_total")


def wait_for(holds: Callable[[], bool], seconds: float = TIMEOUT) -> None:
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.005)


@contextmanager
def serving(
    rerankers: Mapping[str, Callable[[], BaseRerankFunction]],
    *,
    keys: Sequence[bytes] = (),
    preload: bool = True,
    milvus: Any = None,
    traces: Any = None,
    **limits: Any,
) -> Iterator[Running]:
    """Serve while the block runs; a server that does not end in time fails the test."""
    settings = Settings(port=0, keys=tuple(keys), limits=Limits(**limits))
    application = Application(
        Models(rerankers), settings, tuple(rerankers) if preload else (), milvus=milvus, traces=traces
    )
    address: list[str] = []
    server = Server(application, settings, address.append)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        wait_for(lambda: bool(address) or not thread.is_alive())
        running = Running(server, application, address[0])
        with running.client:
            wait_for(lambda: application.ready or bool(application.problem))
            yield running
    finally:
        server.should_exit = True
        thread.join(TIMEOUT)
        assert not thread.is_alive(), "the server did not end"
