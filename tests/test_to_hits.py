"""Results converted back to pymilvus' hits, on the embedded Milvus: code written for client.search goes on."""

import json
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from milvus_fixtures import MILVUS_INDEX, TEXTS, cosine, lite_client, make_docs, vector
from pymilvus import Hit, Hits, MilvusClient
from two_stage_docs import Failing, docs

from milvus_rerank import LexicalRerankFunction, RerankResults, fuse, normalize
from milvus_rerank.errors import InputError

pytestmark = pytest.mark.compat

lexical = LexicalRerankFunction()
FOUND = {"collection_name": "docs", "data": [vector(0)], "anns_field": "dense", "limit": 6}


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MilvusClient]:
    with lite_client(tmp_path_factory.mktemp("lite")) as client:
        make_docs(client)
        yield client


def best_of(hits: Any) -> list[Any]:
    """Read hits in all the ways that code written for pymilvus does."""
    return [
        (
            hit.id, hit.pk, hit["pk"], hit.get("pk"), hit["distance"], hit.distance, hit.score,
            hit["entity"]["text"], hit["text"], hit.get("text"), hit.entity.get("text"), hit.get("nothing"),
        )
        for hit in hits
    ]  # fmt: skip


def test_a_reranked_hit_is_read_as_the_hit_that_came_in(client: MilvusClient) -> None:
    [before] = client.search(**FOUND, output_fields=["text", "id", "meta"])
    results = lexical.rerank_hits(MILVUS_INDEX, before)
    hits = results.to_hits(distance="first_stage")
    assert (type(hits), {type(hit) for hit in hits}) == (Hits, {Hit})
    assert [hit.id for hit in hits] == [result.id for result in results]
    assert hits.ids[:3] == ["d4", "d5", "d2"]
    by_id = {hit.id: hit for hit in before}
    assert [dict(hit) for hit in hits] == [dict(by_id[hit.id]) for hit in hits]
    assert best_of(hits) == best_of(by_id[hit.id] for hit in hits)
    assert hits.ids == [hit.id for hit in hits]
    assert hits.distances == [hit.distance for hit in hits]
    assert hits[0]["id"] == 1004, "a field called id, as in the hit that came in"


def test_distance_is_the_rerank_score_as_after_a_ranker_of_milvus(client: MilvusClient) -> None:
    answer = docs(client, text_field="text")(MILVUS_INDEX, vectors=[vector(0)], top_k=3, candidates=6)
    hits = answer.to_hits()
    assert [(hit["pk"], hit["distance"], hit.score) for hit in hits] == [
        ("d4", 1.0, 1.0),
        ("d5", 1.0, 1.0),
        ("d2", 0.5, 0.5),
    ]
    assert hits.distances == [1.0, 1.0, 0.5]
    assert answer.to_hits("first_stage")[0].distance == pytest.approx(cosine(4), abs=1e-6)
    assert hits[0]["entity"] == {"text": TEXTS[4]}
    hits[0]["entity"]["text"] = "changed"
    assert answer[0].entity == {"text": TEXTS[4]}, "results cannot be changed through their hits"
    assert [hit.distance for hit in fuse(answer, metric="COSINE").to_hits()] == pytest.approx(
        [1 / 61 + 1 / 62, 1 / 63 + 1 / 61, 1 / 62 + 1 / 63]
    )


def test_without_a_reranker_hits_are_as_milvus_gave_them(client: MilvusClient) -> None:
    search = docs(client, reranker=Failing(OSError("away")), on_rerank_error="first_stage")
    answer = search(MILVUS_INDEX, vectors=[vector(0)], top_k=6, candidates=6)
    [before] = client.search(**FOUND, output_fields=["text"])
    assert [dict(hit) for hit in answer.to_hits()] == [dict(hit) for hit in before]
    assert [hit.distance for hit in answer.to_hits("score")] == [None] * 6


def test_a_hit_without_a_score_has_no_distance(client: MilvusClient) -> None:
    hits = client.search(**FOUND, output_fields=["note"])[0]
    results = lexical.rerank_hits("4", hits, text_field="note", missing="last")
    assert [(hit.id, hit.distance) for hit in results.to_hits()][-2:] == [("d3", None), ("d5", None)]


def test_hits_can_be_reranked_again_and_keep_what_else_they_came_with() -> None:
    plain = {"doc": 5, "distance": 0.5, "entity": {"text": "a cat"}, "highlight": {"text": "<b>cat</b>"}, "offset": 2}
    [hit] = lexical.rerank_hits("cat", [plain]).to_hits()
    assert (hit["doc"], hit.id, hit["offset"], hit["highlight"]) == (5, 5, 2, {"text": "<b>cat</b>"})
    [again] = lexical.rerank_hits("dog", [hit])
    assert (again.id, again.distance, again.extra) == (5, 1.0, {"highlight": {"text": "<b>cat</b>"}, "offset": 2})
    [scaled] = normalize(lexical.rerank_hits("cat dog", [plain]), "rank").to_hits()
    assert (scaled.distance, scaled["rerank_score"]) == (1.0, 0.5)


def test_rows_of_a_query_become_hits_of_their_key(client: MilvusClient) -> None:
    rows = client.query("docs", ids=["d2", "d3"], output_fields=["text"])
    hits = lexical.rerank_hits("milvus", rows, id_field="pk").to_hits()
    assert [(hit.id, hit.distance, hit["entity"]["text"]) for hit in hits] == [
        ("d2", 1.0, TEXTS[2]),
        ("d3", 0.0, TEXTS[3]),
    ]
    assert json.loads(json.dumps([dict(hit) for hit in hits]))[0]["pk"] == "d2"


def test_texts_have_no_hits() -> None:
    with pytest.raises(InputError, match=r"results\[0\] is of a plain text .* rerank_hits\(query, hits\)"):
        lexical("dog", ["a dog"]).to_hits()
    with pytest.raises(InputError, match="distance must be one of 'score', 'first_stage', got 'cosine'"):
        RerankResults().to_hits("cosine")  # type: ignore[arg-type]
    assert RerankResults().to_hits() == []


def test_importing_pymilvus_is_left_to_the_conversion() -> None:
    code = """
import sys
from milvus_rerank import LexicalRerankFunction
results = LexicalRerankFunction().rerank_hits("dog", [{"id": 1, "distance": 0.5, "entity": {"text": "a dog"}}])
results._repr_html_()
before = [name for name in ("pandas", "pymilvus") if name in sys.modules]
print(before, results.to_hits())
"""
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout == "[] [{'id': 1, 'distance': 1.0, 'entity': {'text': 'a dog'}}]\n"
