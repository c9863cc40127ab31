"""The server's metrics, in Prometheus' format."""

from collections.abc import Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest

from milvus_rerank.server.batcher import Batcher, BatchReport

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
_SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)
_TOKENS = (64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384, 65536)


class Metrics:
    """Counters, gauges and histograms of one server.

    :param batchers: batchers by device, whose queues are measured; more may be added later.
    """

    def __init__(self, batchers: Mapping[str, Batcher]) -> None:
        self._batchers = batchers
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self.requests = self._counter("requests", "Requests.", "route")
        self.outcomes = self._counter("outcomes", "How requests ended; adds up to requests.", "route", "outcome")
        self.active = self._gauge("active_requests", "Requests without an answer yet.")
        self.documents = self._counter("documents", "Documents scored.", "model")
        self.tokens = self._counter("tokens", "Tokens of documents, each with its query's, without padding.", "model")
        self.stages = self._histogram("stage_seconds", "Seconds of a request in each stage.", _SECONDS, "stage")
        self._pairs = self._histogram("batch_pairs", "Pairs of a batch.", _SIZES, "device")
        self._tokens = self._histogram("batch_tokens", "Tokens of a batch, with padding.", _TOKENS, "device")
        self._requests = self._histogram("batch_requests", "Requests of a batch.", _SIZES, "device")
        self._seconds = self._histogram("batch_seconds", "Seconds of a batch in the model.", _SECONDS, "device")
        self._queue_requests = self._gauge("queue_requests", "Requests with pairs that wait.", "device")
        self._queue_tokens = self._gauge("queue_tokens", "Tokens that wait.", "device")

    def batch(self, device: str, report: BatchReport) -> None:
        """Record a batch."""
        self._pairs.labels(device).observe(report.pairs)
        self._tokens.labels(device).observe(report.tokens)
        self._requests.labels(device).observe(report.requests)
        self._seconds.labels(device).observe(report.seconds)

    def page(self) -> bytes:
        """Return all metrics in Prometheus' text format."""
        for device, batcher in list(self._batchers.items()):
            self._queue_requests.labels(device).set(batcher.waiting_requests)
            self._queue_tokens.labels(device).set(batcher.waiting_tokens)
        return generate_latest(self.registry)

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(f"milvus_rerank_{name}", text, labels, registry=self.registry)

    def _gauge(self, name: str, text: str, *labels: str) -> Gauge:
        return Gauge(f"milvus_rerank_{name}", text, labels, registry=self.registry)

    def _histogram(self, name: str, text: str, buckets: tuple[float, ...], *labels: str) -> Histogram:
        return Histogram(f"milvus_rerank_{name}", text, labels, buckets=buckets, registry=self.registry)
