"""What the server costs and stands, on loopback: python benchmarks/serving.py [--minutes N] [--only REGEX | --soak].

Runs in the package's own environment. Starts ``milvus-rerank serve`` with builtin/rerank and asks it from this process;
what it is compared with runs in this process too, by turns, never at the same time. Writes results/serving.json. With
``--soak`` mixed clients ask at once for so many minutes, good ones and bad ones; writes results/soak.json as it goes.
"""

import argparse
import asyncio
import json
import random
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime, timezone
from http.client import HTTPConnection
from pathlib import Path
from statistics import median
from typing import Any

import httpx
import numpy as np
from machine import machine
from soak import soak
from texts import Request, load_texts

from milvus_rerank import CrossEncoderRerankFunction

RESULTS = Path(__file__).resolve().parent / "results"
DEADLINE = 10.0  # seconds; short enough that an overload shows itself in a minute
DOCUMENTS = 20


class Server:
    """A server in a process of its own."""

    def __init__(self, process: subprocess.Popen[bytes], address: str) -> None:
        self.process, self.address = process, address

    def resident_mib(self) -> float:
        """What it holds in memory now."""
        found = re.search(r"VmRSS:\s+(\d+)", Path(f"/proc/{self.process.pid}/status").read_text())
        return round(int(found[1]) / 1024, 1) if found else 0.0

    def counts(self) -> dict[str, float]:
        """The counters of /metrics, by name and labels."""
        lines = httpx.get(f"{self.address}/metrics").text.splitlines()
        return {line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in lines if not line.startswith("#")}


@contextmanager
def serving(*options: str) -> Iterator[Server]:
    """Run the server while the block does."""
    command = [str(Path(sys.executable).with_name("milvus-rerank")), "serve", "--port", "0", *options]
    log = RESULTS.parent / ".models" / "serving.log"
    log.parent.mkdir(exist_ok=True)
    with log.open("wb") as lines:
        process = subprocess.Popen(command, stderr=lines)
        try:
            address = None
            while address is None:
                time.sleep(0.05)
                assert process.poll() is None, log.read_text()
                found = re.search(r'"address": "(http[^"]+)"', log.read_text())
                address = found[1] if found else None
            while httpx.get(f"{address}/ready").status_code != 200:
                time.sleep(0.05)
            yield Server(process, address)
            process.send_signal(signal.SIGTERM)
            process.wait(60)
        finally:
            process.kill()


def body(request: Request) -> dict[str, Any]:
    """A request as Cohere's clients send it."""
    return {"query": request.query, "documents": list(request.documents)}


def overhead(server: Server, reranker: Any, requests: Sequence[Request], rounds: int) -> dict[str, Any]:
    """One client, one request after the other, by turns with calls in this process."""
    here, there = [], []
    client = HTTPConnection(server.address.removeprefix("http://"))  # the client with the least cost of its own
    for number in range(rounds + 2):
        request = requests[number % len(requests)]
        began = time.perf_counter()
        scores = reranker.score(request.query, request.documents)
        middle = time.perf_counter()
        client.request("POST", "/v2/rerank", json.dumps(body(request)), {"content-type": "application/json"})
        answer = json.loads(client.getresponse().read())
        end = time.perf_counter()
        served = {row["index"]: row["relevance_score"] for row in answer["results"]}
        assert max(abs(served[place] - score) for place, score in enumerate(scores)) < 1e-4
        if number >= 2:  # the first ones warm both
            here.append(middle - began)
            there.append(end - middle)
    client.close()
    differences = [1e3 * (b - a) for a, b in zip(here, there, strict=True)]
    return {
        "requests": rounds,
        "in_process_p50_ms": round(1e3 * median(here), 2),
        "served_p50_ms": round(1e3 * median(there), 2),
        "overhead_of_p50_ms": round(1e3 * (median(there) - median(here)), 2),
        "median_of_overheads_ms": round(median(differences), 2),
    }


async def closed(server: Server, requests: Sequence[Request], clients: int) -> tuple[float, list[float]]:
    """So many clients, each with one request at a time, until all are answered; seconds, and those of each."""
    waiting = list(requests)
    times: list[float] = []

    async def work() -> None:
        async with httpx.AsyncClient(base_url=server.address, timeout=60) as client:
            while waiting:
                request = waiting.pop()
                began = time.perf_counter()
                answer = await client.post("/v2/rerank", json=body(request))
                assert answer.status_code == 200, answer.text
                times.append(time.perf_counter() - began)

    began = time.perf_counter()
    await asyncio.gather(*(work() for _ in range(clients)))
    return time.perf_counter() - began, times


def throughput(server: Server, reranker: Any, requests: Sequence[Request], rounds: int) -> dict[str, Any]:
    """16 clients, by turns with all the same pairs in one call of this process."""
    pairs = [(request.query, document) for request in requests for document in request.documents]
    here, there = [], []
    for _ in range(rounds):
        began = time.perf_counter()
        reranker.score_pairs(pairs)
        here.append(time.perf_counter() - began)
        there.append(asyncio.run(closed(server, requests, 16))[0])
    return {
        "clients": 16,
        "requests": len(requests),
        "pairs": len(pairs),
        "rounds": rounds,
        "in_process_pairs_per_second": round(len(pairs) / median(here), 1),
        "served_pairs_per_second": round(len(pairs) / median(there), 1),
        "share_of_in_process": round(median(a / b for a, b in zip(here, there, strict=True)), 3),
        "share_from_to": [
            round(one, 3) for one in sorted(a / b for a, b in zip(here, there, strict=True))[:: max(1, rounds - 1)]
        ],
        "requests_per_second": round(len(requests) / median(there), 3),
    }


