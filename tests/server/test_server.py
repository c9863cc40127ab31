"""What the server answers: every dialect's body, every document once, the scores of the reranker itself."""

import json
import logging
import math
import random
import sys

import httpx
import pytest
from serving import serving

import milvus_rerank
from milvus_rerank import CrossEncoderRerankFunction
from milvus_rerank.reranker.lexical import LexicalRerankFunction

pytestmark = pytest.mark.compat

QUERY = "What event in 1956 marked the official birth of artificial intelligence as a discipline?"
DOCUMENTS = [
    "In 1950, Alan Turing published his seminal paper, 'Computing Machinery and Intelligence.'",
    "The Dartmouth Conference in 1956 is considered the birthplace of artificial intelligence as a field.",
    "In 1951, Alan Turing also developed the first program designed to play chess.",
    "The invention of the Logic Theorist in 1955 marked the creation of the first true AI program.",
    "",
    "日本語 🙂 " * 40,
]


@pytest.fixture(scope="module")
def reranker():
    return CrossEncoderRerankFunction("builtin/rerank", device="cpu", threads=1)


@pytest.fixture(scope="module")
def expected(reranker) -> list[float]:
    return reranker.score(QUERY, DOCUMENTS)


@pytest.fixture(scope="module")
def server(reranker):
    with serving({"builtin/rerank": lambda: reranker}) as running:
        yield running


def best_first(scores: list[float]) -> list[int]:
    return sorted(range(len(scores)), key=lambda index: -scores[index])


def sigmoids(scores: list[float]) -> list[float]:
    return [1 / (1 + math.exp(-score)) for score in scores]


# The bodies that Milvus' providers send, key for key, and where its client looks for the scores.
def results(answer):
    return {row["index"]: row["relevance_score"] for row in answer["results"]}


