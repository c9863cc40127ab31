"""Runs one row inside its own environment: JSON lines in on stdin, out on stdout, whatever a library prints on stderr.

    python worker.py '{"row": ..., "setup": {...}, "started": SECONDS, "first": [query, documents], "memory": BYTES}'

It loads the model, scores ``first``, reports, and then answers each line, one set of requests, with one line:
``{"requests": [[query, documents], ...], "threads": 1}``.
"""

import json
import os
import re
import resource
import sys
import threading
import time
from collections.abc import Callable
from importlib.metadata import distributions
from pathlib import Path
from typing import Any, TextIO

from peers import ROWS, Loaded, Setup

Requests = list[tuple[str, list[str]]]
Scores = list[list[float]]


def main() -> None:
    """Load, report, answer until stdin ends."""
    reply = _own_stdout()
    order = json.loads(sys.argv[1])
    # A peer that wants all memory gets an error in its cell instead of taking the machine down with it.
    resource.setrlimit(resource.RLIMIT_DATA, (order["memory"], order["memory"]))
    loaded, report = attempt(lambda: start(order))
    send(reply, report)
    for line in sys.stdin if loaded else ():
        _, report = attempt(lambda line=line: (None, run(loaded, json.loads(line))))
        send(reply, report)
    # infinity's threads would keep the process alive.
    os._exit(0)


def start(order: dict[str, Any]) -> tuple[Loaded, dict[str, Any]]:
    """Load the row and score the first request, timed from before the process began."""
    row = next(row for row in ROWS if row.name == order["row"])
    loaded = row.load(Setup(**order["setup"]))
    ready, peak = time.monotonic(), peak_mib()
    query, documents = order["first"]
    scores = loaded.rank(query, documents)
    done = time.monotonic()
    return loaded, {
        "load_seconds": ready - order["started"],
        "seconds": done - order["started"],
        "peak_mib": peak,
        "scores": floats([scores]),
        "versions": dict(sorted((package.metadata["Name"], package.version) for package in distributions())),
    }


def run(loaded: Loaded, order: dict[str, Any]) -> dict[str, Any]:
    """Score the requests of an order once, timed. Several at a time go through the peer's call for pairs, if any."""
    requests: Requests = [(query, documents) for query, documents in order["requests"]]
    threads = order["threads"]
    call: Callable[[], Any]
    if threads:
        call = lambda: shared(loaded, requests, threads)  # noqa: E731
    elif len(requests) > 1 and loaded.pairs is not None:
        score = loaded.pairs
        pairs = [(query, document) for query, documents in requests for document in documents]
        call = lambda: score(pairs)  # noqa: E731
    else:
        call = lambda: [loaded.rank(query, documents) for query, documents in requests]  # noqa: E731
    reset_peak()
    cpu, started = time.process_time(), time.perf_counter()
    scores = call()
    seconds, cpu = time.perf_counter() - started, time.process_time() - cpu
    peak = peak_mib()
    if not isinstance(scores[0], list):
        each = iter(scores)
        scores = [[next(each) for _ in documents] for _, documents in requests]
    return {"seconds": seconds, "cpu_seconds": cpu, "peak_mib": peak, "scores": floats(scores)}


def shared(loaded: Loaded, requests: Requests, threads: int) -> Scores:
    """Score each request by a call of its own, from threads that share the object."""
    scores: list[Any] = [None] * len(requests)
    errors: list[Exception] = []

    def work(first: int) -> None:
        try:
            for number in range(first, len(requests), threads):
                scores[number] = loaded.rank(*requests[number])
        except Exception as error:  # a peer that breaks under threads is a finding, not the end of the run
            errors.append(error)

    team = [threading.Thread(target=work, args=(number,)) for number in range(threads)]
    for thread in team:
        thread.start()
    for thread in team:
        thread.join()
    if errors:
        raise errors[0]
    return scores


def attempt(work: Callable[[], tuple[Any, dict[str, Any]]]) -> tuple[Any, dict[str, Any]]:
    """Return what the work returns, or a report of what it raised: whatever that is belongs into the peer's cell."""
    try:
        return work()
    except Exception as error:
        return None, {"error": f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"}


def send(reply: TextIO, report: dict[str, Any]) -> None:
    """Write one line."""
    reply.write(json.dumps(report) + "\n")
    reply.flush()


def floats(scores: Scores) -> Scores:
    """Make numpy's floats ones that JSON knows."""
    return [[float(score) for score in row] for row in scores]


def _own_stdout() -> TextIO:
    """Keep stdout for replies; whatever else writes there, C libraries too, goes to stderr."""
    reply = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    return reply


def reset_peak() -> None:
    """Make the kernel count the peak of resident memory anew."""
    Path("/proc/self/clear_refs").write_text("5")


def peak_mib() -> float:
    """The most memory this process had resident since the last reset, in MiB."""
    peak = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    return round(int(peak[1]) / 1024, 1) if peak else 0.0


if __name__ == "__main__":
    main()
