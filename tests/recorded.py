"""OpenTelemetry's own providers with exporters in memory, in place of the global ones while a block runs."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from opentelemetry import metrics, trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter


class Recorded:
    """Spans and metrics that were exported."""

    def __init__(self, **options: Any) -> None:
        self._exporter, self._reader = InMemorySpanExporter(), InMemoryMetricReader()
        self.tracer_provider = TracerProvider(**options)
        self.tracer_provider.add_span_processor(SimpleSpanProcessor(self._exporter))
        self.meter_provider = MeterProvider([self._reader])

    def spans(self) -> list[ReadableSpan]:
        """Return the spans in the order in which they ended."""
        return list(self._exporter.get_finished_spans())

    def tree(self) -> dict[str, str | None]:
        """Return the name of each span with that of its parent."""
        names = {span.context.span_id: span.name for span in self.spans()}
        return {span.name: span.parent and names[span.parent.span_id] for span in self.spans()}

    def __getitem__(self, name: str) -> dict[str, Any]:
        """Return the attributes of the only span with a name."""
        [span] = [span for span in self.spans() if span.name == name]
        return dict(span.attributes or {})

    def points(self, name: str) -> list[Any]:
        """Return the data points of a metric."""
        found = self._reader.get_metrics_data()
        scopes = [scope for resource in found.resource_metrics for scope in resource.scope_metrics] if found else []
        return [point for scope in scopes for metric in scope.metrics if metric.name == name
                for point in metric.data.data_points]  # fmt: skip


@contextmanager
def recording(monkeypatch: pytest.MonkeyPatch, **options: Any) -> Iterator[Recorded]:
    """Record what the block exports: OpenTelemetry takes its global providers only once in a process."""
    recorded = Recorded(**options)
    with monkeypatch.context() as patch:
        patch.delenv("MILVUS_RERANK_TRACE_TEXTS", raising=False)
        patch.setattr(trace, "get_tracer_provider", lambda: recorded.tracer_provider)
        patch.setattr(metrics, "get_meter_provider", lambda: recorded.meter_provider)
        yield recorded
