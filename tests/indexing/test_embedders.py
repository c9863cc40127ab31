"""Embedders by name, and collections that remember theirs."""

import json
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from pymilvus import MilvusClient

from milvus_rerank.errors import InputError, ModelError, SearchError
from milvus_rerank.indexing import Passage, describe, embedder_of, index_passages, load_embedder, open_search

TEXTS = ["cats purr", "dogs bark at night", "search engines rank documents"]
FUNCTIONS = """
def embed(texts):
    return [[float(text.count("a")), float(len(text)), 1.0] for text in texts]

class Own:
    def encode_documents(self, texts):
        return embed(texts)

    def encode_queries(self, texts):
        return iter([[0.0, 0.0, 1.0] for _ in texts])

def ragged(texts):
    return [[1.0] * (1 + index) for index, _ in enumerate(texts)]

nothing = 5
"""


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    (tmp_path / "own_embedder.py").write_text(FUNCTIONS)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield
    sys.modules.pop("own_embedder", None)


def test_a_function_and_an_object_of_a_module(own: None) -> None:
    embedder = load_embedder("own_embedder:embed")
    assert (embedder.model_name, embedder.dim) == ("own_embedder:embed", 3)
    np.testing.assert_array_equal(embedder.encode_documents(["a", "bb"]), [[1, 1, 1], [0, 2, 1]])
    assert embedder.encode_documents([]).shape == (0, 3)
    queries = load_embedder("own_embedder:Own")
    np.testing.assert_array_equal(queries.encode_queries(["a"]), [[0, 0, 1]])


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("own_embedder:none", "does not load: AttributeError"),
        ("no_such_module:embed", "does not load: ModuleNotFoundError"),
        ("own_embedder:nothing", "must be a function from a list of texts to vectors, or an object with"),
        ("something", "embedder 'something' is not known; expected 'builtin/embed', a folder"),
        ("openai:", "lacks a model's name"),
    ],
)
def test_names_that_cannot_be_meant(own: None, name: str, words: str) -> None:
    with pytest.raises(InputError, match=words):
        load_embedder(name)


def test_vectors_of_different_lengths_are_refused(own: None) -> None:
    with pytest.raises(InputError, match="must return dense vectors of one length"):
        load_embedder("own_embedder:ragged").encode_documents(["a", "b"])


def test_a_reranker_is_no_embedder(tiny: dict[str, Path]) -> None:
    with pytest.raises(ModelError, match=r"is a reranker \(BertForSequenceClassification\), which makes no vectors"):
        load_embedder(str(tiny["bert"]))


def test_a_key_goes_to_other_machines_only_encrypted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_BASE_URL", "http://example.org/v1")
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    with pytest.raises(InputError, match="would send OPENAI_API_KEY unencrypted; use https, or unset the key"):
        load_embedder("openai:small")


@pytest.mark.needs("sentence_transformers", "torch")
def test_sentence_transformers_from_a_folder(
    tmp_path: Path, tiny: dict[str, Path], capfd: pytest.CaptureFixture[str]
) -> None:
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Pooling, Transformer

    body = Transformer(str(tiny["bert"]))
    model = SentenceTransformer(modules=[body, Pooling(body.get_embedding_dimension())], device="cpu")
    model.save(str(tmp_path / "st"))
    capfd.readouterr()
    embedder = load_embedder(str(tmp_path / "st"))
    assert capfd.readouterr() == ("", "")  # no bars of other packages
    expected = model.encode(TEXTS, normalize_embeddings=True)
    np.testing.assert_allclose(embedder.encode_documents(TEXTS), expected, atol=1e-5)
    assert embedder.dim == expected.shape[1]
    (tmp_path / "st" / "model.safetensors").unlink()
    with pytest.raises(ModelError, match="cannot be loaded"):
        load_embedder(str(tmp_path / "st"))


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


@pytest.mark.needs("httpx")
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
    monkeypatch.delenv("OPENAI_BASE_URL")
    monkeypatch.delenv("OPENAI_API_KEY")
    with pytest.raises(InputError, match="needs OPENAI_API_KEY, or OPENAI_BASE_URL"):
        load_embedder("openai:small")


def test_a_collection_remembers_its_embedder_but_runs_no_function(client: MilvusClient, own: None) -> None:
    passages = [Passage(str(number), "", text) for number, text in enumerate(TEXTS)]
    index_passages(client, "mine", passages, load_embedder("builtin/embed"))
    assert embedder_of(describe(client, "mine"), None).model_name == "builtin/embed"
    index_passages(client, "functions", passages, load_embedder("own_embedder:embed"))
    info = describe(client, "functions")
    assert info.embedder == "own_embedder:embed"
    with pytest.raises(InputError, match="is the function 'own_embedder:embed'; to run it, pass --embedder own"):
        embedder_of(info, None)
    with pytest.raises(InputError, match="was indexed with the embedder own_embedder:embed, got own_embedder:Own"):
        index_passages(client, "functions", passages, load_embedder("own_embedder:Own"))


def test_pruning_deletes_what_is_gone(client: MilvusClient) -> None:
    embedder = load_embedder("builtin/embed")
    passages = [Passage(f"{number}'\"", "", f"text {number}") for number in range(2500)]
    index_passages(client, "pruned", passages, embedder, batch_size=1000)
    kept = passages[::1000]
    report = index_passages(client, "pruned", kept, embedder, batch_size=1000)
    assert (report.deleted, report.total) == (0, 2500)
    report = index_passages(client, "pruned", kept, embedder, batch_size=1000, prune=True)
    assert (report.read, report.written, report.deleted, report.total) == (3, 0, 2497, 3)


def test_names_in_filters_are_checked_against_the_keys_that_were_indexed(client: MilvusClient) -> None:
    embedder = load_embedder("builtin/embed")
    index_passages(client, "dynamic", [Passage("1", "", "cats purr", {"year": 1950})], embedder)
    index_passages(client, "dynamic", [Passage("2", "", "dogs bark", {"kind": "a"})], embedder)
    info = describe(client, "dynamic")
    assert sorted(info.dynamic or ()) == ["kind", "year"]
    search = open_search(client, info, embedder=embedder)
    assert len(search("cats", filter='year > 1900 or kind == "a"')) == 2
    assert len(search("cats", filter="year > 2000")) == 0
    with pytest.raises(InputError, match=r"names 'yaer', which the collection does not have; did you mean 'year'\?"):
        search("cats", filter="yaer > 1900")
    client.upsert("dynamic", [{"id": "3", "title": "", "text": "x", "years": 7, "vector": [0.0] * embedder.dim}])
    assert len(search("cats", filter="years == 7")) == 1  # a key that another program wrote
    assert len(search("cats", filter="years > 1900")) == 0