async def arrivals(server: Server, requests: Sequence[Request], rate: float, seconds: float) -> dict[str, Any]:
    """Requests that come at random times, whether the former are answered or not; the server's memory beside it."""
    generator = random.Random(0)
    times: dict[int, list[float]] = {}
    memory = [server.resident_mib()]
    end = time.monotonic() + seconds

    async def one(client: httpx.AsyncClient, request: Request) -> None:
        began = time.perf_counter()
        answer = await client.post("/v2/rerank", json=body(request))
        took = time.perf_counter() - began
        times.setdefault(answer.status_code, []).append(took)

    async def watch() -> None:
        while True:
            await asyncio.sleep(min(5.0, seconds / 20))
            memory.append(server.resident_mib())

    limits = httpx.Limits(max_connections=1000, max_keepalive_connections=100)
    async with httpx.AsyncClient(base_url=server.address, timeout=60, limits=limits) as client:
        watching = asyncio.create_task(watch())
        tasks = []
        while time.monotonic() < end:
            tasks.append(asyncio.create_task(one(client, generator.choice(requests))))
            await asyncio.sleep(generator.expovariate(rate))
        await asyncio.gather(*tasks)
        watching.cancel()
    tenth = max(1, len(memory) // 10)
    return {
        "requests_per_second": round(rate, 3),
        "seconds": seconds,
        "statuses": {str(status): len(own) for status, own in sorted(times.items())},
        "milliseconds": {str(status): percentiles(own) for status, own in sorted(times.items())},
        "resident_mib": {
            "first": memory[0],
            "after_a_tenth": memory[tenth],
            "last": memory[-1],
            "most": max(memory),
        },
    }


def percentiles(seconds: Sequence[float]) -> dict[str, float]:
    """p50, p99 and the most, in milliseconds."""
    return {
        "p50": round(1e3 * float(np.percentile(seconds, 50)), 2),
        "p99": round(1e3 * float(np.percentile(seconds, 99)), 2),
        "most": round(1e3 * max(seconds), 2),
    }


def main() -> None:
    """Measure, save, print."""
    parser = argparse.ArgumentParser(prog="python benchmarks/serving.py", description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0, help="how long the steady load lasts")
    parser.add_argument("--only", default="", help="a regular expression on parts' names; the others stay as they are")
    parser.add_argument("--soak", action="store_true", help="only mixed clients, good and bad, for --minutes")
    parser.add_argument("--output", type=Path, help="default: results/serving.json, or results/soak.json")
    args = parser.parse_args()
    args.output = args.output or RESULTS / ("soak.json" if args.soak else "serving.json")
    texts = load_texts(50)
    mixed = [Request(request.query, request.documents[:DOCUMENTS]) for request in texts.requests]
    short = [texts.short(DOCUMENTS, number) for number in range(60)]
    command = shlex.join(["python", "benchmarks/serving.py", *sys.argv[1:]])
    if args.soak:
        facts = {"date": datetime.now(timezone.utc).date().isoformat(), "command": command, "machine": machine()}

        def save(found: dict[str, Any]) -> None:
            args.output.write_text(json.dumps(facts | {"texts": texts.source} | found, indent=1) + "\n", "utf-8")

        with serving() as server:
            asyncio.run(soak(server, short, 60 * args.minutes, save))
        print(args.output.read_text("utf-8"))
        return
    kept = json.loads(args.output.read_text("utf-8")) if args.only and args.output.exists() else {}
    result: dict[str, Any] = kept or {
        "date": datetime.now(timezone.utc).date().isoformat(),
        "command": command,
        "machine": machine(),
        "texts": texts.source,
        "documents_per_request": DOCUMENTS,
        "deadline_seconds_of_arrivals": DEADLINE,
    }

    def part(name: str, work: Any) -> None:
        if re.search(args.only, name):
            result[name] = {**work(), **({"command": command} if args.only else {})}
            print(name, json.dumps(result[name], indent=1), flush=True)
            args.output.write_text(json.dumps(result, indent=1) + "\n", "utf-8")

    reranker = CrossEncoderRerankFunction("builtin/rerank", device="cpu")
    with serving() as server:
        part("overhead_short", lambda: overhead(server, reranker, short, 100))
        part("overhead_mixed", lambda: overhead(server, reranker, mixed, 30))
        part("throughput_short", lambda: throughput(server, reranker, short, 2))
        part("throughput_mixed", lambda: throughput(server, reranker, mixed, 2))
    with serving("--deadline", str(DEADLINE)) as server:
        rate = result.get("throughput_short", {}).get("requests_per_second", 10.0)
        part("overload_4_times", lambda: asyncio.run(arrivals(server, short, 4 * rate, 60)))
        steady = 60 * args.minutes
        part("steady_at_80_percent", lambda: asyncio.run(arrivals(server, short, 0.8 * rate, steady)))
        counts = server.counts()
        requests = sum(value for name, value in counts.items() if name.startswith("milvus_rerank_requests_total"))
        outcomes = sum(value for name, value in counts.items() if name.startswith("milvus_rerank_outcomes_total"))
        # The request that asks for the counts is counted and has no outcome yet.
        result["counts"] = {"requests": requests, "outcomes": outcomes, "adds_up": requests == outcomes + 1}
    args.output.write_text(json.dumps(result, indent=1) + "\n", "utf-8")
    print(f"written to {args.output}")


if __name__ == "__main__":
    main()
