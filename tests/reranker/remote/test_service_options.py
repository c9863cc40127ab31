"""Services that rerank: keys and options."""

from collections.abc import Callable
from typing import Any

import pytest
from fault_server import KEY, FaultServer

import milvus_rerank
from milvus_rerank import (
    CohereRerankFunction,
    HTTPRerankFunction,
    JinaRerankFunction,
    TEIRerankFunction,
    VoyageRerankFunction,
    create,
)
from milvus_rerank.errors import InputError
from milvus_rerank.reranker.remote.function import RemoteRerankFunction

pytestmark = pytest.mark.compat


# Keys


@pytest.mark.parametrize(
    ("make", "first", "second"),
    [
        (CohereRerankFunction, "CO_API_KEY", "COHERE_API_KEY"),
        (JinaRerankFunction, "JINA_API_KEY", "JINAAI_API_KEY"),
        (VoyageRerankFunction, "VOYAGE_API_KEY", None),
    ],
)
def test_a_hosted_service_needs_a_key_from_the_argument_or_the_environment(
    make: Callable[..., RemoteRerankFunction], first: str, second: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = " or ".join(name for name in (first, second) if name)
    vendor = make.__name__.removesuffix("RerankFunction")
    for empty in (None, "", " "):
        with pytest.raises(InputError, match=f"^{vendor} needs a key: pass api_key=..., or set {names}$"):
            make(api_key=empty)
    if second:
        monkeypatch.setenv(second, "second")
        assert make().endpoint.key == "second"
    monkeypatch.setenv(first, "first")
    assert make().endpoint.key == "first"
    assert make("a-model", KEY).endpoint.key == KEY
    assert KEY not in repr(make("a-model", KEY))


def test_a_key_of_the_environment_goes_to_nobody_but_its_service(
    faults: FaultServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CO_API_KEY", KEY)
    with CohereRerankFunction(base_url=faults.address) as function:
        function.score("q", ["a"])
    assert "authorization" not in faults.received[0].headers
    for host in ("api.cohere.com.example.com", "example.com/api.cohere.com", "not-api.cohere.com", "cohere.com"):
        assert CohereRerankFunction(base_url=f"https://{host}").endpoint.key is None


def test_a_key_goes_over_the_network_encrypted_unless_allowed() -> None:
    for loopback in ("http://127.0.0.1:1", "http://localhost:1", "http://[::1]:1", "https://rerank.example.com"):
        assert TEIRerankFunction(loopback, api_key=KEY).endpoint.key == KEY
    with pytest.raises(InputError, match=r"the key would go to rerank without encryption.*https://.*allow_http=True"):
        TEIRerankFunction("http://rerank:8080", api_key=KEY)
    assert TEIRerankFunction("http://rerank:8080", api_key=KEY, allow_http=True).endpoint.key == KEY
    assert TEIRerankFunction("http://rerank:8080").endpoint.key is None
    with pytest.raises(InputError, match="without encryption"):
        CohereRerankFunction(api_key=KEY, base_url="http://api.cohere.com")


@pytest.mark.parametrize("key", ["two words", "line\nbreak", "ключ", "\x00"])
def test_what_no_header_carries_is_no_key(key: str) -> None:
    with pytest.raises(InputError, match="api_key holds a blank, a line break or a letter") as caught:
        TEIRerankFunction("http://localhost:1", api_key=key)
    assert key not in str(caught.value)


# Options


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"timeout": 0}, "timeout must be a positive number of seconds, got 0"),
        ({"timeout": None}, "timeout must be a positive number of seconds, got None"),
        ({"deadline": -1.0}, "deadline must be a positive number of seconds, got -1.0"),
        ({"deadline": float("inf")}, "deadline must be a positive number of seconds, got inf"),
        ({"attempts": 0}, "attempts must be a positive integer, got int: 0"),
        ({"concurrency": 1.5}, "concurrency must be a positive integer, got float: 1.5"),
        ({"max_documents": 0}, "max_documents must be a positive integer, got int: 0"),
        ({"dialect": "teii"}, "dialect must be one of 'auto', 'cohere', 'jina', 'voyage', 'tei', 'dashscope', 'vllm'"),
        ({"model_name": ""}, "model_name must be a model's name at the service, or None, got ''"),
        ({"api_key": 3}, "api_key must be a string, got int"),
        ({"parameters": []}, r"parameters must be a dict with names as keys, got \[\]"),
        ({"parameters": {"x": {1}}}, "parameters must be what JSON can hold: Object of type set"),
        ({"parameters": {"top_n": 3, "query": "q"}}, "parameters cannot hold query, top_n: a request has its own"),
    ],
)
def test_bad_options_say_what_was_given(options: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        HTTPRerankFunction("http://localhost:1", **options)


def test_bad_options_of_single_services_say_what_was_given() -> None:
    with pytest.raises(InputError, match="truncation_direction must be one of 'Left', 'Right', got 'left'"):
        TEIRerankFunction("http://localhost:1", truncation_direction="left")
    with pytest.raises(InputError, match="max_tokens_per_doc must be a positive integer, got int: 0"):
        CohereRerankFunction(api_key=KEY, max_tokens_per_doc=0)


def test_names_order_and_defaults_are_pymilvus_models() -> None:
    with CohereRerankFunction("m", KEY, False) as function:
        assert (function.model_name, function.endpoint.key) == ("m", KEY)
    assert CohereRerankFunction(api_key=KEY).model_name == "rerank-english-v3.0"
    assert JinaRerankFunction(api_key=KEY).model_name == "jina-reranker-v2-base-multilingual"
    assert VoyageRerankFunction(api_key=KEY).model_name == "rerank-2"
    assert TEIRerankFunction("http://localhost:1").endpoint.max_documents == 32
    assert repr(VoyageRerankFunction(api_key=KEY)) == (
        "VoyageRerankFunction('https://api.voyageai.com/v1/rerank', model_name='rerank-2', dialect='voyage', "
        "max_documents=1000)"
    )


def test_they_are_made_by_name() -> None:
    function = create("milvus_rerank.reranker.remote.services:TEIRerankFunction", "http://localhost:1", timeout=2)
    assert isinstance(function, milvus_rerank.reranker.TEIRerankFunction)
