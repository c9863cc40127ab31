"""OpenTelemetry traces: a span per request and per stage. Only this module imports OpenTelemetry."""

from contextlib import AbstractContextManager
from typing import Any

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.instrumentation.asgi import OpenTelemetryMiddleware
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor


class Traces:
    """Create spans for requests and their stages.

    :param provider: the provider that exports the spans.
    """

    def __init__(self, provider: TracerProvider) -> None:
        self._provider = provider
        self._tracer = provider.get_tracer("milvus_rerank")

    def span(self, stage: str) -> AbstractContextManager[Any]:
        """Start a span for a stage of the current request."""
        return self._tracer.start_as_current_span(stage)

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
