"""A hosted custom reranker sees the context variables of each HTTP request."""

import contextvars
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from serving import TIMEOUT, serving, wait_for

from milvus_rerank.reranker.base import BaseRerankFunction
from milvus_rerank.scoring import Request
from milvus_rerank.server.app import Application

TENANT: contextvars.ContextVar[str] = contextvars.ContextVar("tenant", default="nobody")


class Recorder(BaseRerankFunction):
    """Record the tenant of each query; wait while ``hold`` is set."""

    def __init__(self, pointwise: bool) -> None:
        self.pointwise = pointwise
        self.seen: dict[str, set[str]] = {}
        self.busy, self.hold = threading.Event(), threading.Event()

    def score_requests(self, requests: Sequence[Request], stop: threading.Event) -> list[list[float]]:
        for query, _ in requests:
            self.seen.setdefault(query, set()).add(TENANT.get())
        self.busy.set()
        while self.hold.is_set():
            threading.Event().wait(0.002)
        return [[float(len(text)) for text in documents] for _, documents in requests]


@pytest.mark.parametrize("pointwise", [True, False])
def test_requests_that_share_a_batch_are_scored_in_their_own_contexts(
    monkeypatch: pytest.MonkeyPatch, pointwise: bool
) -> None:
    answer = Application.__call__

    async def as_tenant(self: Application, scope: Any, receive: Any, send: Any) -> None:
        TENANT.set(dict(scope.get("headers", ())).get(b"x-tenant", b"nobody").decode())
        await answer(self, scope, receive, send)

    monkeypatch.setattr(Application, "__call__", as_tenant)  # as a user's middleware in front of the server would
    recorder = Recorder(pointwise)
    with serving({"m": lambda: recorder}) as server, ThreadPoolExecutor(4) as pool:
        recorder.hold.set()

        def post(tenant: str) -> list[float]:
            body = {"query": f"query of {tenant}", "documents": ["a", "bcd", "ef"]}
            answer = server.post("/v1/rerank", body, headers={"x-tenant": tenant})
            return [result["relevance_score"] for result in answer.json()["results"]]

        first = pool.submit(post, "zoe")
        assert recorder.busy.wait(TIMEOUT)
        others = [pool.submit(post, tenant) for tenant in ("ann", "bob", "eve")]
        wait_for(lambda: server.application.models.batchers["cpu"].waiting_requests == 4)
        recorder.hold.clear()
        assert [future.result(TIMEOUT) for future in (first, *others)] == [[3.0, 2.0, 1.0]] * 4
    assert recorder.seen == {f"query of {tenant}": {tenant} for tenant in ("zoe", "ann", "bob", "eve")}
