"""Embedders by name, and collections that remember theirs."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hub_server import Hub, files_of, serve
from pymilvus import MilvusClient
from tiny_embedder import save_embedder

from milvus_rerank.embedding import StaticEmbedder
from milvus_rerank.errors import InputError, ModelError
from milvus_rerank.indexing import Passage, describe, embedder_of, index_passages, load_embedder, open_search
from milvus_rerank.indexing.collection import fingerprint
from milvus_rerank.indexing.split import tokenizer_of
from milvus_rerank.requirements import missing

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


@pytest.mark.needs("sentence_transformers", "torch")
def test_sentence_transformers_from_a_folder(
    tmp_path: Path, tiny: dict[str, Path], capfd: pytest.CaptureFixture[str]
) -> None:
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Pooling, Transformer

    body = Transformer(str(tiny["bert"]))  # its vectors have other lengths than 1, which matters for L2
    model = SentenceTransformer(modules=[body, Pooling(body.get_embedding_dimension())], device="cpu")
    model.save(str(tmp_path / "st"))
    capfd.readouterr()
    embedder = load_embedder(str(tmp_path / "st"))
    assert capfd.readouterr() == ("", "")  # no bars of other packages
    expected = model.encode(TEXTS)
    np.testing.assert_allclose(embedder.encode_documents(TEXTS), expected, atol=1e-5)
    assert embedder.dim == expected.shape[1]
    assert tokenizer_of(embedder).get_vocab_size() == len(model.tokenizer)
    (tmp_path / "st" / "model.safetensors").unlink()
    with pytest.raises(ModelError, match=r"cannot be (loaded|read)"):
        load_embedder(str(tmp_path / "st"))


@pytest.mark.needs("sentence_transformers", "torch")
def test_sentence_transformers_without_a_transformer(tmp_path: Path) -> None:
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import StaticEmbedding

    tokenizer = StaticEmbedder(str(save_embedder(tmp_path / "words", TEXTS))).tokenizer
    weights = np.random.default_rng(0).normal(size=(tokenizer.get_vocab_size(), 8)).astype(np.float32)
    model = SentenceTransformer(modules=[StaticEmbedding(tokenizer, embedding_weights=weights)], device="cpu")
    model.save(str(tmp_path / "st"))
    assert not (tmp_path / "st" / "config.json").exists()
    embedder = load_embedder(str(tmp_path / "st"))
    np.testing.assert_allclose(embedder.encode_queries(TEXTS), model.encode(TEXTS), atol=1e-6)
    assert tokenizer_of(embedder).get_vocab_size() == tokenizer.get_vocab_size()
    assert fingerprint(embedder).startswith(f"{(tmp_path / 'st').resolve()} sha256:")


def test_a_model_of_model2vec_comes_from_the_hub_without_torch(tmp_path: Path) -> None:
    folder = save_embedder(tmp_path / "words", TEXTS)
    code = (
        "import json, sys; from milvus_rerank.indexing import load_embedder; e = load_embedder('someone/words');"
        "print(json.dumps([e.model_name, type(e).__name__, e.encode_queries(['cats purr']).tolist()]));"
        "print('torch' in sys.modules)"
    )
    with serve(Hub({"someone/words": files_of(folder)})) as hub:
        environment = hub.environment(tmp_path / "cache")
        ran = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=120)
    assert ran.returncode == 0, ran.stderr
    first, second = ran.stdout.splitlines()
    expected = StaticEmbedder(str(folder)).encode_queries(["cats purr"])
    name, kind, vectors = json.loads(first)
    assert (name, kind, second) == ("someone/words", "StaticEmbedder", "False")
    np.testing.assert_allclose(vectors, expected, atol=1e-6)


def test_fastembed_by_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if missing("fastembed"):
        with pytest.raises(InputError, match=r"needs the package 'fastembed'\. Type: pip install fastembed"):
            load_embedder("fastembed:some/model")
    # Its models come from the network; this has its two methods, which are generators.
    (tmp_path / "fastembed.py").write_text(
        "import numpy as np\n"
        "class TextEmbedding:\n"
        "    def __init__(self, name): self.size = len(name)\n"
        "    def passage_embed(self, texts): yield from (np.full(self.size, len(text), 'f4') for text in texts)\n"
        "    def query_embed(self, texts): yield from (np.zeros(self.size, 'f4') for text in texts)\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "fastembed", raising=False)
    embedder = load_embedder("fastembed:abc")
    np.testing.assert_array_equal(embedder.encode_documents(["a", "bb"]), [[1, 1, 1], [2, 2, 2]])
    np.testing.assert_array_equal(embedder.encode_queries(["a"]), [[0, 0, 0]])
    sys.modules.pop("fastembed")


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
