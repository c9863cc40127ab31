"""Limits of time, tokens, documents and bytes: what passes them is refused."""

import socket
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from serving import TIMEOUT, serving, wait_for
from stubborn import BODY, Stubborn

JSON = {"content-type": "application/json"}
SLOW = b"POST /rerank HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: 100\r\n\r\n{"


def test_a_request_that_is_not_done_at_its_deadline_is_told_so(function: Stubborn) -> None:
    with serving({"m": lambda: function}, deadline=0.2) as server:
        function.hold.set()
        began = time.monotonic()
        answer = server.post("/rerank", BODY)
        assert time.monotonic() - began < 5
        function.hold.clear()
        assert answer.status_code == 504
        assert answer.json()["error"] == "not done within the deadline of 0.2 s"
        wait_for(lambda: server.application.models.batchers["cpu"].waiting_requests == 0)
        assert server.post("/rerank", BODY).status_code == 200
        server.settled()
        assert server.outcomes() == {"deadline_exceeded": 1, "ok": 1}


def test_too_many_requests_are_refused_at_once_with_the_time_to_come_again(function: Stubborn) -> None:
    with serving({"m": lambda: function}, requests=4) as server, ThreadPoolExecutor(4) as pool:
        function.hold.set()
        waiting = [pool.submit(server.post, "/rerank", BODY) for _ in range(4)]
        wait_for(lambda: server.metric("milvus_rerank_active_requests") == 4)
        began = time.monotonic()
        refused = [server.post("/rerank", BODY) for _ in range(10)]
        assert time.monotonic() - began < 5
        assert [one.status_code for one in refused] == [429] * 10
        assert refused[0].headers["retry-after"] == "1"
        assert refused[0].json()["error_type"] == "Overloaded"
        assert server.client.get("/health").status_code == 200
        function.hold.clear()
        assert [one.result(TIMEOUT).status_code for one in waiting] == [200] * 4
        assert server.post("/rerank", BODY).status_code == 200
        server.settled()
        assert server.outcomes() == {"ok": 5, "overloaded": 10}


def test_too_many_tokens_are_refused(function: Stubborn) -> None:
    with serving({"m": lambda: function}, queue_tokens=500) as server, ThreadPoolExecutor(4) as pool:
        function.hold.set()
        first = pool.submit(server.post, "/rerank", BODY)
        assert function.busy.wait(TIMEOUT)
        second = pool.submit(server.post, "/rerank", {"query": "q", "documents": ["word " * 300]})
        wait_for(lambda: server.application.models.batchers["cpu"].waiting_tokens > 300)
        refused = server.post("/rerank", {"query": "q", "documents": ["word " * 300]})
        assert refused.status_code == 429
        assert "tokens are waiting already" in refused.json()["error"]
        function.hold.clear()
        assert [one.result(TIMEOUT).status_code for one in (first, second)] == [200, 200]


def test_what_cannot_be_done_in_time_is_refused_instead_of_being_late(function: Stubborn) -> None:
    function.seconds = 0.2
    with serving({"m": lambda: function}, deadline=2.0) as server, ThreadPoolExecutor(8) as pool:
        text = "x" * 4 * 8192  # a batch of its own
        server.post("/rerank", {"query": "q", "documents": [text]})
        bodies = [{"query": f"q{number}", "documents": [text * 2]} for number in range(30)]
        began = time.monotonic()
        statuses = [one.status_code for one in pool.map(lambda body: server.post("/rerank", body), bodies)]
        assert time.monotonic() - began < 20
        assert set(statuses) <= {200, 429, 504}
        assert statuses.count(200) >= 3
        server.settled()


def test_limits_of_documents_and_texts(function: Stubborn) -> None:
    with serving({"m": lambda: function}, documents=3, text_characters=10) as server:
        answer = server.post("/rerank", {"query": "q", "documents": ["a"] * 4})
        assert (answer.status_code, answer.json()["error"]) == (
            422,
            "got 4 documents; this server takes at most 3 in a request",
        )
        answer = server.post("/rerank", {"query": "q", "documents": ["a", "b" * 11]})
        assert answer.json()["error"] == "document 1 has 11 characters; this server takes at most 10"
        assert "the query has 11" in server.post("/rerank", {"query": "q" * 11, "documents": []}).json()["error"]
        assert server.post("/rerank", {"query": "q" * 10, "documents": ["a" * 10] * 3}).status_code == 200


