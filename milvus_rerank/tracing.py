"""OpenTelemetry spans and metrics of calls, with the attributes of OpenInference's semantic conventions.

Import this module only if ``"opentelemetry.trace" in sys.modules``: a provider can be set only where OpenTelemetry has
been imported, so a process without it pays nothing.
"""

import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from functools import lru_cache
from inspect import signature
from typing import Any, Literal, get_args

from opentelemetry import metrics, trace
from opentelemetry.trace import Span, Status, StatusCode

from milvus_rerank.results import RerankResult
from milvus_rerank.validation import check_choice

Texts = Literal["none", "query", "all"]
"""The texts in spans: none, only queries, or queries and documents."""
TEXTS: tuple[Texts, ...] = get_args(Texts)
VARIABLE = "MILVUS_RERANK_TRACE_TEXTS"
"""The environment variable that names the texts in spans."""

Kind = Literal["CHAIN", "EMBEDDING", "RETRIEVER", "RERANKER"]
Document = RerankResult[Any]
Recorder = Callable[[Sequence[Sequence[Document]]], None]
"""Takes the results of each query of a call."""

KIND, MODEL, STAGE, ERROR = "openinference.span.kind", "reranker.model_name", "milvus_rerank.stage", "error.type"
_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
_LIMIT = "OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT"
_RESERVED = 16
"""The attributes of a span that are not of documents, with some for the user's span processors."""
_QUERIES = 100
"""The most spans of single queries in a call."""


class Telemetry:
    """Create the spans and record the metrics of calls.

    :param tracer_provider: exports the spans.
    :param meter_provider: exports the metrics.
    :param texts: the texts in spans if the environment names none.
    """

    def __init__(
        self,
        tracer_provider: trace.TracerProvider,
        meter_provider: metrics.MeterProvider,
        texts: Texts = "query",
    ) -> None:
        version = sys.modules["milvus_rerank"].__version__  # to import it would be an arrow that points up
        self._tracer = tracer_provider.get_tracer("milvus_rerank", version)
        self._texts: Texts = texts
        meter = meter_provider.get_meter("milvus_rerank", version)
        advice = "explicit_bucket_boundaries_advisory"  # of OpenTelemetry 1.30; the default is for milliseconds
        buckets: dict[str, Any] = {advice: _SECONDS} if advice in signature(meter.create_histogram).parameters else {}
        self._duration = meter.create_histogram(
            "milvus_rerank.rerank.duration", "s", "Seconds that the scoring of a call takes", **buckets
        )
        self._pairs = meter.create_counter("milvus_rerank.rerank.pairs", "{pair}", "Pairs of query and document")

    @contextmanager
    def reranking(
        self,
        model: str,
        requests: Sequence[tuple[str, Sequence[str]]],
        document: Callable[[int, int], Document],
        top_k: int | None,
        stage: int | None = None,
    ) -> Iterator[Recorder | None]:
        """Wrap the scoring of a call in a RERANKER span; for several queries, in a CHAIN with one for each, up to 100.

        :param model: the model's name.
        :param requests: queries with their documents.
        :param document: returns a document from the positions of its query and of itself.
        :param top_k: the most results of each query; None for all.
        :param stage: the number of a cascade's stage, from 0; None for a call.
        :yields: the function to call with the results; None if no one records the span.
        """
        single, texts, start = len(requests) == 1, self._read_texts(), time.perf_counter()
        labels: dict[str, str | int] = {MODEL: model, **({} if stage is None else {STAGE: stage})}

        def describe(span: Span, query: int, results: Sequence[Document]) -> None:
            text, room = requests[query][0], _attribute_limit(span) - _RESERVED
            count = len(requests[query][1])
            candidates = [document(query, index) for index in range(min(count, room))]
            documents = _documents(room, candidates, results, texts == "all")
            counts = {"milvus_rerank.documents": count, "milvus_rerank.results": len(results)}
            query_text = {} if texts == "none" else {"reranker.query": text, "input.value": text}
            limit = {} if top_k is None else {"reranker.top_k": top_k}
            span.set_attributes({KIND: "RERANKER", **labels, **limit, **query_text, **counts, **documents})

        try:
            several = {} if single else {"milvus_rerank.queries": len(requests)}
            with self.span("rerank", "RERANKER" if single else "CHAIN", {**labels, **several}) as call:
                begin = time.time_ns()

                def record(results: Sequence[Sequence[Document]]) -> None:
                    if single:
                        describe(call, 0, results[0])
                        return
                    for query, ranked in enumerate(results[:_QUERIES]):
                        span = self._tracer.start_span("rerank", start_time=begin, attributes=labels)
                        describe(span, query, ranked)
                        span.end()

                yield record if call.is_recording() else None
        except BaseException as error:
            labels = {**labels, ERROR: type(error).__name__}
            raise
        finally:
            self._duration.record(time.perf_counter() - start, labels)
            self._pairs.add(sum(len(documents) for _, documents in requests), labels)

    @contextmanager
    def searching(
        self, collection: str, queries: Sequence[str], read: Callable[[Any], Sequence[Document]]
    ) -> Iterator["SearchSpans"]:
        """Wrap a two-stage search in a CHAIN span.

        :param collection: the collection's name.
        :param queries: the queries.
        :param read: returns the hits of one query from Milvus' result.
        :yields: the spans of its stages.
        """
        attributes = {"db.system.name": "milvus", "db.collection.name": collection}
        if len(queries) == 1 and self._read_texts() != "none":
            attributes["input.value"] = queries[0]
        attributes["milvus_rerank.queries"] = len(queries)  # type: ignore[assignment]
        with self.span("two_stage_search", "CHAIN", attributes) as span, ExitStack() as stages:
            yield SearchSpans(self, span, stages, read if len(queries) == 1 else lambda hits: ())

    @contextmanager
    def span(self, name: str, kind: Kind, attributes: Mapping[str, Any]) -> Iterator[Span]:
        """Start a span, and make it the current one.

        An error's message may repeat a text: the span has it only if it has all texts, else only the error's type.
        """
        everything = self._read_texts() == "all"
        with self._tracer.start_as_current_span(
            name,
            attributes={KIND: kind, **attributes},
            record_exception=everything,
            set_status_on_exception=False,
        ) as span:
            try:
                yield span
            except BaseException as error:
                span.set_attribute(ERROR, type(error).__name__)
                span.set_status(Status(StatusCode.ERROR, str(error) if everything else type(error).__name__))
                raise

    def documents(self, span: Span, name: str, documents: Sequence[Document]) -> dict[str, Any]:
        """Return the attributes of hits with their distances, as many as a span holds."""
        room = _attribute_limit(span) - _RESERVED
        return _list(name, documents, "distance", room, self._read_texts() == "all")

    def _read_texts(self) -> Texts:
        return check_choice(os.environ.get(VARIABLE) or self._texts, VARIABLE, TEXTS)  # type: ignore[return-value]


