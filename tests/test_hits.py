"""Every form of Milvus result through rerank_hits: ids, distances, entities and scores, on the embedded Milvus."""

import json
import re
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from milvus_fixtures import (
    MILVUS_INDEX,
    SEARCH_RESULTS,
    TEXTS,
    cosine,
    lite_client,
    make_docs,
    make_plain,
    orm_collection,
    vector,
)
from present import present
from pymilvus import AnnSearchRequest, DataType, MilvusClient, RRFRanker
from pymilvus.client.search_result import Hit

from milvus_rerank.errors import HitError, InputError
from milvus_rerank.hits import read_hits
from milvus_rerank.reranker import BaseRerankFunction, LexicalRerankFunction
from milvus_rerank.scoring import Request

lexical = LexicalRerankFunction()
FOUND = {"collection_name": "docs", "data": [vector(0)], "anns_field": "dense", "limit": 6, "output_fields": ["text"]}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("lite")


@pytest.fixture(scope="module")
def client(folder: Path) -> Iterator[MilvusClient]:
    with lite_client(folder) as client:
        make_docs(client)
        yield client


def brief(results: Any) -> list[tuple[Any, float | None, int]]:
    return [(result.id, result.score, result.index) for result in results]


BEST = [("d4", 1.0, 4), ("d5", 1.0, 5), ("d2", 0.5, 2)]


def test_one_querys_hits(client: MilvusClient) -> None:
    best = lexical.rerank_hits(MILVUS_INDEX, client.search(**FOUND)[0], top_k=3)
    assert brief(best) == BEST
    assert [result.distance for result in best] == pytest.approx([cosine(4), cosine(5), cosine(2)], abs=1e-6)
    assert [result.entity for result in best] == [{"text": TEXTS[4]}, {"text": TEXTS[5]}, {"text": TEXTS[2]}]
    assert [result.text for result in best] == [TEXTS[4], TEXTS[5], TEXTS[2]]
    assert [result.extra for result in best] == [None, None, None]


def test_a_whole_result_of_one_query(client: MilvusClient) -> None:
    assert brief(lexical.rerank_hits(MILVUS_INDEX, client.search(**FOUND), top_k=3)) == BEST


def test_a_slice_of_hits_keeps_its_own_places(client: MilvusClient) -> None:
    hits = client.search(**FOUND)[0][1:5]
    assert brief(lexical.rerank_hits(MILVUS_INDEX, hits, top_k=2)) == [("d4", 1.0, 3), ("d2", 0.5, 1)]


def test_a_result_of_many_queries(client: MilvusClient) -> None:
    result = client.search(**FOUND | {"data": [vector(0), vector(80)]})
    first, second = lexical.rerank_search_result([MILVUS_INDEX, SEARCH_RESULTS], result, top_k=2)
    assert brief(first) == BEST[:2]
    assert brief(second) == [("d8", 1.0, 0), ("d7", 1.0, 1)]
    assert second[0].distance == pytest.approx(cosine(8, SEARCH_RESULTS), abs=1e-6)


def test_a_result_with_a_query_that_found_nothing(client: MilvusClient) -> None:
    result = client.search(**FOUND | {"data": ["milvus index", "zebra"], "anns_field": "sparse"})
    first, second = lexical.rerank_search_result([MILVUS_INDEX, "zebra"], result)
    assert (sorted(str(hit.id) for hit in first), second) == (["d2", "d4", "d5"], [])


def test_every_kind_of_field_is_kept(client: MilvusClient) -> None:
    [best] = lexical.rerank_hits(MILVUS_INDEX, client.search(**FOUND | {"output_fields": ["*"]}), top_k=1)
    entity = dict(present(best.entity))
    assert entity.pop("dense") == pytest.approx(vector(40), abs=1e-6)
    assert len(entity.pop("sparse")) == 6  # one number for each word of the text
    assert entity == {
        "pk": "d4",
        "id": 1004,
        "text": TEXTS[4],
        "note": "note 4",
        "year": 2019,
        "labels": ["l4"],
        "meta": {"odd": False},
        "tag": "t4",
    }
    assert json.loads(json.dumps(best.to_dict()))["entity"]["meta"] == {"odd": False}


