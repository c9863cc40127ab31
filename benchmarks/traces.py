"""Cost of traces in a call: python benchmarks/traces.py [--rounds N]. Writes results/traces.json.

Runs in the package's own environment. A reranker without a model scores one document and 100 hits, so that a call is
little but the package's own work; one whose calls know no traces takes turns with it. The last state exports to memory.
"""

import argparse
import json
import threading
import time
from collections.abc import Callable, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from machine import machine

from milvus_rerank import BaseRerankFunction
from milvus_rerank.reranker.call import CheckedCall
from milvus_rerank.results import DocumentScores
from milvus_rerank.scoring import Request

RESULTS = Path(__file__).resolve().parent / "results"
HITS = [{"id": n, "distance": 1 - n / 100, "entity": {"text": f"document {n} on cats"}} for n in range(100)]
Calls = dict[str, Callable[[], object]]


class Constant(BaseRerankFunction):
    """Gives every document the same score."""

    def score_requests(self, requests: Sequence[Request], stop: threading.Event) -> list[list[float]]:
        """Score without a model."""
        return [[0.0] * len(documents) for _, documents in requests]


class WithoutTraces(Constant):
    """The same, with calls that know no traces."""

    def _score(
        self, checked: CheckedCall, instruction: str | None, stop: threading.Event | None = None
    ) -> list[DocumentScores]:
        reranker = self if instruction is None else self.with_instruction(instruction)
        requests, stop = [request for request in checked.requests if request[1]], stop or threading.Event()
        return checked.check_scores(reranker.score_documents(requests, checked.top_k, stop))


def calls() -> Calls:
    """The calls that are timed."""
    traced, plain = Constant(), WithoutTraces()
    texts = ["a text"]
    return {
        "1 text": lambda: traced("a query", texts),
        "1 text, without traces": lambda: plain("a query", texts),
        "100 hits": lambda: traced.rerank_hits("a query", HITS, top_k=10),
        "100 hits, without traces": lambda: plain.rerank_hits("a query", HITS, top_k=10),
    }


def microseconds(timed: Calls, rounds: int) -> dict[str, float]:
    """Microseconds of each call, by turns: the least of all rounds, for other work on the machine only adds to them."""
    numbers = {name: 300 if name.startswith("1 ") else 20 for name in timed}
    times: dict[str, list[float]] = {name: [] for name in timed}
    for round_number in range(rounds + 1):
        for name, call in timed.items():
            start = time.perf_counter()
            for _ in range(numbers[name]):
                call()
            if round_number:  # the first one warms up
                times[name].append((time.perf_counter() - start) / numbers[name] * 1e6)
    return {name: round(min(seconds), 2) for name, seconds in times.items()}


def main() -> None:
    """Measure, save, print."""
    parser = argparse.ArgumentParser(prog="python benchmarks/traces.py", description=__doc__)
    parser.add_argument("--rounds", type=int, default=300)
    args = parser.parse_args()
    timed = calls()
    states: dict[str, Any] = {"not imported": microseconds(timed, args.rounds)}
    from opentelemetry import metrics, trace

    states["imported, no provider"] = microseconds(timed, args.rounds)
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.metrics.export import InMemoryMetricReader
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

    provider, exporter = TracerProvider(), InMemorySpanExporter()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    trace.set_tracer_provider(provider)
    metrics.set_meter_provider(MeterProvider([InMemoryMetricReader()]))
    states["providers"] = microseconds(timed, args.rounds)
    result = {
        "date": datetime.now(timezone.utc).date().isoformat(),
        "machine": machine(),
        "rounds": args.rounds,
        "microseconds": states,
    }
    path = RESULTS / "traces.json"
    path.write_text(json.dumps(result, indent=1) + "\n", "utf-8")
    print(json.dumps(states, indent=1), f"\nwritten to {path}")


if __name__ == "__main__":
    main()
