"""OpenTelemetry traces: a span for each request and one for each of its stages. The only module that imports it."""

from contextlib import AbstractContextManager
from typing import Any

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.instrumentation.asgi import OpenTelemetryMiddleware
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor


class Traces:
    """Make spans.

    :param provider: where they go.
    """

    def __init__(self, provider: TracerProvider) -> None:
        self._provider = provider
        self._tracer = provider.get_tracer("milvus_rerank")

    def span(self, stage: str) -> AbstractContextManager[Any]:
        """Time a stage of the request that is being worked on."""
        return self._tracer.start_as_current_span(stage)

    def wrap(self, application: Any) -> Any:
        """Return an application whose requests are spans, of their client's trace where they name one."""
        return OpenTelemetryMiddleware(application, tracer_provider=self._provider, exclude_spans=["receive", "send"])

    def close(self) -> None:
        """Send what has not been sent."""
        self._provider.shutdown()


def export() -> Traces:
    """Return traces that go where OpenTelemetry's own environment variables say."""
    provider = TracerProvider(resource=Resource.create({"service.name": "milvus-rerank"}))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    return Traces(provider)
