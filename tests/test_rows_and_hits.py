"""Rows of query() and hits of a search are told apart whatever the users' fields are named."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from milvus_fixtures import lite_client
from pymilvus import DataType, MilvusClient
from pymilvus.client.search_result import Hit

from milvus_rerank.errors import HitError
from milvus_rerank.reranker import LexicalRerankFunction

lexical = LexicalRerankFunction()
HIT_NAMES = ("distance", "entity", "offset", "highlight", "score", "id", "pk")  # of keys and properties of a Hit


@pytest.mark.parametrize("name", [name for name in HIT_NAMES if name != "id"])
def test_a_row_keeps_a_field_that_is_named_as_a_part_of_a_hit(name: str) -> None:
    for value in ({"text": "another text"}, {}, 0.5, "word", ["word"], None):
        rows = [{"doc": 1, "text": "the right text", name: value}]
        [result] = lexical.rerank_hits("right", rows, id_field="doc")
        assert (result.text, result.id, result.distance, result.entity) == ("the right text", 1, None, rows[0])
        [result] = lexical.rerank_hits("right", rows)
        assert (result.text, result.distance, result.entity) == ("the right text", None, rows[0])


@pytest.mark.parametrize("fields", [("distance", "entity"), ("entity", "offset"), HIT_NAMES[:5]])
def test_a_row_with_several_such_fields_is_a_row(fields: tuple[str, ...]) -> None:
    row = {"id": 7, "text": "the right text"} | dict.fromkeys(fields, 1.0) | {"entity": {"text": "another text"}}
    [result] = lexical.rerank_hits("right", [row])
    assert (result.text, result.id, result.score, result.entity) == ("the right text", 7, 1.0, row)


def test_id_field_makes_every_dict_a_row() -> None:
    row = {"id": 7, "distance": 0.5, "entity": {"text": "another text"}}
    with pytest.raises(HitError, match=re.escape("hit 0 (id 7): field 'text' is missing")):
        lexical.rerank_hits("right", [row], id_field="id")
    [result] = lexical.rerank_hits("right", [row])  # without it, the dict has exactly a hit's keys
    assert (result.text, result.distance) == ("another text", 0.5)


@pytest.mark.parametrize("distance", [True, "0.5", None, [0.5], {}])
def test_a_dict_whose_distance_is_no_number_is_a_row(distance: Any) -> None:
    with pytest.raises(HitError, match=re.escape("the hit has the fields ['distance', 'entity', 'id']")):
        lexical.rerank_hits("right", [{"id": 7, "distance": distance, "entity": {"text": "another text"}}])


def test_a_hit_whose_text_is_its_primary_key() -> None:
    hit = {"name": "the right text", "distance": 0.5, "entity": {"name_too": "another text"}}
    for item in (hit, Hit(hit, pk_name="name")):
        [result] = lexical.rerank_hits("right", [item], text_field="name")
        assert (result.text, result.id, result.distance) == ("the right text", "the right text", 0.5)


def test_a_hits_own_keys_are_never_its_text() -> None:
    hit = Hit({"id": 1, "distance": 0.5, "entity": {"a": "b"}, "highlight": {"a": ["b"]}}, pk_name="id")
    for field in ("highlight", "entity", "distance"):
        with pytest.raises(HitError, match=f"field '{field}' is missing; the hit has the fields"):
            lexical.rerank_hits("right", [hit], text_field=field)


@pytest.mark.needs("milvus_lite")
def test_a_collection_with_all_these_fields(tmp_path: Path) -> None:
    with lite_client(tmp_path) as client:
        names = [name for name in HIT_NAMES if name != "id"]
        rows = fill(client, names)
        found = client.query("odd", filter="id >= 0", output_fields=["*"])
        assert [(hit.id, hit.text, hit.distance) for hit in lexical.rerank_hits("right", found, id_field="id")] == [
            (1, "the right text", None), (0, "text 0", None),
        ]  # fmt: skip
        hits = client.search("odd", data=[[1.0, 0.0]], limit=2, output_fields=["text", *names])[0]
        for some in (hits, json.loads(json.dumps(hits[:]))):
            best, other = lexical.rerank_hits("right", some)
            assert (best.id, best.text, other.text) == (1, "the right text", "text 0")
            assert best.distance == pytest.approx(0.5)
            assert best.entity is not None
            assert best.entity["distance"] == rows[1]["distance"]


def fill(client: MilvusClient, names: list[str]) -> list[dict[str, Any]]:
    """Make a collection with a JSON field of each name."""
    schema = client.create_schema()
    schema.add_field("id", DataType.INT64, is_primary=True)
    schema.add_field("text", DataType.VARCHAR, max_length=100)
    schema.add_field("vector", DataType.FLOAT_VECTOR, dim=2)
    for name in names:
        schema.add_field(name, DataType.JSON)
    index = client.prepare_index_params()
    index.add_index("vector", index_type="FLAT", metric_type="IP")
    client.create_collection("odd", schema=schema, index_params=index)
    rows = [
        {"id": number, "text": text, "vector": [1.0 - number / 2, 0.0]} | {name: {"text": "another"} for name in names}
        for number, text in enumerate(["text 0", "the right text"])
    ]
    client.insert("odd", rows)
    return rows
