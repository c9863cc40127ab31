"""Mixed clients for minutes: good ones, and those that send nonsense, leave, send slowly, or do not read.

Each kind of client has its own route, so that what the clients saw can be compared with the server's counts.
"""

import asyncio
import json
import math
import multiprocessing
import random
import re
import socket
import time
from collections import Counter
from collections.abc import Callable, Sequence
from http.client import HTTPConnection
from multiprocessing.connection import Connection
from statistics import median
from typing import Any, Protocol

import httpx
import numpy as np
from texts import Request

ROUTES = {
    "good": "/v2/rerank",
    "bad": "/rerank",
    "slow": "/voyage/v1/rerank",
    "leaving": "/v1/rerank",
    "unreading": "/api/v1/services/rerank/text-rerank/text-rerank",
}
CLIENTS = {"good": 8, "bad": 4, "slow": 6, "leaving": 6, "unreading": 4}
BLIND = frozenset({"leaving", "unreading"})
"""Kinds whose clients know that they asked, but not how it ended."""
OUTCOMES = {200: "ok", 429: "overloaded", 502: "upstream_error", 503: "shutting_down", 504: "deadline_exceeded"}
JSON = {"content-type": "application/json"}
SLOW = (1.0, 5.0, 15.0)  # seconds for a body to be sent, of which the server allows 10
UNREAD = 45.0  # seconds without reading, of which the server allows 30
PROBE = 0.05  # seconds between two questions to /health
SETTLE = 60  # seconds for the server to give up the last clients
BAD: tuple[tuple[int, bytes], ...] = (
    (400, b'{"query": "q", "documents": ["a"'),
    (400, b'{"query": "q", "documents": ["\xff"]}'),
    (422, b'{"query": "q", "documents": [' + b"1," * 40_000 + b"1]}"),
    (422, b'{"query": "q", "documents": [' + b"[]," * 100_000 + b"[]]}"),
    (422, b'{"query": "q", "documents": ["a"], "topn": 1}'),
    (422, b'{"query": "q", "documents": [{"content": "a"}]}'),
    (422, b'{"query": "q", "documents": ["a"], "instruction": "find"}'),
    (422, b'{"query": "q", "texts": [' + b'"a",' * 2000 + b'"a"]}'),
    (422, b"[]"),
)


class Server(Protocol):
    """A server in a process of its own."""

    address: str

    def resident_mib(self) -> float:
        """What it holds in memory now."""
        ...

    def counts(self) -> dict[str, float]:
        """The counters of /metrics, by name and labels."""
        ...


