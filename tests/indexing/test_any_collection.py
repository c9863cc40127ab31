"""Searches over collections that others have made, by what their schemas show."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from pymilvus import DataType, Function, FunctionType, MilvusClient
from tiny_embedder import passage_texts, save_embedder

from milvus_rerank.embedding import StaticEmbedder
from milvus_rerank.errors import InputError, ModelError
from milvus_rerank.indexing import (
    CollectionInfo,
    Passage,
    describe,
    embedder_of,
    index_passages,
    load,
    open_search,
)
from milvus_rerank.indexing.embedders import FunctionEmbedder
from milvus_rerank.indexing.schema import first_stage_of, text_field_of
from milvus_rerank.search import FullText

TEXTS = ["cats purr", "dogs bark at night", "search engines rank documents"]


def three(texts: list[str]) -> list[list[float]]:
    return [[float(text.count("a")), float(len(text)), 1.0] for text in texts]


@pytest.fixture
def own() -> FunctionEmbedder:
    return FunctionEmbedder("own", three, three)


def make(
    client: MilvusClient,
    name: str,
    *,
    dims: dict[str, int],
    texts: tuple[str, ...],
    bm25: tuple[str, ...] = (),
) -> None:
    """Create a collection as another program would: other names, other sizes."""
    schema = client.create_schema(auto_id=True, enable_dynamic_field=False)
    schema.add_field("pk", DataType.INT64, is_primary=True)
    for text in texts:
        schema.add_field(text, DataType.VARCHAR, max_length=500, enable_analyzer=text in bm25)
    params = client.prepare_index_params()
    for field, dim in dims.items():
        schema.add_field(field, DataType.FLOAT_VECTOR, dim=dim)
        params.add_index(field, index_type="AUTOINDEX", metric_type="IP")
    for index, text in enumerate(bm25):
        schema.add_field(f"words_{text}", DataType.SPARSE_FLOAT_VECTOR)
        schema.add_function(Function(f"f{index}", FunctionType.BM25, [text], [f"words_{text}"]))
        params.add_index(f"words_{text}", index_type="SPARSE_INVERTED_INDEX", metric_type="BM25")
    client.create_collection(name, schema=schema, index_params=params, consistency_level="Strong")
    rng = np.random.default_rng(0)
    rows = [
        {**dict.fromkeys(texts, text), **{f: rng.normal(size=d).tolist() for f, d in dims.items()}} for text in TEXTS
    ]
    client.insert(name, rows)


def test_a_collection_that_others_made_is_searched_by_its_schema(client: MilvusClient, own: FunctionEmbedder) -> None:
    make(client, "foreign", dims={"emb": 3}, texts=("body",))
    info = describe(client, "foreign")
    with pytest.raises(InputError, match=r"does not say which embedder made its vectors \('emb' has 3 dimensions\)"):
        embedder_of(info, None)
    search = open_search(client, info, embedder=own)
    load(client, info)
    assert sorted(hit.text for hit in search("cats", top_k=3)) == sorted(TEXTS)
    with pytest.raises(InputError, match=r"has 3 dimensions, but the embedder 'builtin/embed' makes 256"):
        open_search(client, info, embedder=embedder_of(info, "builtin/embed"))


def test_several_fields_ask_which(client: MilvusClient, own: FunctionEmbedder) -> None:
    make(client, "several", dims={"a": 3, "b": 3}, texts=("one", "two"))
    info = describe(client, "several")
    with pytest.raises(InputError, match=r"several fields with texts, \['one', 'two'\]; choose .* --text-field"):
        open_search(client, info, embedder=own, vector_field="a")
    with pytest.raises(InputError, match=r"several dense vector fields, \['a', 'b'\]; choose one with --vector-field"):
        open_search(client, info, embedder=own, text_field="one")
    with pytest.raises(InputError, match=r"'c' is not a dense vector field of 'several'; it has \['a', 'b'\]"):
        open_search(client, info, embedder=own, text_field="one", vector_field="c")
    with pytest.raises(InputError, match=r"has no field 'twoo'; did you mean 'two'\?"):
        text_field_of(info, "twoo")
    search = open_search(client, info, embedder=own, text_field="two", vector_field="b")
    load(client, info)
    assert len(search("cats")) == 3


@pytest.mark.parametrize("key", ["text", "body"])
def test_a_field_and_a_dynamic_key_that_may_both_hold_the_texts_ask_which(
    client: MilvusClient, own: FunctionEmbedder, key: str
) -> None:
    name = f"dynamic_{key}"
    schema = client.create_schema(auto_id=True, enable_dynamic_field=True)
    schema.add_field("pk", DataType.INT64, is_primary=True)
    schema.add_field("url", DataType.VARCHAR, max_length=100)
    schema.add_field("emb", DataType.FLOAT_VECTOR, dim=3)
    params = client.prepare_index_params()
    params.add_index("emb", index_type="AUTOINDEX", metric_type="COSINE")
    client.create_collection(name, schema=schema, index_params=params, consistency_level="Strong")
    client.insert(name, [{"url": "http://a", "emb": [1.0, 0.0, 0.0], key: "cats purr"}])
    client.release_collection(name)
    info = describe(client, name)
    if key == "text":
        with pytest.raises(InputError, match=r"may be in 'url' or in the key 'text' of its dynamic field; choose the"):
            open_search(client, info, embedder=own)
        assert [hit.text for hit in open_search(client, info, embedder=own, text_field="text")("cats")] == ["cats purr"]
    else:
        assert [hit.text for hit in open_search(client, info, embedder=own)("cats")] == ["http://a"]


def test_bm25_alone_needs_no_embedder(client: MilvusClient) -> None:
    make(client, "full_text", dims={}, texts=("body", "other"), bm25=("body",))
    info = describe(client, "full_text")
    assert (info.dense, info.bm25, text_field_of(info, None)) == ({}, {"words_body": "body"}, "body")
    search = open_search(client, info)
    load(client, info)
    assert search("dogs")[0].text == "dogs bark at night"
    with pytest.raises(InputError, match="has no dense vectors; search its texts with --mode bm25"):
        open_search(client, info, mode="dense")


def test_several_bm25_fields_ask_which(client: MilvusClient, own: FunctionEmbedder) -> None:
    make(client, "two_bm25", dims={"emb": 3}, texts=("one", "two"), bm25=("one", "two"))
    info = describe(client, "two_bm25")
    fields = r"'words_one' for the texts in 'one', 'words_two' for the texts in 'two'; choose one with --text-field"
    with pytest.raises(InputError, match=rf"several BM25 fields, {fields}"):
        open_search(client, info, mode="bm25")
    with pytest.raises(InputError, match=r"'words_on' is not a BM25 field of 'two_bm25'; it has \['words_one'"):
        open_search(client, info, mode="bm25", vector_field="words_on")
    load(client, info)
    search = open_search(client, info, vector_field="words_two")
    assert (search.first_stage, search.text_field) == (FullText("words_two"), "two")
    assert search("night")[0].text == "dogs bark at night"
    search = open_search(client, info, mode="bm25", text_field="one")
    assert (search.first_stage, search.text_field) == (FullText("words_one"), "one")
    hybrid = open_search(client, info, mode="hybrid", text_field="two", embedder=own)
    assert len(hybrid("night")) == 3


def test_vectors_that_no_embedder_makes_are_told(client: MilvusClient) -> None:
    schema = client.create_schema(auto_id=True)
    schema.add_field("pk", DataType.INT64, is_primary=True)
    schema.add_field("text", DataType.VARCHAR, max_length=500)
    schema.add_field("splade", DataType.SPARSE_FLOAT_VECTOR)
    client.create_collection("sparse_only", schema=schema)
    info = describe(client, "sparse_only")
    told = r"no dense vectors, and no BM25 field either; .*'splade' \(SPARSE_FLOAT_VECTOR\).* from Python"
    for mode in ("dense", "bm25", "hybrid", None):
        with pytest.raises(InputError, match=told):
            open_search(client, info, mode=mode)


def field(name: str, kind: DataType, **values: Any) -> dict[str, Any]:
    return {"name": name, "type": kind, "params": {}, **values}


def described(*fields: dict[str, Any], functions: tuple[dict[str, Any], ...] = ()) -> CollectionInfo:
    """Return the description of a collection that Milvus Lite cannot have."""
    schema = {"fields": [field("id", DataType.INT64, is_primary=True), *fields], "functions": functions}
    client = SimpleNamespace(has_collection=lambda *_, **__: True, describe_collection=lambda *_, **__: schema)
    return describe(client, "c")


def test_a_field_that_milvus_embeds_needs_no_embedder() -> None:
    function = {"type": FunctionType.TEXTEMBEDDING, "input_field_names": ["body"], "output_field_names": ["dense"]}
    vectors = field("dense", DataType.FLOAT_VECTOR, params={"dim": 384})
    info = described(field("body", DataType.VARCHAR), field("url", DataType.VARCHAR), vectors, functions=(function,))
    assert (info.dense, info.embedded, text_field_of(info, None)) == ({}, {"dense": "body"}, "body")
    assert first_stage_of(info, None) == first_stage_of(info, "dense") == FullText("dense")


def test_binary_and_integer_vectors_are_not_offered_to_an_embedder() -> None:
    binary = field("bits", DataType.BINARY_VECTOR, params={"dim": 64})
    half = field("half", DataType.FLOAT16_VECTOR, params={"dim": 384})
    info = described(field("text", DataType.VARCHAR), binary, half)
    assert (info.dense, info.others) == ({"half": 384}, {"bits": "BINARY_VECTOR"})


def test_a_search_uses_the_embedder_that_the_collection_remembers(
    client: MilvusClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_embedder(tmp_path / "tiny", passage_texts())
    monkeypatch.chdir(tmp_path)
    index_passages(client, "by_folder", [Passage("1", "", "the moon")], StaticEmbedder("./tiny"))
    monkeypatch.chdir("/")  # the folder was given by a relative path
    info = describe(client, "by_folder")
    assert embedder_of(info, None).model_name == str((tmp_path / "tiny").resolve())
    assert open_search(client, info)("moon")[0].text == "the moon"
    (tmp_path / "tiny").rename(tmp_path / "moved")
    with pytest.raises(ModelError, match=r"the embedder of the collection 'by_folder' cannot be .* with --embedder"):
        open_search(client, info)
    assert open_search(client, info, embedder=StaticEmbedder(str(tmp_path / "moved")))("moon")[0].id == "1"
