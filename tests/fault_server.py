"""An HTTP server in threads of the tests that answers as it is told and keeps what it was sent."""

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from milvus_rerank.reranker.remote.api_formats import API_FORMATS
from milvus_rerank.reranker.remote.function import RemoteRerankFunction
from milvus_rerank.reranker.remote.options import Clock

KEY = "sk-0123456789abcdef"


@dataclass
class Answer:
    """What to send; ``cut`` leaves bytes of the body out, ``drip`` sends one in so many seconds."""

    body: Any = None
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    cut: int = 0
    drip: float | None = None

    def payload(self) -> bytes:
        return self.body if isinstance(self.body, bytes) else json.dumps(self.body).encode()


@dataclass
class Received:
    path: str
    headers: dict[str, str]
    body: Any
    port: int


HANG = Answer()


def scored(*scores: float) -> Answer:
    """The right answer to so many documents, best first."""
    rows = [{"index": place, "relevance_score": score} for place, score in enumerate(scores)]
    return Answer({"results": sorted(rows, key=lambda row: -row["relevance_score"])})


Script = Callable[[Received], Answer]


def by_length(received: Received) -> Answer:
    """Score each document by its length."""
    return scored(*(float(len(text)) for text in received.body["documents"]))


class FaultServer:
    """Answers each request with the next of ``answers``, and all that come after them with ``then``."""

    def __init__(self, server: ThreadingHTTPServer) -> None:
        self.address = f"http://127.0.0.1:{server.server_port}"
        self.answers: list[Answer] = []
        self.then: Script = by_length
        self.received: list[Received] = []
        self.hanging, self.left, self.over = threading.Event(), threading.Event(), threading.Event()
        self.lock = threading.Lock()
        self.connections = 0

    def connect(self, change: int) -> None:
        with self.lock:
            self.connections += change

    def has_connections(self, count: int) -> bool:
        """Wait until so many connections are open; an idle one would be closed here after five seconds."""
        end = time.monotonic() + 2
        while self.connections != count and time.monotonic() < end:
            time.sleep(0.005)
        return self.connections == count

    def next(self, received: Received) -> Answer:
        with self.lock:
            self.received.append(received)
            answer = self.answers.pop(0) if self.answers else None
        return answer or self.then(received)


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    faults: FaultServer

    def setup(self) -> None:
        super().setup()
        self.faults.connect(1)

    def finish(self) -> None:
        self.faults.connect(-1)
        super().finish()

    def do_POST(self) -> None:
        content = self.rfile.read(int(self.headers["content-length"]))
        headers = {name.lower(): value for name, value in self.headers.items()}
        answer = self.faults.next(Received(self.path, headers, json.loads(content), self.client_address[1]))
        if answer is HANG:
            self.hang()
            return
        payload = answer.payload()
        self.send_response_only(answer.status)
        for name, value in {"content-type": "application/json", **answer.headers}.items():
            self.send_header(name, value)
        self.send_header("content-length", str(len(payload)))
        self.end_headers()
        try:
            self.send(payload[: len(payload) - answer.cut], answer.drip)
        except OSError:  # the client has had enough
            self.close_connection = True
            self.faults.left.set()
        if answer.cut:
            self.close_connection = True

    def send(self, payload: bytes, drip: float | None) -> None:
        if drip is None:
            self.wfile.write(payload)
            return
        for place in range(len(payload)):
            self.wfile.write(payload[place : place + 1])
            if self.faults.over.wait(drip):
                return

    def hang(self) -> None:
        """Say nothing until the client leaves."""
        self.close_connection = True
        self.faults.hanging.set()
        self.connection.settimeout(0.02)
        while not self.faults.over.is_set():
            try:
                if not self.connection.recv(1):
                    break
            except TimeoutError:
                continue
            except OSError:
                break
        self.faults.left.set()

    def log_message(self, format: str, *args: Any) -> None:
        pass


class Server(ThreadingHTTPServer):
    request_queue_size = 128
    daemon_threads = False  # so that closing it waits for its threads

    def handle_error(self, request: Any, client_address: Any) -> None:
        pass


@contextmanager
def fault_server(wrap: Callable[[socket.socket], socket.socket] | None = None) -> Iterator[FaultServer]:
    """Serve while the block runs; ``wrap`` puts TLS around the socket."""
    server = Server(("127.0.0.1", 0), type("Bound", (Handler,), {"timeout": 5}))
    faults = FaultServer(server)
    server.RequestHandlerClass.faults = faults  # type: ignore[attr-defined]
    if wrap is not None:
        server.socket = wrap(server.socket)
        faults.address = faults.address.replace("http:", "https:").replace("127.0.0.1", "localhost")
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield faults
    finally:
        faults.over.set()
        server.shutdown()
        thread.join()
        server.server_close()


class Time:
    """A clock that only pauses move on."""

    def __init__(self) -> None:
        self.pauses: list[float] = []
        self.lock = threading.Lock()
        self.clock = Clock(now=lambda: sum(self.pauses), utc=lambda: 0.0, pause=self.pause)

    def pause(self, seconds: float) -> None:
        with self.lock:
            self.pauses.append(seconds)


def remote(
    address: str,
    dialect: str = "jina",
    *,
    time: Time | None = None,
    api_key: str | None = KEY,
    **options: Any,
) -> RemoteRerankFunction:
    """A rerank function of a server of the tests."""
    clock = time.clock if time else None
    return RemoteRerankFunction(address, API_FORMATS[dialect], api_key, keep_path=True, clock=clock, **options)