def test_a_body_that_is_too_large_is_refused_whether_announced_or_not(function: Stubborn) -> None:
    with serving({"m": lambda: function}, body_bytes=1000) as server:
        announced = server.client.post("/rerank", content=b"x" * 100_000, headers=JSON)
        chunked = server.client.post("/rerank", content=(b"x" * 100 for _ in range(1000)), headers=JSON)
        for answer in (announced, chunked):
            assert answer.status_code == 413
            assert answer.json()["error"] == "the body is larger than 1000 bytes"
        assert server.post("/rerank", BODY).status_code == 200
        server.settled()
        assert server.application.middleware.held_bytes == 0


def test_a_hundred_megabytes_are_refused_without_being_kept(function: Stubborn) -> None:
    with serving({"m": lambda: function}) as server:
        block = b"x" * 2**20
        answer = server.client.post("/rerank", content=(block for _ in range(100)), headers=JSON)
        assert answer.status_code == 413
        assert server.post("/rerank", BODY).status_code == 200


def test_a_slow_body_is_given_up(function: Stubborn) -> None:
    with serving({"m": lambda: function}, body_seconds=0.2) as server:
        host, port = server.address.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port)), timeout=TIMEOUT) as connection:
            connection.sendall(SLOW)
            got = b""
            while not got.endswith(b"}"):
                got += connection.recv(65536)
        assert got.startswith(b"HTTP/1.1 408")
        assert b"the body took more than 0.2 s to arrive" in got


@pytest.mark.parametrize(
    ("after", "sent"),
    [
        (False, b""),
        (False, b"POST /rerank HTTP/1.1\r\nhost: localhost\r\n"),
        (True, b"POST /rerank HTTP/1.1\r\nhost: localhost\r\n"),
    ],
    ids=["nothing", "half", "half after an answer"],
)
def test_slow_headers_are_given_up(function: Stubborn, after: Any, sent: Any) -> None:
    with serving({"m": lambda: function}, header_seconds=0.3) as server:
        host, port = server.address.removeprefix("http://").split(":")
        began = time.monotonic()
        with socket.create_connection((host, int(port)), timeout=TIMEOUT) as connection:
            if after:
                connection.sendall(b"GET /health HTTP/1.1\r\nhost: localhost\r\n\r\n")
                got = b""
                while not got.endswith(b'{"status":"ok"}'):
                    got += connection.recv(65536)
                time.sleep(0.5)  # idle for longer than headers may take: still open
                began = time.monotonic()
            connection.sendall(sent)
            assert connection.recv(65536) == b""  # closed
            assert 0.2 < time.monotonic() - began < TIMEOUT / 2


def test_a_request_longer_than_the_headers_time_is_answered(function: Stubborn) -> None:
    with serving({"m": lambda: function}, header_seconds=0.1) as server, ThreadPoolExecutor(1) as pool:
        function.hold.set()
        first = pool.submit(server.post, "/rerank", BODY)
        assert function.busy.wait(TIMEOUT)
        time.sleep(0.3)
        function.hold.clear()
        assert first.result(TIMEOUT).status_code == 200


def test_all_bodies_together_are_limited(function: Stubborn) -> None:
    with serving({"m": lambda: function}, held_bytes=3000) as server, ThreadPoolExecutor(1) as pool:
        function.hold.set()
        first = pool.submit(server.post, "/rerank", {"query": "q", "documents": ["x" * 2000]})
        assert function.busy.wait(TIMEOUT)
        refused = server.post("/rerank", {"query": "q", "documents": ["x" * 2000]})
        assert refused.status_code == 429
        function.hold.clear()
        assert first.result(TIMEOUT).status_code == 200
        server.settled()
        assert server.application.middleware.held_bytes == 0
