"""Rerankers of services behind the server: one call for each request, and failures told apart."""

import json
import socket
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import httpx
import pytest
from fault_server import HANG, KEY, Answer, FaultServer, Time, by_length, fault_server, remote, scored
from serving import TIMEOUT, Running, serving, wait_for

from milvus_rerank.cascade import CascadeRerankFunction
from milvus_rerank.reranker.base import BaseRerankFunction
from milvus_rerank.reranker.lexical import LexicalRerankFunction
from milvus_rerank.server.models import ServiceModel

TEXTS = ["a", "bbb", "cc"]
BODY = {"query": "q", "documents": TEXTS}
SECRET = "a text that nobody else may read"


@pytest.fixture
def faults() -> Iterator[FaultServer]:
    with fault_server() as running:
        yield running


@contextmanager
def behind(faults: FaultServer, dialect: str = "jina", limits: dict[str, Any] | None = None, **options: Any) -> Any:
    """Serve a reranker of a service, which pauses without waiting."""
    options = {"time": Time(), **options}
    with serving({"m": lambda: remote(faults.address, dialect, **options)}, **(limits or {})) as server:
        yield server


def scores(answer: httpx.Response) -> list[float]:
    assert answer.status_code == 200, answer.text
    results = sorted(answer.json()["results"], key=lambda result: result["index"])
    return [result["relevance_score"] for result in results]


def logs(capsys: pytest.CaptureFixture[str], *expected: str) -> str:
    """Wait until the log, which a thread writes, has all these parts; return it."""
    logged = [""]

    def holds() -> bool:
        logged[0] += "".join(capsys.readouterr())
        return all(part in logged[0] for part in expected)

    wait_for(holds)
    return logged[0]


# One call for each request


def test_a_request_is_one_call_of_the_service(faults: FaultServer) -> None:
    documents = [f"{number} ".ljust(4000 + number, "x") for number in range(100)]
    with behind(faults) as server:
        answer = server.post("/v1/rerank", {"query": "q", "documents": documents})
        assert scores(answer) == [4000.0 + number for number in range(100)]
        assert answer.json()["usage"]["total_tokens"] > 90_000
        assert server.metric("milvus_rerank_documents_total", model="m") == 100
    [received] = faults.received
    assert received.body["documents"] == documents


def test_requests_are_split_at_the_services_own_limit_alone(faults: FaultServer) -> None:
    documents = ["x" * (1 + number) for number in range(70)]
    faults.then = lambda received: Answer(
        [{"index": index, "score": float(len(text))} for index, text in enumerate(received.body["texts"])]
    )
    with behind(faults, "tei") as server:
        assert scores(server.post("/v1/rerank", {"query": "q", "documents": documents})) == list(range(1, 71))
    assert sorted(len(received.body["texts"]) for received in faults.received) == [6, 32, 32]


def test_pairs_with_the_same_query_are_one_call_and_repeated_texts_are_sent_once(faults: FaultServer) -> None:
    with behind(faults) as server:
        body = {"text_1": ["q", "other", "q", "q"], "text_2": ["a", "bbb", "cc", "a"]}
        answer = server.post("/score", body)
        assert [row["score"] for row in answer.json()["data"]] == [1.0, 3.0, 2.0, 1.0]
        assert server.post("/v1/rerank", {"query": "q", "documents": []}).json()["results"] == []
    sent = sorted((received.body["query"], received.body["documents"]) for received in faults.received)
    assert sent == [("other", ["bbb"]), ("q", ["a", "cc"])]


def test_requests_reach_the_service_side_by_side_up_to_a_bound(
    faults: FaultServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ServiceModel, "MAX_REQUESTS", 2)
    faults.answers = [HANG, HANG]
    with behind(faults, timeout=60.0) as server, ThreadPoolExecutor(3) as pool:
        clients = [httpx.Client(base_url=server.address, timeout=TIMEOUT) for _ in range(3)]
        waiting = [pool.submit(client.post, "/v1/rerank", json=BODY) for client in clients]
        wait_for(lambda: len(faults.received) == 2 and server.metric("milvus_rerank_active_requests") == 3)
        assert server.client.get("/health").status_code == 200
        assert len(faults.received) == 2
        faults.over.set()  # both hang up; the retries and the third are answered
        assert [scores(future.result(TIMEOUT)) for future in waiting] == [[1.0, 3.0, 2.0]] * 3
        for client in clients:
            client.close()