def test_a_field_named_id_is_not_the_key(client: MilvusClient) -> None:
    [best] = lexical.rerank_hits(MILVUS_INDEX, client.search(**FOUND | {"output_fields": ["text", "id"]}), top_k=1)
    assert (best.id, present(best.entity)["id"]) == ("d4", 1004)


def test_an_integer_key_named_id(client: MilvusClient) -> None:
    make_plain(client, "plain", [{"id": i, "vector": vector(10 * i), "text": TEXTS[i]} for i in range(6)])
    hits = client.search("plain", data=[vector(0)], limit=6, output_fields=["text"])
    assert brief(lexical.rerank_hits(MILVUS_INDEX, hits, top_k=3)) == [(4, 1.0, 4), (5, 1.0, 5), (2, 0.5, 2)]


def test_the_key_itself_can_be_the_text(client: MilvusClient) -> None:
    [best] = lexical.rerank_hits("d3", client.search(**FOUND), text_field="pk", top_k=1)
    assert (best.id, best.text, best.score) == ("d3", "d3", 1.0)


def test_a_dynamic_field_can_be_the_text(client: MilvusClient) -> None:
    hits = client.search(**FOUND | {"output_fields": ["tag"]})
    [best] = lexical.rerank_hits("t5", hits, text_field="tag", top_k=1)
    assert (best.id, best.text, best.entity) == ("d5", "t5", {"tag": "t5"})


def test_hits_of_hybrid_search(client: MilvusClient) -> None:
    requests = [
        AnnSearchRequest([vector(0)], "dense", {}, limit=6),
        AnnSearchRequest([MILVUS_INDEX], "sparse", {}, limit=6),
    ]
    result = client.hybrid_search("docs", requests, RRFRanker(60), limit=6, output_fields=["text"])
    places = {hit.id: (index, hit.distance) for index, hit in enumerate(result[0])}
    best = lexical.rerank_hits(MILVUS_INDEX, result, top_k=3)
    assert sorted(str(hit.id) for hit in best[:2]) == ["d4", "d5"]
    assert best[2].id == "d2"
    assert {hit.id: (hit.index, hit.distance) for hit in best} == {key: places[key] for key in ("d2", "d4", "d5")}
    assert 1 / 66 < present(best[0].distance) < 2 / 61  # a sum of two reciprocal ranks


@pytest.fixture(scope="module")
def rivers(client: MilvusClient) -> dict[str, Any]:
    """Create a collection with an integer key ``key``, a field ``parity`` to group by, and L2 distances."""
    schema = client.create_schema()
    schema.add_field("key", DataType.INT64, is_primary=True)
    schema.add_field("text", DataType.VARCHAR, max_length=100)
    schema.add_field("parity", DataType.INT64)
    schema.add_field("dense", DataType.FLOAT_VECTOR, dim=4)
    indexes = client.prepare_index_params()
    indexes.add_index("dense", index_type="FLAT", metric_type="L2")
    client.create_collection("rivers", schema=schema, index_params=indexes)
    rows = [{"key": i, "text": TEXTS[i], "parity": i % 2, "dense": [float(i), 0.0, 0.0, 0.0]} for i in range(6)]
    client.insert("rivers", rows)
    return {"collection_name": "rivers", "data": [[0.0] * 4]}


def test_hits_in_groups_are_one_list(client: MilvusClient, rivers: dict[str, Any]) -> None:
    options: dict[str, Any] = {"group_by_field": "parity", "group_size": 2, "strict_group_size": True}
    result = client.search(**rivers, limit=2, output_fields=["text", "parity"], **options)
    assert len(result[0]) == 4
    best = lexical.rerank_hits("milvus database", result)
    assert [(hit.id, hit.score, present(hit.entity)["parity"]) for hit in best[:2]] == [(2, 1.0, 0), (1, 0.5, 1)]
    assert {hit.id for hit in best} == {0, 1, 2, 3}
    assert len(best) == 4


