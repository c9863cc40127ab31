"""What the server answers: every dialect's body, every document once, the scores of the reranker itself."""

import json
import math
import random
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from dartmouth import DOCUMENTS, QUERY, results
from serving import Running

from milvus_rerank import CrossEncoderRerankFunction
from milvus_rerank.scoring.pair_encoder import PairEncoder

pytestmark = pytest.mark.compat


def best_first(scores: list[float]) -> list[int]:
    return sorted(range(len(scores)), key=lambda index: -scores[index])


def sigmoids(scores: list[float]) -> list[float]:
    return [1 / (1 + math.exp(-score)) for score in scores]


# The bodies that Milvus' providers send, key for key, and where its client looks for the scores.
MILVUS: dict[str, tuple[str, Any, Callable[[Any], dict[int, float]]]] = {
    "tei": ("/rerank", {"query": QUERY, "texts": DOCUMENTS}, lambda answer: {r["index"]: r["score"] for r in answer}),
    "tei, truncated": (
        "/rerank",
        {"query": QUERY, "texts": DOCUMENTS, "truncate": True, "truncation_direction": "Right"},
        lambda answer: {r["index"]: r["score"] for r in answer},
    ),
    "tei, as pymilvus.model sends it": (
        "/rerank",
        {"query": QUERY, "return_text": True, "texts": DOCUMENTS},
        lambda answer: {r["index"]: r["score"] for r in answer},
    ),
    "vllm": ("/rerank", {"query": QUERY, "documents": DOCUMENTS}, results),
    "vllm, truncated": ("/rerank", {"query": QUERY, "documents": DOCUMENTS, "truncate_prompt_tokens": 512}, results),
    "vllm, first version": ("/v2/rerank", {"query": QUERY, "documents": DOCUMENTS}, results),
    "cohere": ("/v2/rerank", {"model": "rerank-v3.5", "query": QUERY, "documents": DOCUMENTS}, results),
    "lite's cohere": ("/rerank", {"model": "m", "query": QUERY, "documents": DOCUMENTS, "top_n": 6}, results),
    "siliconflow": ("/v1/rerank", {"model": "BAAI/x", "query": QUERY, "documents": DOCUMENTS}, results),
    "voyageai": (
        "/voyage/v1/rerank",
        {"model": "rerank-2", "query": QUERY, "documents": DOCUMENTS, "truncation": True},
        lambda answer: {r["index"]: r["relevance_score"] for r in answer["data"]},
    ),
    "ali": (
        "/api/v1/services/rerank/text-rerank/text-rerank",
        {"model": "gte-rerank", "input": {"query": QUERY, "documents": DOCUMENTS}},
        lambda answer: results(answer["output"]),
    ),
    "huggingface": (
        "/hf-inference/models/BAAI/bge-reranker-base/pipeline/sentence-similarity",
        {"inputs": {"source_sentence": QUERY, "sentences": DOCUMENTS}},
        lambda answer: dict(enumerate(answer)),
    ),
}


@pytest.mark.parametrize("provider", MILVUS)
def test_what_milvus_providers_send_is_answered_with_every_document_once(
    server: Running, expected: list[float], provider: str
) -> None:
    path, body, read = MILVUS[provider]
    answer = server.post(path, body)
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/json"
    found = read(json.loads(answer.content))
    wanted = sigmoids(expected) if provider.startswith("tei") else expected
    assert [found[index] for index in range(len(DOCUMENTS))] == pytest.approx(wanted, abs=1e-5)
    assert len(found) == len(DOCUMENTS)


def test_milvus_sends_candidates_in_pieces_and_finds_the_same_scores(server: Running, expected: list[float]) -> None:
    order = list(range(len(DOCUMENTS)))
    random.Random(1).shuffle(order)  # 2.6 sends them in no order
    found = {}
    for start in range(0, len(order), 4):
        piece = order[start : start + 4]
        answer = server.post("/rerank", {"query": QUERY, "texts": [DOCUMENTS[place] for place in piece]}).json()
        found.update({piece[row["index"]]: row["score"] for row in answer})
    assert [found[place] for place in range(len(order))] == pytest.approx(sigmoids(expected), abs=1e-5)