class Clients:
    """The clients of one run.

    :param address: the server's address.
    :param requests: requests of the good clients.
    :param seconds: how long they ask.
    """

    def __init__(self, address: str, requests: Sequence[Request], seconds: float) -> None:
        self.seen = {kind: Counter[str]() for kind in ROUTES}
        self.unexpected = Counter[str]()
        self._address, self._end = address, time.monotonic() + seconds
        self._host, port = address.removeprefix("http://").split(":")
        self._port, self._random = int(port), random.Random(0)
        self._bodies = [
            json.dumps({"query": request.query, "documents": list(request.documents[: 1 + number % 8])}).encode()
            for number, request in enumerate(requests)
        ]
        long = [text * 40 for request in requests[:2] for text in request.documents]
        self._large = json.dumps({"query": "who wrote the first program", "documents": long}).encode()
        repeated = {"query": "q", "documents": ["word " * 10_000] * 40}  # scored once; the answer has 2 MB
        self._echoed = json.dumps({"input": repeated, "parameters": {"return_documents": True}}).encode()

    async def run(self) -> None:
        """Ask until the end."""
        work: dict[str, Callable[[], Any]] = {kind: getattr(self, f"_{kind}") for kind in CLIENTS}
        await asyncio.gather(*(self._repeat(work[kind]) for kind, count in CLIENTS.items() for _ in range(count)))

    async def _repeat(self, work: Callable[[], Any]) -> None:
        while time.monotonic() < self._end:
            await work()

    async def _good(self) -> None:
        """Ask, read, think; a connection serves some requests."""
        async with httpx.AsyncClient(base_url=self._address, timeout=60, headers=JSON) as client:
            for _ in range(20):
                answer = await client.post(ROUTES["good"], content=self._random.choice(self._bodies))
                self._saw("good", answer.status_code)
                await self._think(0.2, 1.0)

    async def _bad(self) -> None:
        """Send what cannot be used."""
        async with httpx.AsyncClient(base_url=self._address, timeout=60, headers=JSON) as client:
            for status, content in self._random.sample(BAD, len(BAD)):
                answer = await client.post(ROUTES["bad"], content=content)
                self._saw("bad", answer.status_code)
                if answer.status_code != status:
                    self.unexpected[f"{answer.status_code} for {content[:50]!r}"] += 1
                await self._think(0.1, 0.5)

    async def _slow(self) -> None:
        """Send a body in 20 parts, in time or not."""
        content, seconds = self._bodies[7], self._random.choice(SLOW)
        reader, writer = await self._ask("slow", len(content), b"")
        status = asyncio.create_task(reader.readline())
        step = math.ceil(len(content) / 20)
        for start in range(0, len(content), step):
            await asyncio.sleep(seconds / 20)
            if not status.done():
                writer.write(content[start : start + step])
        self._saw("slow", int((await status).split()[1]))
        writer.transport.abort()

    async def _leaving(self) -> None:
        """Leave in the middle of the body, or while the server works on it."""
        content = self._random.choice([*self._bodies[:3], self._large])
        sent = content if self._random.random() < 0.7 else content[: len(content) // 2]
        _, writer = await self._ask("leaving", len(content), sent)
        await self._think(0.0, 0.5)
        writer.transport.abort()
        await self._think(0.1, 1.0)

    async def _unreading(self) -> None:
        """Ask for a large answer, and do not read it."""
        loop = asyncio.get_running_loop()
        with socket.socket() as connection:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            connection.setblocking(False)
            await loop.sock_connect(connection, (self._host, self._port))
            await loop.sock_sendall(connection, self._head("unreading", len(self._echoed)) + self._echoed)
            self.seen["unreading"]["asked"] += 1
            await asyncio.sleep(min(UNREAD, max(1.0, self._end - time.monotonic())))

    async def _ask(self, kind: str, length: int, content: bytes) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Open a connection, and send the head and the beginning of the body."""
        reader, writer = await asyncio.open_connection(self._host, self._port)
        writer.write(self._head(kind, length) + content)
        await writer.drain()
        if kind in BLIND:
            self.seen[kind]["asked"] += 1
        return reader, writer

    def _head(self, kind: str, length: int) -> bytes:
        head = f"POST {ROUTES[kind]} HTTP/1.1\r\nhost: {self._host}\r\ncontent-type: application/json\r\n"
        return f"{head}content-length: {length}\r\n\r\n".encode()

    async def _think(self, least: float, most: float) -> None:
        await asyncio.sleep(self._random.uniform(least, most))

    def _saw(self, kind: str, status: int) -> None:
        other = "invalid_request" if status < 500 else "internal_error"
        self.seen[kind][OUTCOMES.get(status, other)] += 1


def probe(address: str, stop: Connection) -> None:
    """Ask for /health until told to stop, in a process of its own, and send back the seconds of each answer."""
    client, seconds = HTTPConnection(address.removeprefix("http://"), timeout=60), []
    while not stop.poll(PROBE):
        began = time.perf_counter()
        client.request("GET", "/health")
        assert client.getresponse().read() == b'{"status":"ok"}'
        seconds.append(time.perf_counter() - began)
    stop.send(seconds)


def outcomes(counts: dict[str, float]) -> dict[str, dict[str, int]]:
    """The outcomes of each kind of client, as the server counts them."""
    kinds = {route: kind for kind, route in ROUTES.items()}
    found: dict[str, dict[str, int]] = {kind: {} for kind in ROUTES}
    for name, value in counts.items():
        match = re.fullmatch(r'milvus_rerank_outcomes_total\{outcome="(\w+)",route="([^"]+)"\}', name)
        if match and match[2] in kinds:
            found[kinds[match[2]]][match[1]] = int(value)
    return found


def compare(seen: dict[str, Counter[str]], counted: dict[str, dict[str, int]]) -> dict[str, bool]:
    """Whether the server counts what the clients of each kind saw; of some kinds only how often they asked."""
    return {
        kind: sum(counted[kind].values()) == sum(seen[kind].values())
        and (kind in BLIND or counted[kind] == dict(seen[kind]))
        for kind in ROUTES
    }


async def soak(
    server: Server, requests: Sequence[Request], seconds: float, save: Callable[[dict[str, Any]], None]
) -> None:
    """Run all clients, and save what is known every ten seconds and at the end.

    :param server: the server.
    :param requests: requests of the good clients.
    :param seconds: how long.
    :param save: takes the result so far.
    """
    clients, memory, began = Clients(server.address, requests, seconds), [server.resident_mib()], time.monotonic()
    ours, theirs = multiprocessing.Pipe()
    prober = multiprocessing.get_context("spawn").Process(target=probe, args=(server.address, theirs))
    prober.start()

    def result() -> dict[str, Any]:
        counted = outcomes(server.counts())
        return {
            "minutes": round((time.monotonic() - began) / 60, 2),
            "clients": CLIENTS,
            "seen_by_clients": {kind: dict(seen) for kind, seen in clients.seen.items()},
            "counted_by_server": counted,
            "agree": compare(clients.seen, counted),
            "unexpected": dict(clients.unexpected),
            "resident_mib": {
                "first_minute_median": median(memory[:60]),
                "last_minute_median": median(memory[-60:]),
                "most": max(memory),
                "every_ten_seconds": memory[::10],
            },
        }

    running = asyncio.create_task(clients.run())
    while not running.done():
        await asyncio.wait([running], timeout=1.0)
        memory.append(server.resident_mib())
        if len(memory) % 10 == 0:
            save(await asyncio.to_thread(result))
    await running
    for _ in range(SETTLE):
        final = await asyncio.to_thread(result)
        if all(final["agree"].values()):
            break
        await asyncio.sleep(1.0)
    ours.send("stop")
    health = await asyncio.to_thread(ours.recv)
    prober.join()
    final["health_ms"] = {
        "probes": len(health),
        "p50": round(1e3 * float(np.percentile(health, 50)), 2),
        "p99": round(1e3 * float(np.percentile(health, 99)), 2),
        "most": round(1e3 * max(health), 2),
    }
    save(final)
