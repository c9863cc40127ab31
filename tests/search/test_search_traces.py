"""Spans of two-stage searches on the embedded Milvus."""

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest
from milvus_fixtures import MILVUS_INDEX, SEARCH_RESULTS, cosine, embed
from opentelemetry import trace
from pymilvus import MilvusClient
from recorded import Recorded, recording
from two_stage_docs import Failing, docs

from milvus_rerank.errors import HitError

TREE = {"embed": "two_stage_search", "search": "two_stage_search", "rerank": "two_stage_search"}


@pytest.fixture
def recorded(monkeypatch: pytest.MonkeyPatch) -> Iterator[Recorded]:
    with recording(monkeypatch) as recorded:
        yield recorded


@pytest.mark.parametrize("asynchronous", [False, True])
def test_a_search_is_a_span_with_a_child_for_each_stage(
    client: MilvusClient, recorded: Recorded, asynchronous: bool
) -> None:
    search = docs(client)
    options: dict[str, Any] = {"top_k": 2, "candidates": 4}
    answer = asyncio.run(search.asearch(MILVUS_INDEX, **options)) if asynchronous else search(MILVUS_INDEX, **options)
    assert recorded.tree() == {**TREE, "two_stage_search": None}
    kinds = [recorded[name]["openinference.span.kind"] for name in (*TREE, "two_stage_search")]
    assert kinds == ["EMBEDDING", "RETRIEVER", "RERANKER", "CHAIN"]
    assert recorded["two_stage_search"] == {
        "openinference.span.kind": "CHAIN",
        "db.system.name": "milvus",
        "db.collection.name": "docs",
        "input.value": MILVUS_INDEX,
        "milvus_rerank.queries": 1,
        "milvus_rerank.reranked": True,
        "milvus_rerank.seconds.embed": answer.timings.embed,
        "milvus_rerank.seconds.search": answer.timings.search,
        "milvus_rerank.seconds.rerank": answer.timings.rerank,
    }
    retrieved = recorded["search"]
    assert [retrieved[f"retrieval.documents.{n}.document.id"] for n in range(4)] == ["d0", "d1", "d2", "d3"]
    distances = [retrieved[f"retrieval.documents.{n}.document.score"] for n in range(4)]
    assert distances == pytest.approx([cosine(n) for n in range(4)], abs=1e-6)
    ranked = recorded["rerank"]
    assert [ranked[f"reranker.output_documents.{n}.document.id"] for n in range(2)] == [hit.id for hit in answer]
    assert "vector database" not in "".join(span.to_json() for span in recorded.spans())


def test_the_span_of_a_stage_is_the_current_one_while_it_runs(client: MilvusClient, recorded: Recorded) -> None:
    def traced_embed(queries: Any) -> Any:
        with trace.get_tracer("test").start_as_current_span("encoder"):
            return embed(queries)

    docs(client, embed=traced_embed)(MILVUS_INDEX)
    assert recorded.tree() == {**TREE, "encoder": "embed", "two_stage_search": None}


def test_all_texts_are_in_the_retriever_span_if_asked_for(
    client: MilvusClient, recorded: Recorded, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MILVUS_RERANK_TRACE_TEXTS", "all")
    docs(client)(MILVUS_INDEX, candidates=2, top_k=1)
    assert recorded["search"]["retrieval.documents.1.document.content"] == "a vector database stores vectors"


def test_no_text_is_in_any_span_if_none_is_asked_for(
    client: MilvusClient, recorded: Recorded, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MILVUS_RERANK_TRACE_TEXTS", "none")
    docs(client)(MILVUS_INDEX)
    assert MILVUS_INDEX not in "".join(span.to_json() for span in recorded.spans())


def test_many_queries_are_one_search_with_a_reranker_span_for_each(client: MilvusClient, recorded: Recorded) -> None:
    docs(client)([MILVUS_INDEX, SEARCH_RESULTS], candidates=3, top_k=3)
    queries = [(span.attributes or {}).get("reranker.query") for span in recorded.spans() if span.name == "rerank"]
    assert queries == [MILVUS_INDEX, SEARCH_RESULTS, None]
    assert recorded["two_stage_search"]["milvus_rerank.queries"] == 2
    assert not any(key.startswith("retrieval.") for key in recorded["search"])


def test_a_search_that_falls_back_says_so_and_its_reranker_span_has_the_error(
    client: MilvusClient, recorded: Recorded
) -> None:
    docs(client, reranker=Failing(ConnectionError("away")), on_rerank_error="first_stage")(MILVUS_INDEX)
    assert recorded["two_stage_search"]["milvus_rerank.reranked"] is False
    assert "error.type" not in recorded["two_stage_search"]
    assert recorded["rerank"]["error.type"] == "ConnectionError"


def test_an_error_ends_all_spans(client: MilvusClient, recorded: Recorded) -> None:
    def failing(queries: Any) -> Any:
        raise OSError("no model")

    with pytest.raises(OSError, match="no model"):
        docs(client, embed=failing)(MILVUS_INDEX)
    assert recorded.tree() == {"embed": "two_stage_search", "two_stage_search": None}
    assert recorded["embed"]["error.type"] == recorded["two_stage_search"]["error.type"] == "OSError"
    with pytest.raises(HitError):
        docs(client, text_field="note")(MILVUS_INDEX, candidates=2, top_k=2)
    assert [(span.attributes or {})["error.type"] for span in recorded.spans() if span.parent is None] == [
        "OSError",
        "HitError",
    ]
    assert trace.get_current_span().get_span_context().is_valid is False
