"""Services that rerank: what each class sends, and where to."""

import asyncio
from typing import Any

import pytest
from fault_server import KEY, Answer, FaultServer

from milvus_rerank import (
    CohereRerankFunction,
    HTTPRerankFunction,
    JinaRerankFunction,
    TEIRerankFunction,
    VoyageRerankFunction,
)
from milvus_rerank.errors import InputError
from milvus_rerank.reranker.remote.api_formats import COHERE, DASHSCOPE, JINA, TEI, VOYAGE, ApiFormat
from milvus_rerank.reranker.remote.function import RemoteRerankFunction
from milvus_rerank.reranker.remote.providers import find_endpoint

pytestmark = pytest.mark.compat


# What is sent


def sent(faults: FaultServer, function: RemoteRerankFunction, answer: Any) -> Any:
    faults.answers = [Answer(answer), Answer(answer)]
    with function:
        plain = function.score("q", ["a", "Ψ"])
    assert asyncio.run(function.ascore("q", ["a", "Ψ"])) == plain == [0.25, 0.75]
    first, second = faults.received
    assert (first.body, first.path, first.headers) == (second.body, second.path, second.headers)
    assert first.headers == {
        "host": faults.address.removeprefix("http://"),
        "accept": "application/json",
        "accept-encoding": "identity",
        "connection": "keep-alive",
        "content-type": "application/json",
        "content-length": first.headers["content-length"],
        "user-agent": "milvus-rerank",
        "authorization": f"Bearer {KEY}",
    }
    return first.path, first.body


RESULTS = [{"index": 1, "relevance_score": 0.75}, {"index": 0, "relevance_score": 0.25}]


def test_cohere_is_sent_its_json(faults: FaultServer) -> None:
    function = CohereRerankFunction("rerank-v3.5", KEY, True, base_url=faults.address, max_tokens_per_doc=512)
    body = {"model": "rerank-v3.5", "query": "q", "documents": ["a", "Ψ"], "top_n": 2, "max_tokens_per_doc": 512}
    assert sent(faults, function, {"id": "x", "results": RESULTS, "meta": {}}) == ("/v2/rerank", body)


def test_jina_is_sent_its_json(faults: FaultServer) -> None:
    function = JinaRerankFunction("jina-reranker-m0", KEY, base_url=faults.address)
    body = {"model": "jina-reranker-m0", "query": "q", "documents": ["a", "Ψ"], "top_n": 2, "return_documents": False}
    with_texts = [{**row, "document": {"text": "?"}} for row in RESULTS]
    assert sent(faults, function, {"results": with_texts, "usage": {}}) == ("/v1/rerank", body)


def test_voyage_is_sent_its_json(faults: FaultServer) -> None:
    function = VoyageRerankFunction("rerank-2.5", KEY, base_url=faults.address, truncation=False)
    body = {"model": "rerank-2.5", "query": "q", "documents": ["a", "Ψ"], "top_k": 2} | {
        "return_documents": False,
        "truncation": False,
    }
    assert sent(faults, function, {"object": "list", "data": RESULTS}) == ("/v1/rerank", body)


def test_tei_is_sent_its_json(faults: FaultServer) -> None:
    function = TEIRerankFunction(
        faults.address, api_key=KEY, raw_scores=True, truncate=False, truncation_direction="Left"
    )
    body = {"query": "q", "texts": ["a", "Ψ"], "return_text": False} | {
        "raw_scores": True,
        "truncate": False,
        "truncation_direction": "Left",
    }
    rows = [{"index": row["index"], "score": row["relevance_score"]} for row in RESULTS]
    assert sent(faults, function, rows) == ("/rerank", body)


def test_tei_cuts_long_texts_unless_told(faults: FaultServer) -> None:
    faults.answers = [Answer([{"index": 0, "score": 1}])]
    with TEIRerankFunction(faults.address) as function:
        assert function.score("q", ["a"]) == [1.0]
    defaults = {"raw_scores": False, "truncate": True, "truncation_direction": "Right"}
    assert defaults.items() <= faults.received[0].body.items()
    assert "authorization" not in faults.received[0].headers


def test_dashscope_is_sent_its_json(faults: FaultServer) -> None:
    function = HTTPRerankFunction(
        faults.address, api_key=KEY, model_name="gte-rerank-v2", dialect="dashscope", parameters={"instruct": "i"}
    )
    body = {
        "model": "gte-rerank-v2",
        "input": {"query": "q", "documents": ["a", "Ψ"]},
        "parameters": {"top_n": 2, "return_documents": False, "instruct": "i"},
    }
    path = "/api/v1/services/rerank/text-rerank/text-rerank"
    assert sent(faults, function, {"output": {"results": RESULTS}, "request_id": "x"}) == (path, body)


def test_any_other_is_sent_jinas_json_with_its_own_keys(faults: FaultServer) -> None:
    function = HTTPRerankFunction(
        f"{faults.address}/rerank", api_key=KEY, dialect="vllm", parameters={"truncate_prompt_tokens": 512}
    )
    body = {"query": "q", "documents": ["a", "Ψ"], "top_n": 2, "return_documents": False, "truncate_prompt_tokens": 512}
    assert sent(faults, function, {"results": RESULTS}) == ("/rerank", body)