def test_a_call_ends_when_its_client_leaves(faults: FaultServer) -> None:
    faults.answers = [HANG]
    with behind(faults, timeout=60.0) as server:
        host, port = server.address.removeprefix("http://").split(":")
        content = json.dumps(BODY).encode()
        head = f"POST /v1/rerank HTTP/1.1\r\nhost: {host}\r\ncontent-type: application/json\r\n"
        with socket.create_connection((host, int(port)), timeout=TIMEOUT) as connection:
            connection.sendall(f"{head}content-length: {len(content)}\r\n\r\n".encode() + content)
            assert faults.hanging.wait(TIMEOUT)
        assert faults.left.wait(TIMEOUT)
        server.settled()
        assert server.outcomes() == {"client_disconnected": 1}
        assert len(faults.received) == 1


def test_a_call_ends_at_the_servers_deadline(faults: FaultServer) -> None:
    faults.answers = [HANG]
    with behind(faults, limits={"deadline": 2.0}, time=None, timeout=60.0) as server:
        answer = server.post("/v1/rerank", BODY)
        assert answer.status_code == 504
        assert faults.left.wait(TIMEOUT)
        server.settled()
        assert sum(server.outcomes().values()) == 1


def test_the_deadline_is_handed_on_so_that_no_retry_begins_that_would_come_too_late(faults: FaultServer) -> None:
    faults.then = lambda _: Answer({}, 503, {"retry-after": "25"})
    with behind(faults, limits={"deadline": 20.0}, time=None) as server:
        answer = server.post("/v1/rerank", BODY)
    assert answer.status_code == 503
    assert answer.headers["retry-after"] == "25"
    assert len(faults.received) == 1


def test_calls_that_remain_when_the_server_stops_are_refused(faults: FaultServer) -> None:
    faults.answers = [HANG]
    with behind(faults, limits={"drain_seconds": 0.2}, timeout=60.0) as server, ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(server.post, "/v1/rerank", BODY)
        assert faults.hanging.wait(TIMEOUT)
        server.server.should_exit = True
        answer = waiting.result(TIMEOUT)
    assert answer.status_code == 503
    assert "shutting down" in answer.json()["error"]


def test_calls_are_finished_before_the_server_stops(faults: FaultServer) -> None:
    server: list[Running] = []

    def stop(received: Any) -> Answer:
        server[0].server.should_exit = True
        wait_for(lambda: server[0].application.middleware.stopping)
        return by_length(received)

    faults.then = stop
    with behind(faults) as running:
        server.append(running)
        assert scores(running.post("/v1/rerank", BODY)) == [1.0, 3.0, 2.0]


# Failures

FAILURES: dict[str, tuple[Answer, int, str, str | None]] = {
    "a wrong key": (Answer({"message": f"bad key {KEY} for {SECRET}"}, 401), 502, "upstream_error", None),
    "a wrong body": (Answer({"detail": SECRET}, 422), 502, "upstream_error", None),
    "another address": (Answer(SECRET.encode(), 301, {"location": f"http://x/{SECRET}"}), 502, "upstream_error", None),
    "its own error": (Answer({"error": SECRET}, 500), 502, "upstream_error", None),
    "no JSON": (Answer(SECRET.encode()), 502, "upstream_error", None),
    "too few scores": (scored(1.0), 502, "upstream_error", None),
    "a score that is no number": (scored(1.0, float("nan"), 2.0), 502, "upstream_error", None),
    "half an answer": (Answer({"results": []}, cut=5), 502, "upstream_error", None),
    "too many calls": (Answer({}, 429, {"retry-after": "7"}), 503, "upstream_unavailable", "7"),
    "out of service": (Answer({}, 503), 503, "upstream_unavailable", "5"),
    "back at once": (Answer({}, 503, {"retry-after": "0.2"}), 503, "upstream_unavailable", "1"),
    "back in a year": (Answer({}, 503, {"retry-after": "31536000"}), 503, "upstream_unavailable", "3600"),
    "a gateway that waited too long": (Answer({}, 504), 504, "upstream_timeout", None),
    "silence": (HANG, 504, "upstream_timeout", None),
}


