"""Embedders by name, and searches over collections that others have made."""

import json
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from pymilvus import DataType, Function, FunctionType, MilvusClient

from milvus_rerank.errors import InputError, ModelError, SearchError
from milvus_rerank.indexing import Passage, describe, embedder_of, index_passages, load, load_embedder, open_search
from milvus_rerank.indexing.collection import text_field_of

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
def test_sentence_transformers_from_a_folder(tmp_path: Path, tiny: dict[str, Path]) -> None:
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Pooling, Transformer

    body = Transformer(str(tiny["bert"]))
    model = SentenceTransformer(modules=[body, Pooling(body.get_embedding_dimension())], device="cpu")
    model.save(str(tmp_path / "st"))
    embedder = load_embedder(str(tmp_path / "st"))
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


# collections


def make(client: MilvusClient, name: str, *, dims: dict[str, int], texts: tuple[str, ...], bm25: bool = False) -> None:
    """Create a collection as another program would: other names, other sizes."""
    schema = client.create_schema(auto_id=True, enable_dynamic_field=False)
    schema.add_field("pk", DataType.INT64, is_primary=True)
    for text in texts:
        schema.add_field(text, DataType.VARCHAR, max_length=500, enable_analyzer=bm25)
    params = client.prepare_index_params()
    for field, dim in dims.items():
        schema.add_field(field, DataType.FLOAT_VECTOR, dim=dim)
        params.add_index(field, index_type="AUTOINDEX", metric_type="IP")
    if bm25:
        schema.add_field("words", DataType.SPARSE_FLOAT_VECTOR)
        schema.add_function(Function("f", FunctionType.BM25, [texts[0]], ["words"]))
        params.add_index("words", index_type="SPARSE_INVERTED_INDEX", metric_type="BM25")
    client.create_collection(name, schema=schema, index_params=params, consistency_level="Strong")
    rng = np.random.default_rng(0)
    rows = [
        {**dict.fromkeys(texts, text), **{f: rng.normal(size=d).tolist() for f, d in dims.items()}} for text in TEXTS
    ]
    client.insert(name, rows)


def test_a_collection_that_others_made_is_searched_by_its_schema(client: MilvusClient, own: None) -> None:
    make(client, "foreign", dims={"emb": 3}, texts=("body",))
    info = describe(client, "foreign")
    with pytest.raises(InputError, match=r"does not say which embedder made its vectors \('emb' has 3 dimensions\)"):
        embedder_of(info, None)
    search = open_search(client, info, embedder=embedder_of(info, "own_embedder:embed"))
    load(client, info)
    assert sorted(hit.text for hit in search("cats", top_k=3)) == sorted(TEXTS)
    with pytest.raises(InputError, match=r"has 3 dimensions, but the embedder 'builtin/embed' makes 256"):
        open_search(client, info, embedder=embedder_of(info, "builtin/embed"))


def test_several_fields_ask_which(client: MilvusClient, own: None) -> None:
    make(client, "several", dims={"a": 3, "b": 3}, texts=("one", "two"))
    info, embedder = describe(client, "several"), load_embedder("own_embedder:embed")
    with pytest.raises(InputError, match=r"several fields with texts, \['one', 'two'\]; choose .* --text-field"):
        open_search(client, info, embedder=embedder, vector_field="a")
    with pytest.raises(InputError, match=r"several dense vector fields, \['a', 'b'\]; choose one with --vector-field"):
        open_search(client, info, embedder=embedder, text_field="one")
    with pytest.raises(InputError, match=r"'c' is not a dense vector field of 'several'; it has \['a', 'b'\]"):
        open_search(client, info, embedder=embedder, text_field="one", vector_field="c")
    with pytest.raises(InputError, match=r"has no field 'twoo'; did you mean 'two'\?"):
        text_field_of(info, "twoo")
    search = open_search(client, info, embedder=embedder, text_field="two", vector_field="b")
    load(client, info)
    assert len(search("cats")) == 3


def test_bm25_alone_needs_no_embedder(client: MilvusClient) -> None:
    make(client, "full_text", dims={}, texts=("body", "other"), bm25=True)
    info = describe(client, "full_text")
    assert (info.bm25, info.bm25_input, text_field_of(info, None)) == ("words", "body", "body")
    search = open_search(client, info, mode="bm25")
    load(client, info)
    assert search("dogs")[0].text == "dogs bark at night"
    with pytest.raises(InputError, match="has no dense vectors; search its texts with --mode bm25"):
        open_search(client, info)


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