MILVUS = {
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
def test_what_milvus_providers_send_is_answered_with_every_document_once(server, expected, provider) -> None:
    path, body, read = MILVUS[provider]
    answer = server.post(path, body)
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/json"
    found = read(json.loads(answer.content))
    wanted = sigmoids(expected) if provider.startswith("tei") else expected
    assert [found[index] for index in range(len(DOCUMENTS))] == pytest.approx(wanted, abs=1e-5)
    assert len(found) == len(DOCUMENTS)


def test_milvus_sends_candidates_in_pieces_and_finds_the_same_scores(server, expected) -> None:
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
def test_results_are_the_best_first_and_as_many_as_asked_for(server, expected, path, top_n, count) -> None:
    answer = server.post(path, {"query": QUERY, "documents": DOCUMENTS, "top_n": top_n}).json()
    assert [row["index"] for row in answer["results"]] == best_first(expected)[:count]
    assert answer["model"] == "builtin/rerank"
    assert answer["usage"]["total_tokens"] > 100


def test_voyage_calls_it_top_k(server, expected) -> None:
    answer = server.post("/voyage/v1/rerank", {"query": QUERY, "documents": DOCUMENTS, "top_k": 2}).json()
    assert [row["index"] for row in answer["data"]] == best_first(expected)[:2]


def test_logits_and_sigmoids_are_there_for_the_asking(server, reranker, expected) -> None:
    logits = server.post("/rerank", {"query": QUERY, "texts": DOCUMENTS, "raw_scores": True}).json()
    assert {row["index"]: row["score"] for row in logits} == pytest.approx(dict(enumerate(expected)), abs=1e-5)
    raw = server.post("/rerank", {"query": QUERY, "documents": DOCUMENTS, "raw_scores": True}).json()
    assert results(raw) == pytest.approx(dict(enumerate(expected)), abs=1e-5)


def test_documents_come_back_when_asked_for(server) -> None:
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


def test_documents_may_be_objects_with_the_fields_to_rank_by(server, reranker) -> None:
    objects = [{"text": text, "title": f"title {place}", "year": 1950 + place} for place, text in enumerate(DOCUMENTS)]
    plain = server.post("/v1/rerank", {"query": QUERY, "documents": objects}).json()
    assert results(plain) == pytest.approx(dict(enumerate(reranker.score(QUERY, DOCUMENTS))), abs=1e-5)
    body = {"query": QUERY, "documents": objects, "rank_fields": ["title", "year", "none"], "return_documents": True}
    fields = server.post("/v1/rerank", body).json()
    texts = [f"title {place}\n{1950 + place}" for place in range(len(DOCUMENTS))]
    assert results(fields) == pytest.approx(dict(enumerate(reranker.score(QUERY, texts))), abs=1e-5)
    assert all(row["document"] == objects[row["index"]] for row in fields["results"])


def test_tokens_can_be_limited_and_cut_from_the_left(server, reranker) -> None:
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
    ids = reranker.scorer.encoder.tokenize([text])[0]
    assert len(ids) >= len(words)

    def score(path, **limits):
        key = "texts" if "truncation_direction" in limits else "documents"
        answer = server.post(path, {"query": QUERY, key: [long, text], "raw_scores": True, **limits}).json()
        rows = answer if isinstance(answer, list) else answer["results"]
        return [row.get("score", row.get("relevance_score")) for row in sorted(rows, key=lambda row: row["index"])]

    whole, short = reranker.score(QUERY, [long, text])
    assert score("/v1/rerank") == pytest.approx([whole, short], abs=1e-5)
    limited = score("/v1/rerank", max_tokens_per_doc=len(ids))
    assert limited == pytest.approx([short, short], abs=1e-5)  # the first words are those of the short one
    query = len(reranker.scorer.encoder.tokenize([QUERY])[0])
    assert score("/rerank", truncate_prompt_tokens=query + len(ids) + 3) == pytest.approx([short, short], abs=1e-5)
    assert score("/rerank", truncate_prompt_tokens=-1) == pytest.approx([whole, short], abs=1e-5)
    left = score("/rerank", truncation_direction="Left")
    assert left[1] == pytest.approx(short, abs=1e-5)
    assert abs(left[0] - whole) > 1e-3  # other words of the long one were read


@pytest.mark.parametrize("path", ["/score", "/v1/score"])
def test_pairs_are_scored_as_vllm_does(server, reranker, expected, path) -> None:
    def scores(body):
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


def test_no_documents_are_no_results(server) -> None:
    assert server.post("/rerank", {"query": "q", "texts": []}).json() == []
    assert server.post("/rerank", {"query": "q", "documents": []}).json()["results"] == []
    body = {"inputs": {"source_sentence": "q", "sentences": []}}
    assert server.post("/hf-inference/models/m/pipeline/sentence-similarity", body).json() == []


def test_equal_documents_get_equal_scores_and_their_own_places(server, expected) -> None:
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
    (None, "body"),
]


@pytest.mark.parametrize(("body", "message"), INVALID)
def test_a_body_that_cannot_be_used_is_told_why_in_every_clients_key(server, body, message) -> None:
    answer = server.post("/rerank", body)
    assert answer.status_code == 422
    said = answer.json()
    assert message in said["error"]
    assert said["error"] == said["message"] == said["detail"]
    assert said["error_type"] == "Validation"