@pytest.mark.parametrize("path", ["/rerank", "/v1/rerank", "/v2/rerank"])
@pytest.mark.parametrize(("top_n", "count"), [(None, 6), (0, 6), (2, 2), (100, 6)])
def test_results_are_the_best_first_and_as_many_as_asked_for(
    server: Running, expected: list[float], path: str, top_n: int | None, count: int
) -> None:
    answer = server.post(path, {"query": QUERY, "documents": DOCUMENTS, "top_n": top_n}).json()
    assert [row["index"] for row in answer["results"]] == best_first(expected)[:count]
    assert answer["model"] == "builtin/rerank"
    assert answer["usage"]["total_tokens"] > 100


def test_voyage_calls_it_top_k(server: Running, expected: list[float]) -> None:
    answer = server.post("/voyage/v1/rerank", {"query": QUERY, "documents": DOCUMENTS, "top_k": 2}).json()
    assert [row["index"] for row in answer["data"]] == best_first(expected)[:2]


def test_logits_and_sigmoids_are_there_for_the_asking(
    server: Running, reranker: CrossEncoderRerankFunction, expected: list[float]
) -> None:
    logits = server.post("/rerank", {"query": QUERY, "texts": DOCUMENTS, "raw_scores": True}).json()
    assert {row["index"]: row["score"] for row in logits} == pytest.approx(dict(enumerate(expected)), abs=1e-5)
    raw = server.post("/rerank", {"query": QUERY, "documents": DOCUMENTS, "raw_scores": True}).json()
    assert results(raw) == pytest.approx(dict(enumerate(expected)), abs=1e-5)


def test_documents_come_back_when_asked_for(server: Running) -> None:
    tei = server.post("/rerank", {"query": QUERY, "texts": DOCUMENTS, "return_text": True}).json()
    assert all(row["text"] == DOCUMENTS[row["index"]] for row in tei)
    assert all("text" not in row for row in server.post("/rerank", {"query": QUERY, "texts": DOCUMENTS}).json())
    jina = server.post("/v1/rerank", {"query": QUERY, "documents": DOCUMENTS, "return_documents": True}).json()
    assert all(row["document"] == {"text": DOCUMENTS[row["index"]]} for row in jina["results"])
    body = {"query": QUERY, "documents": DOCUMENTS, "return_documents": True}
    voyage = server.post("/voyage/v1/rerank", body).json()
    assert all(row["document"] == DOCUMENTS[row["index"]] for row in voyage["data"])
    body = {"input": {"query": QUERY, "documents": DOCUMENTS}, "parameters": {"return_documents": True, "top_n": 1}}
    [row] = server.post("/api/v1/services/rerank/text-rerank/text-rerank", body).json()["output"]["results"]
    assert row["document"] == {"text": DOCUMENTS[row["index"]]}


def test_documents_may_be_objects_with_the_fields_to_rank_by(
    server: Running, reranker: CrossEncoderRerankFunction
) -> None:
    objects = [{"text": text, "title": f"title {place}", "year": 1950 + place} for place, text in enumerate(DOCUMENTS)]
    plain = server.post("/v1/rerank", {"query": QUERY, "documents": objects}).json()
    assert results(plain) == pytest.approx(dict(enumerate(reranker.score(QUERY, DOCUMENTS))), abs=1e-5)
    body = {"query": QUERY, "documents": objects, "rank_fields": ["title", "year", "none"], "return_documents": True}
    fields = server.post("/v1/rerank", body).json()
    texts = [f"title {place}\n{1950 + place}" for place in range(len(DOCUMENTS))]
    assert results(fields) == pytest.approx(dict(enumerate(reranker.score(QUERY, texts))), abs=1e-5)
    assert all(row["document"] == objects[row["index"]] for row in fields["results"])


