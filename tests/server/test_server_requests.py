"""Requests that are unusual or cannot be used, and what the server says to them."""

from typing import Any

import pytest
from dartmouth import DOCUMENTS, QUERY
from serving import Running

pytestmark = pytest.mark.compat


def test_no_documents_are_no_results(server: Running) -> None:
    assert server.post("/rerank", {"query": "q", "texts": []}).json() == []
    assert server.post("/rerank", {"query": "q", "documents": []}).json()["results"] == []
    body = {"inputs": {"source_sentence": "q", "sentences": []}}
    assert server.post("/hf-inference/models/m/pipeline/sentence-similarity", body).json() == []


def test_equal_documents_get_equal_scores_and_their_own_places(server: Running, expected: list[float]) -> None:
    answer = server.post("/v1/rerank", {"query": QUERY, "documents": [DOCUMENTS[1]] * 3 + DOCUMENTS[:1]}).json()
    assert [row["index"] for row in answer["results"]] == [0, 1, 2, 3]
    assert [row["relevance_score"] for row in answer["results"]] == pytest.approx(
        [expected[1]] * 3 + expected[:1], abs=1e-5
    )


INVALID = [
    ({}, "query: Field required"),
    ({"query": 1, "documents": ["a"]}, "query: Input should be a valid string"),
    ({"query": "q", "documents": "a"}, "documents: Input should be a valid list"),
    ({"query": "q", "documents": ["a", None]}, "documents.1"),
    ({"query": "q", "documents": ["a"], "top_n": -1}, "top_n: Input should be greater than or equal to 0"),
    ({"query": "q", "documents": ["a"], "top_n": "x"}, "top_n"),
    ({"query": "q", "texts": [1]}, "texts.0"),
    ([], "body"),
    ("text", "body"),
]


@pytest.mark.parametrize(("body", "message"), INVALID)
def test_a_body_that_cannot_be_used_is_told_why_in_every_clients_key(server: Running, body: Any, message: str) -> None:
    answer = server.post("/rerank", body)
    assert answer.status_code == 422
    said = answer.json()
    assert message in said["error"]
    assert said["error"] == said["message"] == said["detail"]
    assert said["error_type"] == "Validation"


@pytest.mark.parametrize(
    ("content", "status"),
    [
        (b"{", 400),
        (b"\xff\xfe{", 400),
        (b'{"query": "\xff", "texts": ["a"]}', 400),
        (b'{"query": "\\ud800", "texts": ["a"]}', 400),
        (b'{"query": "q", "texts": ["a", "\\ud800"]}', 400),
        (b'{"query": NaN, "texts": ["a"]}', 400),
        (b'{"query": "q", "documents": ["a"], "top_n": NaN}', 400),
        (b'{"query": "q", "documents": ["a"], "top_n": 1e999}', 422),
        (b'{"query": "q", "documents": ["a"], "top_n": 1' + b"0" * 5000 + b"}", 400),
        (b'{"query": "q", "texts": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", 422),
        (b'{"query": "q", "texts": ' + b"[" * 10_000 + b"]" * 10_000 + b"}", 400),
        (b"", 422),
    ],
)
def test_what_is_no_json_is_refused(server: Running, content: Any, status: int) -> None:
    answer = server.client.post("/rerank", content=content, headers={"content-type": "application/json"})
    assert answer.status_code == status
    assert answer.json()["error"]


def test_a_huge_count_is_all(server: Running) -> None:
    assert len(server.post("/rerank", {"query": "q", "documents": ["a", "b"], "top_n": 10**30}).json()["results"]) == 2


def test_unknown_paths_and_methods_are_told(server: Running) -> None:
    assert server.client.get("/nothing").json()["error"] == "Not Found"
    assert server.client.get("/rerank").status_code == 405
    assert server.metric("milvus_rerank_requests_total", route="other") >= 1