class SearchSpans:
    """The spans of a search's stages: EMBEDDING, then RETRIEVER; the reranker's own call is the third.

    :param telemetry: creates the spans.
    :param search: the span of the search.
    :param stages: closes the span of the current stage.
    :param read: returns the hits of Milvus' result.
    """

    def __init__(
        self, telemetry: Telemetry, search: Span, stages: ExitStack, read: Callable[[Any], Sequence[Document]]
    ) -> None:
        self._telemetry, self._search, self._stages, self._read = telemetry, search, stages, read
        stages.enter_context(telemetry.span("embed", "EMBEDDING", {}))
        self._retrieval: Span | None = None

    def lap(self, hits: Any) -> None:
        """End a stage: the first, or the second with the hits that Milvus returned."""
        span = self._retrieval
        if span is not None and span.is_recording():
            span.set_attributes(self._telemetry.documents(span, "retrieval.documents", self._read(hits)))
        self._stages.close()
        if span is None:
            self._retrieval = self._stages.enter_context(self._telemetry.span("search", "RETRIEVER", {}))

    def finish(self, seconds: Mapping[str, float], error: Exception | None) -> None:
        """Note the seconds of each stage, and whether the reranker failed."""
        self._search.set_attributes({f"milvus_rerank.seconds.{stage}": value for stage, value in seconds.items()})
        self._search.set_attribute("milvus_rerank.reranked", error is None)


def current() -> Telemetry | None:
    """Return the telemetry of OpenTelemetry's global providers; None if none is set."""
    tracer_provider, meter_provider = trace.get_tracer_provider(), metrics.get_meter_provider()
    if _is_default(tracer_provider) and _is_default(meter_provider):
        return None
    return _telemetry(tracer_provider, meter_provider)


def reranking(
    reranker: object,
    requests: Sequence[tuple[str, Sequence[str]]],
    document: Callable[[int, int], Document],
    top_k: int | None,
    stage: int | None = None,
) -> AbstractContextManager[Recorder | None]:
    """Return the spans of a call of a reranker, as :meth:`Telemetry.reranking` does; without a provider, nothing."""
    telemetry = current()
    if telemetry is None or not requests:
        return nullcontext()
    names = (getattr(reranker, name, None) for name in ("model_name", "name"))
    model = next((str(name) for name in names if name), type(reranker).__name__)
    return telemetry.reranking(model, requests, document, top_k, stage)


def searching(
    collection: str, queries: Sequence[str], read: Callable[[Any], Sequence[Document]]
) -> AbstractContextManager[SearchSpans | None]:
    """Return the spans of a search, as :meth:`Telemetry.searching` does; without a provider, nothing."""
    telemetry = current()
    return nullcontext() if telemetry is None else telemetry.searching(collection, queries, read)


_telemetry = lru_cache(maxsize=4)(Telemetry)


def _is_default(provider: object) -> bool:
    """Return True for a provider of OpenTelemetry's API, which exports nothing."""
    return type(provider).__module__.startswith(("opentelemetry.trace", "opentelemetry.metrics"))


def _attribute_limit(span: Span) -> int:
    """Return the most attributes of a span: its SDK drops those beyond, and logs a warning for each."""
    limits = getattr(span, "_limits", None)
    if limits is None:
        return int(os.environ.get(_LIMIT) or 128)
    most = getattr(limits, "max_span_attributes", 128)
    return 2**31 if most is None else int(most)


def _documents(room: int, inputs: Sequence[Document], outputs: Sequence[Document], content: bool) -> dict[str, Any]:
    """Return the attributes of a reranker's documents, from the first on: the most that there is room for."""
    before = _list("reranker.input_documents", inputs, "distance", room, content)
    after = _list("reranker.output_documents", outputs, "score", max(room // 2, room - len(before)), content)
    return _list("reranker.input_documents", inputs, "distance", room - len(after), content) | after


def _list(name: str, documents: Sequence[Document], score: str, room: int, content: bool) -> dict[str, Any]:
    attributes: dict[str, Any] = {}
    for number, document in enumerate(documents):
        key = document.index if document.id is None else document.id
        value = getattr(document, score)
        entry: dict[str, Any] = {"id": key if isinstance(key, (int, str)) else str(key)}
        if value is not None:
            entry["score"] = float(value)
        if content:
            entry["content"] = document.text
        if len(attributes) + len(entry) > room:
            break
        attributes |= {f"{name}.{number}.document.{part}": item for part, item in entry.items()}
    return attributes