def test_tokens_can_be_limited_and_cut_from_the_left(server: Running, reranker: CrossEncoderRerankFunction) -> None:
    words = [
        "artificial",
        "intelligence",
        "born",
        "1956",
        "in",
        "dartmouth",
        "as",
        "a",
        "field",
        "of",
        "research",
        "by",
        "john",
        "mccarthy",
    ]
    long = " ".join(words * 100)
    text = " ".join(words)
    encoder = reranker.scorer.encoder
    assert isinstance(encoder, PairEncoder)
    ids = encoder.tokenize([text])[0]
    assert len(ids) >= len(words)

    def score(path: str, **limits: Any) -> list[float]:
        key = "texts" if "truncation_direction" in limits else "documents"
        answer = server.post(path, {"query": QUERY, key: [long, text], "raw_scores": True, **limits}).json()
        rows = answer if isinstance(answer, list) else answer["results"]
        return [row.get("score", row.get("relevance_score")) for row in sorted(rows, key=lambda row: row["index"])]

    whole, short = reranker.score(QUERY, [long, text])
    assert score("/v1/rerank") == pytest.approx([whole, short], abs=1e-5)
    limited = score("/v1/rerank", max_tokens_per_doc=len(ids))
    assert limited == pytest.approx([short, short], abs=1e-5)  # the first words are those of the short one
    query = len(encoder.tokenize([QUERY])[0])
    assert score("/rerank", truncate_prompt_tokens=query + len(ids) + 3) == pytest.approx([short, short], abs=1e-5)
    assert score("/rerank", truncate_prompt_tokens=-1) == pytest.approx([whole, short], abs=1e-5)
    left = score("/rerank", truncation_direction="Left")
    assert left[1] == pytest.approx(short, abs=1e-5)
    assert abs(left[0] - whole) > 1e-3  # other words of the long one were read


@pytest.mark.parametrize("path", ["/score", "/v1/score"])
def test_pairs_are_scored_as_vllm_does(
    server: Running, reranker: CrossEncoderRerankFunction, expected: list[float], path: str
) -> None:
    def scores(body: Any) -> list[float]:
        answer = server.post(path, body).json()
        assert [row["index"] for row in answer["data"]] == list(range(len(answer["data"])))
        return [row["score"] for row in answer["data"]]

    assert scores({"text_1": QUERY, "text_2": DOCUMENTS}) == pytest.approx(expected, abs=1e-5)
    assert scores({"queries": [QUERY], "documents": DOCUMENTS}) == pytest.approx(expected, abs=1e-5)
    assert scores({"text_1": QUERY, "text_2": DOCUMENTS[1]}) == pytest.approx(expected[1:2], abs=1e-5)
    pairs = [(QUERY, DOCUMENTS[1]), ("chess", DOCUMENTS[2]), (QUERY, DOCUMENTS[0])]
    body = {"queries": [query for query, _ in pairs], "items": [document for _, document in pairs]}
    assert scores(body) == pytest.approx(reranker.score_pairs(pairs), abs=1e-5)
    assert scores({"queries": "a", "documents": []}) == []


def test_async_clients_share_a_connection_pool(server: Running, expected: list[float]) -> None:
    import asyncio

    async def many() -> list[dict[int, float]]:
        async with httpx.AsyncClient(base_url=server.address, timeout=30) as client:
            bodies = [{"query": QUERY, "documents": DOCUMENTS[: 1 + place % 6]} for place in range(40)]
            return [
                results(one.json()) for one in await asyncio.gather(*(client.post("/rerank", json=b) for b in bodies))
            ]

    for place, found in enumerate(asyncio.run(many())):
        count = 1 + place % 6
        assert found == pytest.approx(dict(enumerate(expected[:count])), abs=1e-5)
