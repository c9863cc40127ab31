"""Vectors from an endpoint of OpenAI's shape: requests, further attempts, and what messages may show."""

import json
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar

import numpy as np
import pytest

from milvus_rerank.errors import InputError, SearchError
from milvus_rerank.indexing import load_embedder

httpx = pytest.importorskip("httpx", reason="httpx is not installed")

from milvus_rerank.indexing.openai_client import OpenAIClient  # noqa: E402


class Endpoint(BaseHTTPRequestHandler):
    received: ClassVar[list[tuple[str, str, Any]]]
    status = 200

    def log_message(self, *_: Any) -> None:
        pass

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.received.append((self.path, self.headers.get("Authorization", ""), body))
        data = [{"index": index, "embedding": [float(len(text)), 1.0]} for index, text in enumerate(body["input"])]
        content = json.dumps({"data": data[::-1]}).encode()
        self.send_response(self.status)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)


def test_an_endpoint_of_openais_shape(monkeypatch: pytest.MonkeyPatch) -> None:
    class Handler(Endpoint):
        received: ClassVar = []

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("OPENAI_BASE_URL", f"http://127.0.0.1:{server.server_address[1]}/v1/")
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    try:
        embedder = load_embedder("openai:small")
        np.testing.assert_array_equal(embedder.encode_documents(["a", "bb"]), [[1, 1], [2, 1]])
        body = {"model": "small", "input": ["a", "bb"]}
        assert Handler.received == [("/v1/embeddings", "Bearer sk-secret", body)]
        Handler.status = 401
        with pytest.raises(SearchError, match=r"embedder 'openai:small': http://.* answered 401") as caught:
            embedder.encode_documents(["a"])
        assert "sk-secret" not in str(caught.value)
    finally:
        server.shutdown()
        server.server_close()
    with pytest.raises(SearchError, match=r"does not answer \(ConnectError\)"):
        embedder.encode_documents(["a"])


@pytest.fixture
def endpoint(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_BASE_URL", "https://me:pass@vectors.example/v1?secret=x")
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")


def ask(answer: Callable[[Any], Any], texts: list[str], waits: list[float]) -> list[list[float]]:
    client = httpx.Client(transport=httpx.MockTransport(answer))
    return OpenAIClient("small", client, waits.append)(texts)


def rows(request: Any) -> Any:
    texts = json.loads(request.content)["input"]
    return httpx.Response(200, json={"data": [{"index": i, "embedding": [len(t)]} for i, t in enumerate(texts)]})


def test_many_texts_are_sent_in_batches_in_their_order(endpoint: None) -> None:
    sizes: list[int] = []

    def answer(request: Any) -> Any:
        sizes.append(len(json.loads(request.content)["input"]))
        return rows(request)

    assert ask(answer, ["x" * size for size in range(70)], []) == [[size] for size in range(70)]
    assert sizes == [32, 32, 6]


def test_errors_that_may_pass_are_tried_again_and_the_service_says_when(endpoint: None) -> None:
    answers = [httpx.Response(429, headers={"retry-after": "7"}), httpx.Response(503), None]

    def answer(request: Any) -> Any:
        return (answers.pop(0) if answers else None) or rows(request)

    waits: list[float] = []
    assert ask(answer, ["abc"], waits) == [[3]]
    assert waits == [7, 2]


@pytest.mark.parametrize(
    ("answer", "waits", "told"),
    [
        (httpx.Response(400, text="the key sk-secret sees no model"), [], "answered 400: the key *** sees no model"),
        (httpx.Response(500), [1, 2, 4, 8], "answered 500"),
        (httpx.Response(429, headers={"retry-after": "3600"}), [], "answered 429"),
        (httpx.Response(200, text="<html>"), [], "gave no embeddings: JSONDecodeError"),
        (httpx.Response(200, json={"data": [{"index": 1, "embedding": [1]}]}), [], "gave no embeddings: KeyError 0"),
    ],
)
def test_an_endpoint_that_fails_is_told_without_secrets(
    endpoint: None, answer: Any, waits: list[float], told: str
) -> None:
    waited: list[float] = []
    with pytest.raises(SearchError) as caught:
        ask(lambda _: answer, ["a"], waited)
    assert told in str(caught.value)
    assert "https://vectors.example/v1" in str(caught.value)
    assert waited == waits
    assert not any(secret in str(caught.value) for secret in ("sk-secret", "pass", "secret=x"))


@pytest.mark.parametrize(
    ("url", "key", "model", "told"),
    [
        ("", "", "small", "embedder 'openai:small' needs OPENAI_API_KEY, or OPENAI_BASE_URL of another server"),
        ("", "sk-secret", "", "lacks a model's name; for example 'openai:text-embedding-3-small'"),
        ("http://vectors.example/v1", "sk-secret", "small", "would get OPENAI_API_KEY unencrypted; use https"),
        ("vectors.example/v1", "sk-secret", "small", "OPENAI_BASE_URL must begin with https:// or http://"),
        ("http://[::1/v1", "", "small", "OPENAI_BASE_URL is no address"),
    ],
)
def test_a_setting_that_cannot_be_meant_is_told(
    monkeypatch: pytest.MonkeyPatch, url: str, key: str, model: str, told: str
) -> None:
    monkeypatch.setenv("OPENAI_BASE_URL", url)
    monkeypatch.setenv("OPENAI_API_KEY", key)
    with pytest.raises(InputError) as caught:
        load_embedder(f"openai:{model}")
    assert told in str(caught.value)
    assert "sk-secret" not in str(caught.value)
