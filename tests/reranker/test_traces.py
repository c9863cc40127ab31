"""Spans and metrics of rerankers, with OpenTelemetry's SDK and exporters in memory."""

import asyncio
import logging
import subprocess
import sys
from collections.abc import Iterator
from inspect import signature
from typing import Any

import pytest
from fault_server import fault_server, remote
from opentelemetry import metrics
from opentelemetry.sdk.trace import SpanLimits
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF
from opentelemetry.trace import StatusCode
from recorded import Recorded, recording
from stubborn import Stubborn

from milvus_rerank import CrossEncoderRerankFunction, LexicalRerankFunction
from milvus_rerank.errors import InputError, StoppedError

pytestmark = pytest.mark.compat
TEXTS = ["a cat sleeps", "a dog barks", "trees have bark"]
HITS = [{"id": 10 + n, "distance": 0.5 - n / 10, "entity": {"text": text}} for n, text in enumerate(TEXTS)]
RERANKER = LexicalRerankFunction()
DURATION, PAIRS = "milvus_rerank.rerank.duration", "milvus_rerank.rerank.pairs"


@pytest.fixture
def recorded(monkeypatch: pytest.MonkeyPatch) -> Iterator[Recorded]:
    with recording(monkeypatch) as recorded:
        yield recorded


def documents(attributes: dict[str, Any], name: str) -> list[dict[str, Any]]:
    """Return the documents of a span, as the attributes of OpenInference list them."""
    found: dict[int, dict[str, Any]] = {}
    for key, value in attributes.items():
        if key.startswith(f"reranker.{name}."):
            number, _, part = key.removeprefix(f"reranker.{name}.").partition(".document.")
            found.setdefault(int(number), {})[part] = value
    return [found[number] for number in range(len(found))]


def test_reranked_hits_are_a_reranker_span_with_ids_distances_and_scores(recorded: Recorded) -> None:
    reranker = CrossEncoderRerankFunction("builtin/rerank", device="cpu", threads=1)
    results = reranker.rerank_hits("who barks", HITS, top_k=2)
    attributes = recorded["rerank"]
    assert documents(attributes, "input_documents") == [{"id": hit["id"], "score": hit["distance"]} for hit in HITS]
    assert documents(attributes, "output_documents") == [{"id": result.id, "score": result.score} for result in results]
    assert {key: value for key, value in attributes.items() if "_documents." not in key} == {
        "openinference.span.kind": "RERANKER",
        "reranker.model_name": "builtin/rerank",
        "reranker.query": "who barks",
        "input.value": "who barks",
        "reranker.top_k": 2,
        "milvus_rerank.documents": 3,
        "milvus_rerank.results": 2,
    }
    assert "cat" not in recorded.spans()[0].to_json()


@pytest.mark.parametrize(
    ("word", "query", "content"), [("all", True, True), ("query", True, False), ("none", False, False)]
)
def test_the_environment_says_which_texts_spans_hold(
    recorded: Recorded, monkeypatch: pytest.MonkeyPatch, word: str, query: bool, content: bool
) -> None:
    monkeypatch.setenv("MILVUS_RERANK_TRACE_TEXTS", word)
    RERANKER.rerank("the dog", TEXTS, top_k=1)
    attributes = recorded["rerank"]
    assert ("reranker.query" in attributes, "input.value" in attributes) == (query, query)
    expected = [{"id": n, **({"content": text} if content else {})} for n, text in enumerate(TEXTS)]
    assert documents(attributes, "input_documents") == expected
    assert documents(attributes, "output_documents") == [{**expected[1], "score": 0.5}]
    assert ("the dog" in recorded.spans()[0].to_json()) == query