def test_distances_where_smaller_is_nearer_are_kept_as_they_are(client: MilvusClient, rivers: dict[str, Any]) -> None:
    result = client.search(**rivers, limit=4, output_fields=["text", "dense"])
    [best] = lexical.rerank_hits("milvus", result, top_k=1)
    assert (best.id, best.distance, present(best.entity)["dense"]) == (2, 4.0, [2.0, 0.0, 0.0, 0.0])


def test_pages_of_an_iterator(client: MilvusClient) -> None:
    iterator = client.search_iterator(
        "docs", data=[vector(0)], batch_size=3, anns_field="dense", output_fields=["text"], search_params={}
    )
    pages = []
    while len(page := iterator.next()):
        pages.append(lexical.rerank_hits(MILVUS_INDEX, page))
        assert lexical.rerank_hits(MILVUS_INDEX, page) == pages[-1]  # a page can be read again
    assert lexical.rerank_hits(MILVUS_INDEX, page) == []  # the empty page at the end
    iterator.close()
    assert [brief(some)[0] for some in pages] == [("d2", 0.5, 2), ("d4", 1.0, 1), ("d6", 0.0, 0)]
    assert pages[1][0].distance == pytest.approx(cosine(4), abs=1e-6)


@pytest.mark.filterwarnings("ignore::pymilvus.decorators.PyMilvusDeprecationWarning")
def test_hits_of_an_orm_collection(client: MilvusClient, folder: Path) -> None:
    with orm_collection(str(folder / "lite.db"), "docs") as collection:
        result = collection.search([vector(0)], "dense", {}, limit=6, output_fields=["text", "year"])
    best = lexical.rerank_hits(MILVUS_INDEX, result, top_k=3)
    assert brief(best) == BEST
    assert best[0].entity == {"text": TEXTS[4], "year": 2019}


def test_rows_of_query_and_get(client: MilvusClient) -> None:
    rows = client.query("docs", filter="year >= 2017 and year <= 2020", output_fields=["text", "id", "tag", "meta"])
    best = lexical.rerank_hits(MILVUS_INDEX, rows, id_field="pk", top_k=2)
    assert [(hit.id, hit.score, hit.distance) for hit in best] == [("d4", 1.0, None), ("d5", 1.0, None)]
    assert best[0].entity == {"pk": "d4", "id": 1004, "text": TEXTS[4], "tag": "t4", "meta": {"odd": False}}
    rows = client.get("docs", ids=["d3", "d2"], output_fields=["text"])
    assert [(hit.id, hit.score) for hit in lexical.rerank_hits("milvus", rows)] == [("d2", 1.0), ("d3", 0.0)]


def test_hits_that_went_through_json(client: MilvusClient) -> None:
    hits = json.loads(json.dumps(client.search(**FOUND)[0][:]))
    assert brief(lexical.rerank_hits(MILVUS_INDEX, hits, top_k=3)) == BEST


def test_plain_dicts() -> None:
    hits = [
        {"id": 7, "distance": 0.9, "entity": {"text": "one"}},
        {"pk": "k", "distance": 0.5, "entity": {"text": "two words", "id": 3}, "offset": 2},
        {"doc_key": 8, "distance": 0.8, "entity": {"text": "three"}},
        {"text": "four", "id": 9, "distance": 0.1},
        {"text": "five"},
    ]
    by_index = {hit.index: hit for hit in lexical.rerank_hits("two", hits)}
    assert [by_index[index].id for index in range(5)] == [7, "k", 8, 9, None]
    assert [by_index[index].distance for index in range(5)] == [0.9, 0.5, 0.8, None, None]
    assert by_index[1].extra == {"offset": 2}
    assert by_index[3].entity == {"text": "four", "id": 9, "distance": 0.1}
    assert by_index[1].score == 1.0


