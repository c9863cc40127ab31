"""TwoStageSearch on the embedded Milvus: hits without a text, and rerankers that fail."""

import logging
import threading
from collections.abc import Sequence
from typing import Any

import pytest
from milvus_fixtures import MILVUS_INDEX, cosine, vector
from pymilvus import MilvusClient
from two_stage_docs import Failing, docs, ids

from milvus_rerank.errors import HitError, StoppedError
from milvus_rerank.hits import Missing
from milvus_rerank.reranker import BaseRerankFunction
from milvus_rerank.scoring import Request

pytestmark = pytest.mark.compat


def test_a_hit_without_text_is_an_error_that_names_it(client: MilvusClient) -> None:
    with pytest.raises(HitError, match=r"hit 1 \(id 'd1'\): field 'note' is null; the hit has the fields \['note'\]"):
        docs(client, text_field="note")("note", vectors=[vector(0)])


def test_a_hit_without_text_is_skipped_or_put_last(client: MilvusClient) -> None:
    def found(missing: Missing) -> Any:
        answer = docs(client, text_field="note", missing=missing)("4", vectors=[vector(0)], top_k=5, candidates=5)
        return [(hit.id, hit.score) for hit in answer]

    assert found("skip") == [("d4", 1.0), ("d0", 0.0), ("d2", 0.0)]
    assert found("last") == [("d4", 1.0), ("d0", 0.0), ("d2", 0.0), ("d1", None), ("d3", None)]


def test_the_rerankers_error_is_raised_unless_asked_otherwise(client: MilvusClient) -> None:
    error = KeyError("plugin")
    with pytest.raises(KeyError) as caught:
        docs(client, reranker=Failing(error))(MILVUS_INDEX)
    assert caught.value is error


def test_the_first_stage_order_is_returned_on_request_and_marked(
    client: MilvusClient, caplog: pytest.LogCaptureFixture
) -> None:
    error = ConnectionError("the service is away")
    with caplog.at_level(logging.WARNING, logger="milvus_rerank"):
        answer = docs(client, reranker=Failing(error), on_rerank_error="first_stage")(MILVUS_INDEX, top_k=3)
    assert [(hit.id, hit.score, hit.index) for hit in answer] == [("d0", None, 0), ("d1", None, 1), ("d2", None, 2)]
    assert answer[1].distance == pytest.approx(cosine(1), abs=1e-6)
    assert answer.reranked is False
    assert answer.error is error
    assert [record.getMessage() for record in caplog.records if record.name.startswith("milvus_rerank")] == [
        "the reranker failed (ConnectionError: the service is away); returning the first stage's order"
    ]


def test_the_first_stage_order_follows_missing(client: MilvusClient) -> None:
    def found(missing: Missing) -> Any:
        search = docs(
            client, text_field="note", missing=missing, reranker=Failing(OSError("x")), on_rerank_error="first_stage"
        )
        return ids(search("4", vectors=[vector(0)], top_k=5, candidates=5))

    assert found("skip") == ["d0", "d2", "d4"]
    assert found("last") == ["d0", "d1", "d2", "d3", "d4"]


def test_wrong_scores_are_a_failure_of_the_reranker(client: MilvusClient) -> None:
    class Short(BaseRerankFunction):
        def score_requests(self, requests: Sequence[Request], stop: threading.Event) -> list[list[float]]:
            return [[1.0] for _ in requests]

    answer = docs(client, reranker=Short(), on_rerank_error="first_stage")(MILVUS_INDEX, top_k=1)
    assert ids(answer) == ["d0"]
    assert str(answer.error) == "the reranker returned 1 scores for 9 documents"


@pytest.mark.parametrize("kind", [StoppedError, KeyboardInterrupt])
def test_stopping_is_no_failure_of_the_reranker(client: MilvusClient, kind: type[BaseException]) -> None:
    with pytest.raises(kind):
        docs(client, reranker=Failing(kind("stop")), on_rerank_error="first_stage")(MILVUS_INDEX)


def test_a_wrong_text_field_is_no_failure_of_the_reranker(
    client: MilvusClient, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(HitError, match=r"'body' is missing"):
        docs(client, text_field="body", on_rerank_error="first_stage")(MILVUS_INDEX)
    assert caplog.messages == []
