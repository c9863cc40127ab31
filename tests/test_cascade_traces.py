"""Spans of a cascade's stages, with OpenTelemetry's SDK and exporters in memory."""

import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from cascade_tables import CHEAP, DOCUMENTS, STRONG, Table
from opentelemetry.trace import StatusCode
from recorded import Recorded, recording
from stubborn import Stubborn

from milvus_rerank import CascadeRerankFunction, LexicalRerankFunction
from milvus_rerank.errors import StageError

pytestmark = pytest.mark.compat
CASCADE = CascadeRerankFunction([(Table(CHEAP), 3), (Table(STRONG), None)])
HITS = [{"id": 10 + n, "distance": 0.5, "entity": {"text": text}} for n, text in enumerate(DOCUMENTS)]


@pytest.fixture
def recorded(monkeypatch: pytest.MonkeyPatch) -> Iterator[Recorded]:
    with recording(monkeypatch) as recorded:
        yield recorded


def documents(span: Any, name: str) -> list[tuple[Any, Any]]:
    """Return ids and scores of a span's documents."""
    prefix, attributes = f"reranker.{name}_documents.", span.attributes or {}
    numbers = {int(key.removeprefix(prefix).split(".")[0]) for key in attributes if key.startswith(prefix)}
    keys = [f"{prefix}{number}.document" for number in sorted(numbers)]
    return [(attributes[f"{key}.id"], attributes.get(f"{key}.score")) for key in keys]


def test_each_stage_is_a_reranker_span_within_that_of_the_call(recorded: Recorded) -> None:
    CASCADE.rerank_hits("q", HITS, top_k=2)
    first, second, call = recorded.spans()
    assert [span.attributes.get("milvus_rerank.stage") for span in (first, second, call)] == [0, 1, None]  # type: ignore[union-attr]
    for span in (first, second):
        assert span.parent is not None
        assert span.parent.span_id == call.context.span_id
        assert (span.attributes or {})["openinference.span.kind"] == "RERANKER"
        assert (span.attributes or {})["reranker.model_name"] == "Table"
        assert (span.attributes or {})["reranker.query"] == "q"
    # The documents of a stage are known by their positions in the call.
    assert documents(first, "input") == [(position, None) for position in range(5)]
    assert documents(first, "output") == [(0, 5.0), (2, 4.0), (3, 3.0)]
    assert documents(second, "input") == [(0, None), (2, None), (3, None)]
    assert documents(second, "output") == [(2, -3.0), (3, -5.0)]
    assert documents(call, "output") == [(12, -3.0), (13, -5.0)]
    assert [(span.attributes or {})["reranker.top_k"] for span in (first, second, call)] == [3, 2, 2]


def test_a_stage_of_many_queries_is_a_chain_with_a_span_for_each(recorded: Recorded) -> None:
    CASCADE.rerank_many(["q", "r"], [DOCUMENTS, DOCUMENTS[:4]])
    spans = recorded.spans()
    kinds = [(span.attributes or {})["openinference.span.kind"] for span in spans]
    assert kinds == ["RERANKER", "RERANKER", "CHAIN"] * 3
    assert [documents(spans[position], "input") for position in (3, 4)] == [[(0, None), (2, None), (3, None)]] * 2


def test_a_stage_that_fails_is_the_error_of_its_span(recorded: Recorded) -> None:
    with pytest.raises(StageError):
        CascadeRerankFunction([(LexicalRerankFunction(), 1), (Stubborn(), None)])("raise", ["raise", "b"])
    first, second, call = recorded.spans()
    assert first.status.status_code is StatusCode.UNSET
    assert [span.status.description for span in (second, call)] == ["RuntimeError", "StageError"]


def test_texts_are_in_the_spans_of_stages_only_if_asked_for(
    recorded: Recorded, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = ["secret one", "secret two"]
    cascade = CascadeRerankFunction([("lexical", 1), ("lexical", None)])
    cascade("what", texts)
    assert not any("secret" in span.to_json() for span in recorded.spans())
    monkeypatch.setenv("MILVUS_RERANK_TRACE_TEXTS", "all")
    cascade("what", texts)
    assert all("secret one" in span.to_json() for span in recorded.spans()[3:])


def test_metrics_count_the_pairs_of_each_stage_apart_from_those_of_the_call(recorded: Recorded) -> None:
    CASCADE("q", DOCUMENTS)
    points = [(dict(point.attributes), point.value) for point in recorded.points("milvus_rerank.rerank.pairs")]
    assert sorted(points, key=lambda point: -point[1]) == [
        ({"reranker.model_name": "Table", "milvus_rerank.stage": 0}, 5),
        ({"reranker.model_name": "CascadeRerankFunction"}, 5),
        ({"reranker.model_name": "Table", "milvus_rerank.stage": 1}, 3),
    ]


def test_without_a_provider_a_cascade_loads_no_telemetry() -> None:
    code = """
import sys
from milvus_rerank import CascadeRerankFunction
cascade = CascadeRerankFunction([("lexical", 1), ("lexical", None)])
cascade("a dog", ["a cat", "a dog"])
print([name for name in sys.modules if name.startswith(("opentelemetry", "milvus_rerank.tracing"))])
from opentelemetry import metrics, trace
cascade("a dog", ["a cat", "a dog"])
print("milvus_rerank.tracing" in sys.modules)
"""
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout == "[]\nFalse\n"