def test_what_else_a_hit_carries_is_kept() -> None:
    hit = Hit(
        {"pk": 1, "distance": 0.5, "entity": {"text": "a b"}, "highlight": {"text": ["<b>a</b> b"]}}, pk_name="pk"
    )
    [result] = lexical.rerank_hits("a", [hit])
    assert (result.id, result.extra) == (1, {"highlight": {"text": ["<b>a</b> b"]}})


def test_a_hit_knows_its_key_among_keys_nobody_expected() -> None:
    hit = Hit({"doc": 1, "shard": 3, "distance": 0.5, "entity": {"text": "a"}}, pk_name="doc")
    [result] = lexical.rerank_hits("a", [hit])
    assert (result.id, result.extra) == (1, {"shard": 3})


def test_hits_of_old_clients() -> None:
    class OldHit:
        """ORM hits before 2.6 are no dicts."""

        def to_dict(self) -> dict[str, Any]:
            return {"id": 5, "distance": 0.25, "entity": {"text": "old"}}

    [result] = lexical.rerank_hits("old", [OldHit()])
    assert (result.id, result.distance, result.entity, result.score) == (5, 0.25, {"text": "old"}, 1.0)


def test_the_callers_hits_are_left_alone(client: MilvusClient) -> None:
    hits = client.search(**FOUND)[0]
    best = lexical.rerank_hits(MILVUS_INDEX, hits, top_k=1)
    entity = best[0].entity
    assert isinstance(entity, dict)
    entity["text"] = "changed"
    assert [hit.id for hit in hits] == ["d0", "d1", "d2", "d3", "d4", "d5"]
    assert hits[4]["entity"]["text"] == TEXTS[4]


@pytest.mark.parametrize(("top_k", "count"), [(None, 6), (0, 6), (2, 2), (50, 6)])
def test_top_k(client: MilvusClient, top_k: int | None, count: int) -> None:
    assert len(lexical.rerank_hits(MILVUS_INDEX, client.search(**FOUND), top_k=top_k)) == count


def test_threshold_drops_low_scores_and_hits_without_any(client: MilvusClient) -> None:
    hits = client.search(**FOUND | {"output_fields": ["text", "note"]})[0]
    assert brief(lexical.rerank_hits(MILVUS_INDEX, hits, threshold=0.6)) == BEST[:2]
    options: dict[str, Any] = {"text_field": "note", "missing": "last"}
    assert brief(lexical.rerank_hits("4", hits, threshold=0.5, **options)) == [("d4", 1.0, 4)]


def test_ties_keep_the_order_of_the_first_stage(client: MilvusClient) -> None:
    hits = client.search(**FOUND)[0][::-1]
    assert [hit.id for hit in lexical.rerank_hits("nothing", hits)] == ["d5", "d4", "d3", "d2", "d1", "d0"]


def test_no_hits_are_not_scored() -> None:
    class Refusing(BaseRerankFunction):
        def score_requests(self, requests: Sequence[Request], stop: threading.Event) -> list[list[float]]:
            raise AssertionError("scored")

    assert Refusing().rerank_hits("q", []) == []
    assert Refusing().rerank_hits("q", [[]]) == []
    assert Refusing().rerank_search_result(["q", "r"], [[], []]) == [[], []]
    assert Refusing().rerank_search_result([], []) == []


def test_null_texts(client: MilvusClient) -> None:
    hits = client.search(**FOUND | {"output_fields": ["note", "year"]})[0]
    with pytest.raises(HitError) as caught:
        lexical.rerank_hits("note", hits, text_field="note")
    assert str(caught.value) == (
        "hit 1 (id 'd1'): field 'note' is null; the hit has the fields ['note', 'year']. Name the field with "
        "text_field=..., ask Milvus for it with output_fields=['note'], or pass missing='skip' or 'last'"
    )
    skipped = lexical.rerank_hits("4", hits, text_field="note", missing="skip")
    assert brief(skipped) == [("d4", 1.0, 4), ("d0", 0.0, 0), ("d2", 0.0, 2)]
    last = lexical.rerank_hits("4", hits, text_field="note", missing="last")
    assert brief(last) == [*brief(skipped), ("d1", None, 1), ("d3", None, 3), ("d5", None, 5)]
    assert (last[-1].text, last[-1].entity) == ("", {"note": None, "year": 2020})
    assert last[-1].distance == pytest.approx(cosine(5), abs=1e-6)