@pytest.mark.parametrize(
    ("content", "status"),
    [
        (b"{", 422),
        (b"\xff\xfe{", 400),
        (b'{"query": "\xff", "texts": ["a"]}', 400),
        (b'{"query": "\\ud800", "texts": ["a"]}', 422),
        (b'{"query": "q", "texts": ["a", "\\ud800"]}', 422),
        (b'{"query": NaN, "texts": ["a"]}', 422),
        (b'{"query": "q", "documents": ["a"], "top_n": NaN}', 422),
        (b'{"query": "q", "documents": ["a"], "top_n": 1e999}', 422),
        (b'{"query": "q", "documents": ["a"], "top_n": 1' + b"0" * 5000 + b"}", 400),
        (b'{"query": "q", "texts": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", 400),
    ],
)
def test_what_is_no_json_is_refused(server, content, status) -> None:
    answer = server.client.post("/rerank", content=content, headers={"content-type": "application/json"})
    assert answer.status_code == status
    assert answer.json()["error"]


def test_what_json_cannot_say_comes_back_as_something_it_can(server) -> None:
    content = b'{"query": "q", "documents": [{"text": "a", "x": NaN, "y": "\\ud800"}], "return_documents": true}'
    answer = server.client.post("/v1/rerank", content=content, headers={"content-type": "application/json"})
    [row] = answer.json()["results"]
    assert row["document"] == {"text": "a", "x": "nan", "y": "\ud800"}


def test_a_huge_count_is_all(server) -> None:
    assert len(server.post("/rerank", {"query": "q", "documents": ["a", "b"], "top_n": 10**30}).json()["results"]) == 2


def test_unknown_paths_and_methods_are_told(server) -> None:
    assert server.client.get("/nothing").json()["error"] == "Not Found"
    assert server.client.get("/rerank").status_code == 405
    assert server.metric("milvus_rerank_requests_total", route="other") >= 1


def test_one_model_answers_to_any_name_and_several_only_to_their_own(reranker, expected) -> None:
    rerankers = {"cross": lambda: reranker, "words": lambda: LexicalRerankFunction()}
    with serving(rerankers) as running:
        body = {"query": QUERY, "documents": DOCUMENTS}
        assert results(running.post("/rerank", body).json()) == pytest.approx(dict(enumerate(expected)), abs=1e-5)
        words = running.post("/rerank", {**body, "model": "words"}).json()
        assert words["model"] == "words"
        lexical = dict(enumerate(LexicalRerankFunction().score(QUERY, DOCUMENTS)))
        assert results(words) == pytest.approx(lexical)
        answer = running.post("/rerank", {**body, "model": "gpt"})
        assert answer.status_code == 404
        assert answer.json()["error"] == "there is no model 'gpt'; this server has: cross, words"
        facts = running.client.get("/info").json()
        assert [model["name"] for model in facts["models"]] == ["cross", "words"]
        assert facts["models"][0]["max_length"] == 512
        assert facts["version"] == milvus_rerank.__version__


def test_usage_counts_the_tokens_that_the_model_reads_padding_and_cache_aside() -> None:
    function = CrossEncoderRerankFunction("builtin/rerank", device="cpu", score_cache=100)
    documents = ["a dog", "a dog barks at night", "a dog"]
    encode = function.scorer.encoder._tokenizer
    true = sum(len(encode(["who barks"], [text])["input_ids"][0]) for text in documents)
    with serving({"m": lambda: function}) as running:
        for _ in range(2):  # the second time from the score cache
            answer = running.post("/v1/rerank", {"query": "who barks", "documents": documents}).json()
            assert answer["usage"]["total_tokens"] == true


def test_scores_are_remembered_if_asked_to() -> None:
    function = CrossEncoderRerankFunction("builtin/rerank", device="cpu", threads=1, score_cache=100)
    with serving({"m": lambda: function}) as running:
        body = {"query": QUERY, "documents": DOCUMENTS}
        first = running.post("/rerank", body).json()
        cache = function.scorer.score_cache
        assert (cache.hits, len(cache)) == (0, 6)
        again = running.post("/rerank", {**body, "documents": [*DOCUMENTS, "new"]}).json()
        assert (cache.hits, len(cache)) == (6, 7)
        assert results(first) == pytest.approx({k: v for k, v in results(again).items() if k < 6}, abs=1e-6)
        # Other limits give other scores: they are neither taken from the memory nor put into it.
        running.post("/rerank", {**body, "truncate_prompt_tokens": 20})
        assert (cache.hits, len(cache)) == (6, 7)


def test_models_are_loaded_at_their_first_request_if_so_wished(reranker) -> None:
    loads = []

    def load():
        loads.append(1)
        return reranker

    with serving({"m": load}, preload=False) as running:
        assert running.client.get("/ready").json() == {"status": "ready"}
        assert running.client.get("/info").json()["models"] == [{"name": "m", "loaded": False}]
        assert not loads
        for _ in range(2):
            assert running.post("/rerank", {"query": "q", "texts": ["a"]}).status_code == 200
        assert len(loads) == 1


def test_health_readiness_and_metrics(server) -> None:
    assert server.client.get("/health").json() == {"status": "ok"}
    assert server.client.get("/ready").json() == {"status": "ready"}
    before = server.metric("milvus_rerank_documents_total")
    server.post("/rerank", {"query": QUERY, "texts": DOCUMENTS})
    server.settled()
    assert server.metric("milvus_rerank_documents_total") == before + len(DOCUMENTS)
    page = server.client.get("/metrics")
    assert page.headers["content-type"].startswith("text/plain")
    for name in (
        'milvus_rerank_outcomes_total{outcome="ok",route="/rerank"}',
        'milvus_rerank_stage_seconds_count{stage="tokenize"}',
        'milvus_rerank_stage_seconds_count{stage="queue"}',
        'milvus_rerank_stage_seconds_count{stage="score"}',
        'milvus_rerank_batch_pairs_count{device="cpu"}',
        'milvus_rerank_queue_tokens{device="cpu"} 0.0',
        "process_resident_memory_bytes",
    ):
        assert name in page.text


def test_every_answer_carries_a_request_id_its_own_or_the_clients(server) -> None:
    given = server.client.get("/health", headers={"x-request-id": "abc-1"}).headers["x-request-id"]
    assert given == "abc-1"
    made = server.client.get("/health", headers={"x-request-id": "no good\tid"}).headers["x-request-id"]
    assert len(made) == 32


def test_no_text_is_logged(reranker, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture) -> None:
    from milvus_rerank.server.main import log_to

    caplog.set_level(logging.DEBUG)
    log_to(sys.stderr)
    with serving({"m": lambda: reranker}) as running:
        running.post("/rerank", {"query": "secretquery", "texts": ["secretdocument"]})
        running.post("/rerank", {"query": "secretquery", "texts": [["secretdocument"]]})
        running.settled()
    logged = capsys.readouterr()
    lines = [json.loads(line) for line in (logged.err + logged.out).splitlines() if line.startswith("{")]
    asked = [line for line in lines if line["event"] == "request" and line["route"] == "/rerank"]
    assert [(line["status"], line.get("documents")) for line in asked] == [(200, 1), (422, None)]
    assert all(len(line["id"]) == 32 for line in asked)
    assert asked[0]["model"] == "m"
    assert "secret" not in logged.err + logged.out + caplog.text


def test_the_openapi_page_has_every_route_with_its_types(server) -> None:
    page = server.client.get("/openapi.json").json()
    assert {"/rerank", "/v1/rerank", "/v2/rerank", "/voyage/v1/rerank", "/score", "/info"} <= set(page["paths"])
    schema = page["paths"]["/v2/rerank"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    assert schema == {"$ref": "#/components/schemas/CohereRequest"}
    either = page["paths"]["/rerank"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    assert [one["$ref"].rsplit("/", 1)[-1] for one in either["oneOf"]] == ["TeiRequest", "RerankRequest"]
    assert "relevance_score" in page["components"]["schemas"]["Result"]["properties"]


def test_async_clients_share_a_connection_pool(server, expected) -> None:
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


def test_requests_and_stages_are_spans_of_the_clients_trace(reranker) -> None:
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

    from milvus_rerank.server.tracing import Traces

    spans, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(spans))
    parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    with serving({"m": lambda: reranker}, traces=Traces(provider)) as running:
        running.post("/rerank", {"query": "secret", "texts": ["secret"]}, headers={"traceparent": parent})
        running.settled()
    found = {span.name: span for span in spans.get_finished_spans() if span.context.trace_id == int(parent[3:35], 16)}
    assert set(found) == {"POST /rerank", "tokenize", "score"} or set(found) == {"POST", "tokenize", "score"}
    request = next(span for name, span in found.items() if name.startswith("POST"))
    assert all(found[stage].parent.span_id == request.context.span_id for stage in ("tokenize", "score"))
    assert "secret" not in str([span.to_json() for span in found.values()])