def test_another_word_in_the_environment_is_an_error(recorded: Recorded, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MILVUS_RERANK_TRACE_TEXTS", "1")
    with pytest.raises(InputError, match="MILVUS_RERANK_TRACE_TEXTS must be one of 'none', 'query', 'all', got '1'"):
        RERANKER("the dog", TEXTS)


def test_many_queries_are_a_chain_with_a_reranker_span_for_each(recorded: Recorded) -> None:
    answers = RERANKER.rerank_many(["the dog", "trees"], [TEXTS, TEXTS[1:]], top_k=1)
    *queries, call = recorded.spans()
    assert dict(call.attributes or {}) == {
        "openinference.span.kind": "CHAIN",
        "reranker.model_name": "LexicalRerankFunction",
        "milvus_rerank.queries": 2,
    }
    found = [dict(span.attributes or {}) for span in queries]
    assert [attributes["openinference.span.kind"] for attributes in found] == ["RERANKER", "RERANKER"]
    assert [attributes["reranker.query"] for attributes in found] == ["the dog", "trees"]
    assert [documents(attributes, "output_documents") for attributes in found] == [
        [{"id": answer[0].index, "score": answer[0].score}] for answer in answers
    ]
    for span in queries:
        assert span.parent is not None
        assert span.parent.span_id == call.context.span_id
        assert call.start_time <= span.start_time < span.end_time <= call.end_time  # type: ignore[operator]


def test_a_call_with_thousands_of_queries_has_a_bounded_number_of_spans(recorded: Recorded) -> None:
    assert len(RERANKER.score_pairs([(f"query {number}", "text") for number in range(3000)])) == 3000
    assert len(recorded.spans()) == 101
    assert recorded.spans()[-1].attributes["milvus_rerank.queries"] == 3000  # type: ignore[index]


def test_scores_alone_and_pairs_are_spans_too(recorded: Recorded) -> None:
    RERANKER.score("the dog", TEXTS)
    RERANKER.score_pairs([("the dog", TEXTS[0]), ("the dog", TEXTS[1])])
    first, second = (dict(span.attributes or {}) for span in recorded.spans())
    assert [document["id"] for document in documents(first, "output_documents")] == [1, 0, 2]
    assert [document["id"] for document in documents(second, "output_documents")] == [1, 0]


def test_a_call_without_documents_or_queries_ends_as_ever(recorded: Recorded) -> None:
    assert list(RERANKER("the dog", [])) == []
    assert RERANKER.rerank_many([], []) == []
    assert [span.attributes["milvus_rerank.documents"] for span in recorded.spans()] == [0]  # type: ignore[index]


def test_a_hit_without_a_text_is_last_and_has_no_score(recorded: Recorded) -> None:
    RERANKER.rerank_hits("the dog", [{"id": 1, "distance": 0.1, "entity": {"text": None}}, *HITS], missing="last")
    assert documents(recorded["rerank"], "output_documents")[-1] == {"id": 1}
    assert [document["id"] for document in documents(recorded["rerank"], "input_documents")] == [10, 11, 12]


@pytest.mark.parametrize("word", ["query", "all"])
def test_an_error_is_in_the_span_without_its_message_unless_all_texts_are(
    recorded: Recorded, monkeypatch: pytest.MonkeyPatch, word: str
) -> None:
    monkeypatch.setenv("MILVUS_RERANK_TRACE_TEXTS", word)
    with pytest.raises(RuntimeError):
        Stubborn()("q", ["raise"])
    [span] = recorded.spans()
    assert span.status.status_code is StatusCode.ERROR
    assert (span.attributes or {})["error.type"] == "RuntimeError"
    message = "secret1text in a message"
    assert span.status.description == (message if word == "all" else "RuntimeError")
    assert [event.name for event in span.events] == (["exception"] if word == "all" else [])
    assert (message in span.to_json()) == (word == "all")
    [point] = recorded.points(DURATION)
    assert dict(point.attributes) == {"reranker.model_name": "Stubborn", "error.type": "RuntimeError"}


def test_a_span_holds_as_many_documents_as_its_limit_allows_and_the_best_results_first(
    recorded: Recorded, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        RERANKER.rerank_hits("the dog", [{**HITS[n % 3], "id": n} for n in range(1000)])
    [span] = recorded.spans()
    attributes = dict(span.attributes or {})
    assert (span.dropped_attributes, caplog.records) == (0, [])
    assert len(attributes) <= 128
    assert attributes["milvus_rerank.documents"] == attributes["milvus_rerank.results"] == 1000
    assert [document["id"] for document in documents(attributes, "output_documents")] == list(range(1, 84, 3))
    assert [document["id"] for document in documents(attributes, "input_documents")] == list(range(28))


def test_a_larger_limit_holds_all_documents(monkeypatch: pytest.MonkeyPatch) -> None:
    with recording(monkeypatch, span_limits=SpanLimits(max_span_attributes=10_000)) as recorded:
        RERANKER.rerank_hits("the dog", [{**HITS[n % 3], "id": n} for n in range(1000)], top_k=50)
    assert len(documents(recorded["rerank"], "input_documents")) == 1000
    assert len(documents(recorded["rerank"], "output_documents")) == 50


def test_metrics_count_pairs_and_seconds_by_model(recorded: Recorded) -> None:
    RERANKER("the dog", TEXTS)
    RERANKER.rerank_many(["a", "b"], [TEXTS, TEXTS[:1]])
    [pairs], [duration] = recorded.points(PAIRS), recorded.points(DURATION)
    assert (pairs.value, duration.count) == (7, 2)
    assert dict(pairs.attributes) == dict(duration.attributes) == {"reranker.model_name": "LexicalRerankFunction"}
    assert 0 < duration.sum < 10
    advised = "explicit_bucket_boundaries_advisory" in signature(metrics.Meter.create_histogram).parameters
    assert duration.explicit_bounds[0] == (0.001 if advised else 0)


def test_a_trace_that_is_not_sampled_has_metrics_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    with recording(monkeypatch, sampler=ALWAYS_OFF) as recorded:
        assert RERANKER("the dog", TEXTS)[0].index == 1
    assert recorded.spans() == []
    assert recorded.points(PAIRS)[0].value == 3


def test_spans_of_calls_off_the_event_loop_belong_to_the_callers_span(recorded: Recorded) -> None:
    async def main() -> None:
        with recorded.tracer_provider.get_tracer("test").start_as_current_span("question"):
            await RERANKER.arerank("the dog", TEXTS)

    asyncio.run(main())
    assert recorded.tree() == {"rerank": "question", "question": None}


def test_a_stopped_call_is_an_error_of_its_span(recorded: Recorded) -> None:
    class Stopping(Stubborn):
        def score_requests(self, requests: Any, stop: Any) -> list[list[float]]:
            raise StoppedError("the caller left")

    with pytest.raises(StoppedError):
        Stopping()("q", ["text"])
    assert recorded["rerank"]["error.type"] == "StoppedError"


@pytest.mark.needs("httpx")
def test_calls_of_a_service_are_spans_with_and_without_an_event_loop(recorded: Recorded) -> None:
    with fault_server() as faults, remote(faults.address, model_name="jina-m") as reranker:
        reranker("q", ["a", "bbb"])
        asyncio.run(reranker.arerank("q", ["a", "bbb"]))
    first, second = (dict(span.attributes or {}) for span in recorded.spans())
    assert first == second
    assert first["reranker.model_name"] == "jina-m"
    assert documents(first, "output_documents") == [{"id": 1, "score": 3.0}, {"id": 0, "score": 1.0}]


def run(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout


CALLS = """
from milvus_rerank import LexicalRerankFunction
import asyncio, sys
reranker = LexicalRerankFunction()
def call():
    reranker("the dog", ["a cat", "the dog"])
    asyncio.run(reranker.arerank("the dog", ["a cat", "the dog"]))
"""


def test_without_a_provider_no_telemetry_is_imported_even_if_opentelemetry_is() -> None:
    code = f"{CALLS}call(); print('opentelemetry' in sys.modules)\n"
    code += "from opentelemetry import metrics, trace\ncall(); print('milvus_rerank.tracing' in sys.modules)"
    assert run(code) == "False\nFalse\n"


def test_a_provider_that_is_set_between_two_calls_gets_the_spans_of_the_second() -> None:
    code = f"""{CALLS}
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
exporter, provider = InMemorySpanExporter(), TracerProvider()
provider.add_span_processor(SimpleSpanProcessor(exporter))
call()
trace.set_tracer_provider(provider)
call()
print([span.name for span in exporter.get_finished_spans()])
"""
    assert run(code) == "['rerank', 'rerank']\n"


def test_a_meter_provider_alone_gets_the_metrics() -> None:
    code = f"""{CALLS}
from opentelemetry import metrics
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
reader = InMemoryMetricReader()
metrics.set_meter_provider(MeterProvider([reader]))
call()
[scope] = reader.get_metrics_data().resource_metrics[0].scope_metrics
print(scope.scope.name, [(metric.name, metric.unit) for metric in scope.metrics])
"""
    expected = [("milvus_rerank.rerank.duration", "s"), ("milvus_rerank.rerank.pairs", "{pair}")]
    assert run(code) == f"milvus_rerank {expected}\n"
