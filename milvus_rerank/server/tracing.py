"""OpenTelemetry traces of the server: a span per request, per call of a model and per stage, and their export."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from itertools import islice
from typing import Any

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.instrumentation.asgi import OpenTelemetryMiddleware
from opentelemetry.metrics import NoOpMeterProvider
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor

from milvus_rerank.results import RerankResult, rank
from milvus_rerank.server.body import Call
from milvus_rerank.tracing import Telemetry


class Traces:
    """Create spans for requests and their stages.

    :param provider: the provider that exports the spans.
    """

    def __init__(self, provider: TracerProvider) -> None:
        self._provider = provider
        # The texts are those of other people, and /metrics has the durations.
        self._telemetry = Telemetry(provider, NoOpMeterProvider(), texts="none")

    def span(self, stage: str) -> AbstractContextManager[Any]:
        """Start a span for a stage of the current request."""
        return self._telemetry.span(stage, "CHAIN", {})

    @contextmanager
    def reranking(self, model: str, call: Call) -> Iterator[Callable[[Sequence[float]], None] | None]:
        """Wrap a model's call in the spans of :meth:`milvus_rerank.tracing.Telemetry.reranking`.

        :param model: the model's name.
        :param call: the queries with their documents.
        :yields: the function to call with the scores of all documents; None if no one records the spans.
        """

        def document(query: int, index: int, score: float | None = None) -> RerankResult[Any]:
            return RerankResult(call.requests[query][1][index], score, index)

        with self._telemetry.reranking(model, call.requests, document, call.top_k) as record:

            def record_scores(scores: Sequence[float]) -> None:
                remaining = iter(scores)
                results = []
                for query, (_, texts) in enumerate(call.requests):
                    part = list(islice(remaining, len(texts)))
                    results.append([document(query, index, part[index]) for index in rank(part, call.top_k)])
                if record is not None:
                    record(results)

            yield record and record_scores

    def wrap(self, application: Any) -> Any:
        """Wrap an application so that each request is a span, within the client's trace if the request names one."""
        return OpenTelemetryMiddleware(application, tracer_provider=self._provider, exclude_spans=["receive", "send"])

    def close(self) -> None:
        """Export the remaining spans."""
        self._provider.shutdown()


def export() -> Traces:
    """Return traces with an exporter that OpenTelemetry's environment variables configure."""
    provider = TracerProvider(resource=Resource.create({"service.name": "milvus-rerank"}))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    return Traces(provider)
