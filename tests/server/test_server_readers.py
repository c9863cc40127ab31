"""Clients that do not read their answers, and connections that do nothing: others are served, and all is given back."""

import json
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

import httpx
import pytest
from serving import TIMEOUT, Running, serving, wait_for
from stubborn import BODY, Stubborn

LARGE = {"query": "q", "documents": ["x" * 150_000] * 40, "return_documents": True}  # 6 MB, more than sockets hold


@contextmanager
def unread(server: Running, count: int, body: Any, *, headers: str = "") -> Iterator[list[socket.socket]]:
    """Open connections with small buffers that send a request and do not read."""
    host, port = server.address.removeprefix("http://").split(":")
    content = json.dumps(body).encode()
    head = f"POST /v1/rerank HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n{headers}"
    head += f"content-length: {len(content)}\r\n\r\n"
    with ExitStack() as stack:
        connections = []
        for _ in range(count):
            connection = stack.enter_context(socket.socket())
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            connection.settimeout(TIMEOUT)
            connection.connect((host, int(port)))
            connection.sendall(head.encode() + content)
            connections.append(connection)
        yield connections


def read_slowly(connection: socket.socket) -> int:
    """Read 200 kB a second until the connection is reset, and return how many bytes arrived."""
    got = 0
    with suppress(ConnectionResetError):
        while part := connection.recv(20_000):
            got += len(part)
            time.sleep(0.1)
    return got


def test_answers_that_nobody_reads_are_given_up(function: Stubborn) -> None:
    with serving({"m": lambda: function}, send_seconds=3.0, requests=12) as server:
        with unread(server, 12, LARGE):
            wait_for(lambda: server.metric("milvus_rerank_active_requests") == 12)
            assert server.post("/v1/rerank", BODY).status_code == 429, "each holds its slot until it is given up"
            assert server.application.middleware.held_bytes > 12 * 5_000_000
            server.settled()
        assert server.outcomes() == {"client_disconnected": 12, "overloaded": 1}
        assert server.application.middleware.held_bytes == 0
        assert server.post("/v1/rerank", BODY).status_code == 200


def test_a_slow_reader_is_given_up_and_a_reader_in_time_gets_all(function: Stubborn) -> None:
    with serving({"m": lambda: function}, send_seconds=3.0) as server:
        with unread(server, 1, LARGE) as [connection]:
            assert read_slowly(connection) < 3_000_000, "the rest was not sent"
        with unread(server, 1, LARGE) as [connection]:
            time.sleep(0.5)
            got = 0
            while got < 6_000_000:
                got += len(connection.recv(1 << 20))
        server.settled()
        assert server.outcomes() == {"client_disconnected": 1, "ok": 1}


def test_refusals_that_nobody_reads_are_given_up(function: Stubborn) -> None:
    with serving({"m": lambda: function}, keys=[b"k"], send_seconds=0.5, body_seconds=0.5, connections=20) as server:
        with unread(server, 20, BODY):
            wait_for(lambda: server.metric("milvus_rerank_outcomes_total", outcome="unauthorized") == 20)
            answer = server.post("/v1/rerank", BODY, headers={"authorization": "Bearer k"})
            assert answer.status_code == 200
        wait_for(lambda: server.outcomes() == {"unauthorized": 20, "ok": 1})


def test_pipelined_requests_whose_answers_nobody_reads_are_given_up(function: Stubborn) -> None:
    with serving({"m": lambda: function}, send_seconds=0.5) as server:
        host, port = server.address.removeprefix("http://").split(":")
        with socket.socket() as connection:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            connection.settimeout(TIMEOUT)
            connection.connect((host, int(port)))
            asked = b"GET /openapi.json HTTP/1.1\r\nhost: localhost\r\n\r\n" * 100
            with suppress(ConnectionResetError, BrokenPipeError):
                for _ in range(10_000):
                    connection.sendall(asked)
                pytest.fail("the server read all of it")
        server.settled()
        assert server.client.get("/health").status_code == 200


def test_idle_connections_make_room_for_new_ones(function: Stubborn) -> None:
    with serving({"m": lambda: function}, connections=10, header_seconds=2.0) as server, ExitStack() as stack:
        host, port = server.address.removeprefix("http://").split(":")
        idle = [stack.enter_context(socket.create_connection((host, int(port)), timeout=TIMEOUT)) for _ in range(40)]
        wait_for(lambda: len(server.server.server_state.connections) <= 10)
        for _ in range(3):
            with httpx.Client(base_url=server.address, timeout=TIMEOUT) as client:
                assert client.get("/health").status_code == 200
                assert client.post("/rerank", json=BODY).status_code == 200
        assert idle[0].recv(1) == b"", "the one that has been idle longest is closed first"
        wait_for(lambda: len(server.server.server_state.connections) <= 10)


def test_connections_that_work_are_not_closed_for_new_ones(function: Stubborn) -> None:
    with serving({"m": lambda: function}, connections=4) as server, unread(server, 0, BODY):
        function.hold.set()
        with unread(server, 4, BODY) as connections:
            wait_for(lambda: server.metric("milvus_rerank_active_requests") == 4)
            with pytest.raises(httpx.TransportError):
                httpx.get(f"{server.address}/health", timeout=TIMEOUT)
            function.hold.clear()
            for connection in connections:
                assert connection.recv(65536).startswith(b"HTTP/1.1 200")
        assert httpx.get(f"{server.address}/health", timeout=TIMEOUT).status_code == 200
