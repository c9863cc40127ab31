"""The server's models, health, metrics, logs, traces and OpenAPI page."""

import json
import logging
import sys

import pytest
from dartmouth import DOCUMENTS, QUERY, results
from present import present
from serving import Running, serving
from tokenizers import Tokenizer

import milvus_rerank
from milvus_rerank import CrossEncoderRerankFunction
from milvus_rerank.models.source import model_folder
from milvus_rerank.reranker.lexical import LexicalRerankFunction

pytestmark = pytest.mark.compat


def test_one_model_answers_to_any_name_and_several_only_to_their_own(
    reranker: CrossEncoderRerankFunction, expected: list[float]
) -> None:
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
    tokenizer = Tokenizer.from_file(str(present(model_folder("builtin/rerank")) / "tokenizer.json"))
    true = sum(len(tokenizer.encode("who barks", text).ids) for text in documents)
    with serving({"m": lambda: function}) as running:
        for _ in range(2):  # the second time from the score cache
            answer = running.post("/v1/rerank", {"query": "who barks", "documents": documents}).json()
            assert answer["usage"]["total_tokens"] == true


def test_scores_are_remembered_if_asked_to() -> None:
    function = CrossEncoderRerankFunction("builtin/rerank", device="cpu", threads=1, score_cache=100)
    with serving({"m": lambda: function}) as running:
        body = {"query": QUERY, "documents": DOCUMENTS}
        first = running.post("/rerank", body).json()
        cache = present(function.scorer.score_cache)
        assert (cache.hits, len(cache)) == (0, 6)
        again = running.post("/rerank", {**body, "documents": [*DOCUMENTS, "new"]}).json()
        assert (cache.hits, len(cache)) == (6, 7)
        assert results(first) == pytest.approx({k: v for k, v in results(again).items() if k < 6}, abs=1e-6)
        # Other limits give other scores: they are neither taken from the memory nor put into it.
        running.post("/rerank", {**body, "truncate_prompt_tokens": 20})
        assert (cache.hits, len(cache)) == (6, 7)


def test_models_are_loaded_at_their_first_request_if_so_wished(reranker: CrossEncoderRerankFunction) -> None:
    loads = []

    def load() -> CrossEncoderRerankFunction:
        loads.append(1)
        return reranker

    with serving({"m": load}, preload=False) as running:
        assert running.client.get("/ready").json() == {"status": "ready"}
        assert running.client.get("/info").json()["models"] == [{"name": "m", "loaded": False}]
        assert not loads
        for _ in range(2):
            assert running.post("/rerank", {"query": "q", "texts": ["a"]}).status_code == 200
        assert len(loads) == 1


def test_health_readiness_and_metrics(server: Running) -> None:
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


def test_every_answer_carries_a_request_id_its_own_or_the_clients(server: Running) -> None:
    given = server.client.get("/health", headers={"x-request-id": "abc-1"}).headers["x-request-id"]
    assert given == "abc-1"
    made = server.client.get("/health", headers={"x-request-id": "no good\tid"}).headers["x-request-id"]
    assert len(made) == 32


def test_no_text_is_logged(
    reranker: CrossEncoderRerankFunction, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
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


def test_the_openapi_page_has_every_route_with_its_types(server: Running) -> None:
    page = server.client.get("/openapi.json").json()
    assert {"/rerank", "/v1/rerank", "/v2/rerank", "/voyage/v1/rerank", "/score", "/info"} <= set(page["paths"])
    schema = page["paths"]["/v2/rerank"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    assert schema == {"$ref": "#/components/schemas/CohereRequest"}
    either = page["paths"]["/rerank"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    assert [one["$ref"].rsplit("/", 1)[-1] for one in either["oneOf"]] == ["TeiRequest", "RerankRequest"]
    assert "relevance_score" in page["components"]["schemas"]["Result"]["properties"]


def test_requests_and_stages_are_spans_of_the_clients_trace(reranker: CrossEncoderRerankFunction) -> None:
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

    from milvus_rerank.server.tracing import Traces

    spans, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(spans))
    parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    with serving({"m": lambda: reranker}, traces=Traces(provider)) as running:
        body = {"query": "secret", "texts": ["secret"], "raw_scores": True}
        answer = running.post("/rerank", body, headers={"traceparent": parent}).json()
        running.settled()
    found = {span.name: span for span in spans.get_finished_spans() if span.context.trace_id == int(parent[3:35], 16)}
    [name] = {*found} - {"rerank", "tokenize", "score"}
    assert name in ("POST /rerank", "POST")
    parents = {"rerank": name, "tokenize": "rerank", "score": "rerank"}
    assert {stage: present(found[stage].parent).span_id for stage in parents} == {
        stage: present(found[above].context).span_id for stage, above in parents.items()
    }
    attributes = present(found["rerank"].attributes)
    assert attributes["openinference.span.kind"] == "RERANKER"
    assert attributes["reranker.model_name"] == "m"
    assert attributes["reranker.output_documents.0.document.score"] == pytest.approx(answer[0]["score"])
    assert "secret" not in str([span.to_json() for span in found.values()])


def test_spans_of_the_server_hold_texts_if_its_environment_says_so(
    reranker: CrossEncoderRerankFunction, monkeypatch: pytest.MonkeyPatch
) -> None:
    from recorded import Recorded

    from milvus_rerank.server.tracing import Traces

    monkeypatch.setenv("MILVUS_RERANK_TRACE_TEXTS", "all")
    recorded = Recorded()
    with serving({"m": lambda: reranker}, traces=Traces(recorded.tracer_provider)) as running:
        running.post("/v1/rerank", {"query": QUERY, "documents": DOCUMENTS, "top_n": 2})
        running.post("/score", {"text_1": ["a", "b"], "text_2": ["c", "d"]})
        running.settled()
    first, *queries, call = (dict(present(span.attributes)) for span in recorded.spans() if span.name == "rerank")
    assert (first["reranker.query"], first["reranker.top_k"], first["milvus_rerank.documents"]) == (QUERY, 2, 6)
    best = reranker(QUERY, DOCUMENTS, top_k=2)
    assert [first[f"reranker.output_documents.{n}.document.content"] for n in range(2)] == [hit.text for hit in best]
    assert [attributes["reranker.input_documents.0.document.content"] for attributes in queries] == ["c", "d"]
    assert call["openinference.span.kind"] == "CHAIN"