# Addresses


@pytest.mark.parametrize(
    ("base", "api_format", "url"),
    [
        ("https://h", COHERE, "https://h/v2/rerank"),
        ("https://h/", COHERE, "https://h/v2/rerank"),
        (" https://h:8443/a/b/ ", COHERE, "https://h:8443/a/b/v2/rerank"),
        ("https://h/v2", COHERE, "https://h/v2/rerank"),
        ("https://h/v1", COHERE, "https://h/v1/rerank"),
        ("https://h/x/v2/rerank", COHERE, "https://h/x/v2/rerank"),
        ("https://h/rerank", COHERE, "https://h/rerank"),
        ("https://h/v1/", JINA, "https://h/v1/rerank"),
        ("http://127.0.0.1:8787/voyage", VOYAGE, "http://127.0.0.1:8787/voyage/v1/rerank"),
        ("http://127.0.0.1:8787/voyage/v1", VOYAGE, "http://127.0.0.1:8787/voyage/v1/rerank"),
        ("http://h:8080", TEI, "http://h:8080/rerank"),
        ("http://h:8080/rerank", TEI, "http://h:8080/rerank"),
        ("http://h:8080/prefix/", TEI, "http://h:8080/prefix/rerank"),
        ("http://[::1]:8080", TEI, "http://[::1]:8080/rerank"),
        ("https://h/api/v1", DASHSCOPE, "https://h/api/v1/services/rerank/text-rerank/text-rerank"),
        ("https://h/p?api-version=1", JINA, "https://h/p/v1/rerank?api-version=1"),
        ("https://h/rerank#part", JINA, "https://h/rerank"),
    ],
)
def test_the_route_is_added_to_an_address_where_it_is_not_there(base: str, api_format: ApiFormat, url: str) -> None:
    endpoint = find_endpoint(base, api_format)
    assert endpoint.url == url
    assert endpoint.address == url.partition("?")[0]


@pytest.mark.parametrize(
    ("url", "api_format", "asked"),
    [
        ("http://h:7997", JINA, "http://h:7997/v1/rerank"),
        ("http://h:7997/rerank", JINA, "http://h:7997/rerank"),
        ("http://h/v1", JINA, "http://h/v1/rerank"),
        ("http://h/score/here", JINA, "http://h/score/here"),
        ("http://h/v2/rerank", COHERE, "http://h/v2/rerank"),
        ("http://h/voyage/v1/rerank", VOYAGE, "http://h/voyage/v1/rerank"),
        ("http://h/services/rerank/text-rerank", DASHSCOPE, "http://h/services/rerank/text-rerank"),
    ],
)
def test_auto_goes_by_the_address(url: str, api_format: ApiFormat, asked: str) -> None:
    with HTTPRerankFunction(url) as function:
        assert (function.endpoint.api_format.name, function.endpoint.url) == (api_format.name, asked)


@pytest.mark.parametrize(
    ("url", "variable", "api_format", "limit"),
    [
        ("https://api.cohere.com", "CO_API_KEY", COHERE, 1000),
        ("https://api.jina.ai", "JINA_API_KEY", JINA, 2048),
        ("https://api.voyageai.com/v1", "VOYAGE_API_KEY", VOYAGE, 1000),
        ("https://api.siliconflow.cn/v1", "SILICONFLOW_API_KEY", JINA, 128),
        ("https://dashscope-intl.aliyuncs.com", "DASHSCOPE_API_KEY", DASHSCOPE, 500),
    ],
)
def test_the_hosted_services_are_known(
    url: str, variable: str, api_format: ApiFormat, limit: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, f" {KEY}\n")
    with HTTPRerankFunction(url, model_name="m") as function:
        endpoint = function.endpoint
    assert (endpoint.api_format.name, endpoint.max_documents, endpoint.key) == (api_format.name, limit, KEY)


@pytest.mark.parametrize(
    "address",
    [
        "localhost:8080",
        "ftp://user:pw@h",
        "http://",
        "",
        "http://h:port",
        "http://h:0",
        "http://[::1",
        "http://a b",
        "//h",
    ],
)
def test_what_is_no_address_is_refused(address: str) -> None:
    with pytest.raises(InputError, match="api_url must be an address such as http://localhost:8080 or https") as caught:
        TEIRerankFunction(address)
    assert "pw" not in str(caught.value)


def test_a_host_that_no_client_can_use_is_refused() -> None:
    with pytest.raises(InputError, match="is no address"):
        TEIRerankFunction("http://é-.com")


def test_a_password_in_an_address_is_refused_and_not_shown() -> None:
    with pytest.raises(InputError, match=r"base_url holds a user or password before the @; pass .* api_key") as caught:
        JinaRerankFunction(base_url="https://user:hidden@h")
    assert "hidden" not in str(caught.value)