@pytest.mark.parametrize("staged", [False, True])
@pytest.mark.parametrize("failure", FAILURES)
def test_failures_of_the_service_are_told_apart_without_its_words(
    faults: FaultServer, capsys: pytest.CaptureFixture[str], failure: str, staged: bool
) -> None:
    from milvus_rerank.server.main import log_to

    sent, status, outcome, retry_after = FAILURES[failure]
    faults.then = lambda _: sent

    service = remote(faults.address, time=Time(), timeout=0.2 if sent is HANG else TIMEOUT, attempts=2)
    stages: list[tuple[BaseRerankFunction, int | None]] = [(LexicalRerankFunction(), 10), (service, None)]
    reranker: BaseRerankFunction = CascadeRerankFunction(stages) if staged else service
    log_to(sys.stderr)
    with service, serving({"m": lambda: reranker}) as server:
        answer = server.post("/v1/rerank", {"query": SECRET, "documents": TEXTS})
        assert answer.status_code == status
        assert answer.headers.get("retry-after") == retry_after
        said = answer.json()
        assert said["error"] == said["message"] == said["detail"]
        assert said["error_type"] == ("Unhealthy" if status == 503 else "Backend")
        assert answer.headers["x-request-id"] in said["error"]
        server.settled()
        assert server.outcomes() == {outcome: 1}
        logged = logs(capsys, "service failed", '"event": "request"')
        for text in (json.dumps(said), logged):
            assert KEY not in text
            assert SECRET not in text
        assert faults.address not in json.dumps(said)


def test_a_service_that_is_not_there_is_a_bad_gateway(capsys: pytest.CaptureFixture[str]) -> None:
    from milvus_rerank.server.main import log_to

    log_to(sys.stderr)
    with fault_server() as gone:
        address = gone.address
    with serving({"m": lambda: remote(address, time=Time())}) as server:
        answer = server.post("/v1/rerank", BODY)
        assert answer.status_code == 502
        assert "gave no answer" in answer.json()["error"]
        server.settled()
        assert server.outcomes() == {"upstream_error": 1}
        logs(capsys, "cannot be reached")


@pytest.mark.parametrize(
    ("path", "keys"),
    [
        ("/v1/rerank", {"max_tokens_per_doc": 5}),
        ("/v1/rerank", {"truncate_prompt_tokens": 5, "truncation_side": "left"}),
        ("/v1/rerank", {"raw_scores": True}),
        ("/v2/rerank", {"use_activation": False}),
    ],
)
def test_what_only_a_model_of_the_server_can_obey_is_refused_by_name(
    faults: FaultServer, path: str, keys: dict[str, Any]
) -> None:
    with behind(faults) as server:
        answer = server.post(path, BODY | keys)
        assert answer.status_code == 422
        assert f"cannot obey {', '.join(map(repr, sorted(keys)))};" in answer.json()["error"]
        defaults = {"max_tokens_per_doc": 0, "truncate_prompt_tokens": -1, "use_activation": True}
        assert scores(server.post(path, BODY | defaults)) == [1.0, 3.0, 2.0]
    assert len(faults.received) == 1


def test_the_facts_of_a_service_hold_neither_its_address_nor_its_key(faults: FaultServer) -> None:
    with behind(faults) as server:
        facts = server.client.get("/info")
        assert facts.json()["models"][0]["device"] == "service"
        assert server.client.get("/v1/models").json()["data"][0]["max_model_len"] is None
        assert faults.address not in facts.text
        assert KEY not in facts.text