def test_an_empty_text_is_a_text(client: MilvusClient) -> None:
    hits = [{"id": 1, "distance": 0.5, "entity": {"text": ""}}]
    assert brief(lexical.rerank_hits("a", hits)) == [(1, 0.0, 0)]


def test_a_missing_field_names_the_list_of_the_query(client: MilvusClient) -> None:
    result = client.search(**FOUND | {"data": [vector(0), vector(80)]})
    result[0][0]["entity"]["body"] = "only here"
    with pytest.raises(HitError, match=re.escape("hits[0]: hit 1 (id 'd1'): field 'body' is missing")):
        lexical.rerank_search_result(["a", "b"], result, text_field="body")


@pytest.mark.parametrize(
    ("query", "hits", "error", "message"),
    [
        ("q", None, InputError, "hits must be a list of hits, got NoneType: None"),
        ("q", "text", InputError, "hits must be a list of hits, got a single string"),
        ("q", {"id": 1, "text": "a"}, InputError, "hits must be a list of hits, got dict"),
        ("q", [1], HitError, "hits[0] must be a Milvus hit or a dict, got int"),
        ("q", ["a text"], HitError, "hits[0] must be a Milvus hit or a dict, got str"),
        ("q", [[], []], InputError, "hits holds the hits of 2 queries; pass a list of 2 queries with it"),
        (["q"], [{"text": "a"}], InputError, "hits[0] must be the list of one query's hits, got dict"),
        (["q", "r"], [[]], InputError, "got 2 queries, but hits of 1; expected one list of hits per query"),
        ("q", [{"text": 5}], HitError, "hit 0: field 'text' must hold a string, got int"),
        ("q", [{}], HitError, "hit 0 (id None): field 'text' is missing; the hit has the fields none"),
        (None, [], InputError, "query must be a string, got NoneType"),
    ],
)
def test_what_is_no_list_of_hits_is_named(query: Any, hits: Any, error: type[Exception], message: str) -> None:
    rerank: Any = lexical.rerank_search_result if isinstance(query, list) else lexical.rerank_hits
    with pytest.raises(error) as caught:
        rerank(query, hits)
    assert message in str(caught.value)


def test_an_unknown_way_with_missing_texts_is_named() -> None:
    with pytest.raises(InputError, match="missing must be one of 'error', 'skip', 'last', got 'drop'"):
        read_hits([], "text", missing="drop")


def test_numpy_values_in_plain_dicts() -> None:
    hits = [{"id": 3, "distance": 0.5, "entity": {"text": "a", "vector": np.ones(2), "year": np.int64(2020)}}]
    [result] = lexical.rerank_hits("a", hits)
    assert json.loads(json.dumps(result.to_dict())) == {
        "text": "a",
        "score": 1.0,
        "index": 0,
        "id": 3,
        "distance": 0.5,
        "entity": {"text": "a", "vector": [1.0, 1.0], "year": 2020},
    }


def test_rows_with_two_likely_keys_need_the_name_of_theirs() -> None:
    rows = [{"pk": 1, "id": "x0", "text": "a"}]
    with pytest.raises(HitError, match="row 0 has both 'id' and 'pk'; say which is the primary key with id_field="):
        LexicalRerankFunction().rerank_hits("a", rows)
    assert LexicalRerankFunction().rerank_hits("a", rows, id_field="pk")[0].id == 1
    with pytest.raises(HitError, match=r"row 0 has no field 'isbn' to be its id; it has \['id', 'pk', 'text'\]"):
        LexicalRerankFunction().rerank_hits("a", rows, id_field="isbn")
