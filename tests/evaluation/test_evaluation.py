"""Judged collections, nDCG, and the comparison of the two stages, in numbers worked out by hand."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
from tiny_embedder import passage_texts, save_embedder, write_beir

from milvus_rerank.embedding import StaticEmbedder
from milvus_rerank.errors import InputError
from milvus_rerank.evaluation import compare, demo_folder, load_judged, ndcg, run_demo
from milvus_rerank.indexing import describe, index_passages, open_client, open_search
from milvus_rerank.reranker import LexicalRerankFunction
from milvus_rerank.search import Timings


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_beir(tmp_path / "small")


def test_ndcg_is_what_the_formula_gives() -> None:
    judgments = {"q": {"a": 2, "b": 1, "c": 1}}
    run = {"q": ["x", "b", "a", "y", "c"]}
    gained = 1 / math.log2(3) + 2 / math.log2(4) + 1 / math.log2(6)
    best = 2 / math.log2(2) + 1 / math.log2(3) + 1 / math.log2(4)
    assert ndcg(run, judgments) == {"q": pytest.approx(gained / best, abs=1e-9)}
    assert ndcg(run, judgments, k=2) == {"q": pytest.approx((1 / math.log2(3)) / (2 + 1 / math.log2(3)), abs=1e-9)}


def test_ndcg_takes_the_order_as_it_stands_whatever_the_ids_are() -> None:
    judgments = {"q": {"a": 1}}
    assert ndcg({"q": ["b", "a"]}, judgments)["q"] == pytest.approx(1 / math.log2(3))
    assert ndcg({"q": ["a", "b"]}, judgments)["q"] == 1.0
    long = [f"d{number:02}" for number in range(9)]
    assert ndcg({"q": [*long, "a", "b"]}, judgments)["q"] == pytest.approx(1 / math.log2(11))
    assert ndcg({"q": [*long, "b", "a"]}, judgments)["q"] == 0.0


def test_a_judged_query_without_a_ranking_counts_as_zero_and_one_without_anything_relevant_not_at_all() -> None:
    judgments = {"found": {"a": 1}, "missing": {"b": 1}, "nothing": {"c": 0}}
    assert ndcg({"found": ["a"], "nothing": ["c"], "unjudged": ["a"]}, judgments) == {"found": 1.0, "missing": 0.0}


def test_ndcg_refuses_what_has_no_answer() -> None:
    with pytest.raises(InputError, match="the ranking of query 'q' names a document twice"):
        ndcg({"q": ["a", "a"]}, {"q": {"a": 1}})
    with pytest.raises(InputError, match="must name a relevant document for at least one query, got none"):
        ndcg({"q": ["a"]}, {"q": {"a": 0}})
    with pytest.raises(InputError, match="k must be a positive integer, got int: 0"):
        ndcg({"q": ["a"]}, {"q": {"a": 1}}, k=0)


def test_a_judged_folder_is_read_with_only_its_judged_queries(folder: Path) -> None:
    with (folder / "queries.jsonl").open("a") as file:
        file.write('{"_id": "q3", "text": "nobody judged this"}\n')
    judged = load_judged(folder)
    assert judged.name == "small"
    assert len(judged.passages) == 5
    assert judged.queries == {"q1": "programming language", "q2": "moon"}
    assert judged.judgments == {"q1": {"python": 2, "c": 1}, "q2": {"moon": 1}}


@pytest.mark.parametrize(
    ("file", "line", "told"),
    [
        ("queries.jsonl", '{"_id": 3, "text": "x"}', r"queries\.jsonl:3: expected the strings '_id' and 'text'"),
        (
            "queries.jsonl",
            '{"_id": "q1", "text": "x"}',
            r"queries\.jsonl:3: the query 'q1' is there twice; each must be unique",
        ),
        ("queries.jsonl", "{", r"queries\.jsonl:3: is not JSON"),
        ("qrels/test.tsv", "q1 c 1", r"test\.tsv:5: expected query-id, corpus-id and an integer score"),
        ("qrels/test.tsv", "q1\tc\t²", r"test\.tsv:5: expected query-id, corpus-id and an integer score"),
        ("qrels/test.tsv", "q1\tc\t0.5", r"test\.tsv:5: expected query-id, corpus-id and an integer score"),
        ("qrels/test.tsv", "q9\tc\t1", r"test\.tsv:5: judges the query 'q9', which is not in queries\.jsonl"),
        ("qrels/test.tsv", "q1\tnone\t1", r"test\.tsv:5: judges the document 'none', which is not in corpus\.jsonl"),
        ("qrels/test.tsv", "q1\tc\t2", r"test\.tsv:5: judges 'c' for 'q1' as 2, an earlier line as"),
    ],
)
def test_a_bad_line_is_told_with_file_and_line(folder: Path, file: str, line: str, told: str) -> None:
    with (folder / file).open("a") as opened:
        opened.write(line + "\n")
    with pytest.raises(InputError, match=told):
        load_judged(folder)


def test_a_missing_or_empty_file_is_told_by_name(folder: Path) -> None:
    (folder / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\n")
    with pytest.raises(InputError, match=r"test\.tsv holds no judgments"):
        load_judged(folder)
    with pytest.raises(InputError, match=r"dev\.tsv cannot be read: No such file"):
        load_judged(folder, split="dev")
    (folder / "queries.jsonl").unlink()
    with pytest.raises(InputError, match=r"queries\.jsonl cannot be read: No such file"):
        load_judged(folder)


def test_the_comparison_has_both_orders_their_ranks_and_their_ndcg(folder: Path, tmp_path: Path) -> None:
    judged = load_judged(folder)
    embedder = StaticEmbedder(str(save_embedder(tmp_path / "embedder", passage_texts(), seed=3)))
    done: list[Any] = []
    with open_client(str(tmp_path / "x.db")) as client:
        index_passages(client, "small", judged.passages, embedder)
        search = open_search(client, describe(client, "small"), reranker=LexicalRerankFunction(), embedder=embedder)
        report = compare(search, judged, candidates=5, progress=done.append)
        first = client.search("small", embedder.encode_queries(["programming language"]), anns_field="vector", limit=5)
    query = report.queries[0]
    assert query.ids_before == [hit["id"] for hit in first[0]]
    assert sorted(query.ids_after[:2]) == ["c", "python"]  # the two that hold both words
    scores = [document.score for document in query.documents]
    assert scores == [1.0, 1.0, 0.0, 0.0, 0.0]
    assert [document.before for document in query.documents] == [
        query.ids_before.index(name) + 1 for name in query.ids_after
    ]
    assert [document.after for document in query.documents] == [1, 2, 3, 4, 5]
    assert {document.id: document.relevance for document in query.documents} == {
        "python": 2, "c": 1, "unix": 0, "moon": 0, "bug": 0,
    }  # fmt: skip
    expected = ndcg({"q1": query.ids_after, "q2": report.queries[1].ids_after}, judged.judgments)
    assert {one.id: one.ndcg_after for one in report.queries} == expected
    assert report.ndcg_after == pytest.approx(sum(expected.values()) / 2)
    assert done == [1, 1]


def test_the_demo_reports_numbers_that_agree_with_each_other(folder: Path, tmp_path: Path) -> None:
    judged = load_judged(folder)
    embedder = StaticEmbedder(str(save_embedder(tmp_path / "embedder", passage_texts())))
    ticks = iter([10.0, 12.5, 20.0])
    steps = []
    report = run_demo(
        judged,
        tmp_path / "demo.db",
        embedder,
        LexicalRerankFunction(),
        reranker_name="lexical",
        candidates=4,
        progress=lambda stage, done: steps.append((stage, done)),
        clock=lambda: next(ticks),
    )
    values = json.loads(json.dumps(report.to_dict()))
    assert (values["timings"], values["passages"]) == ({"index": 2.5, "queries": 7.5}, 5)
    assert steps == [("index", 5), ("search", 1), ("search", 1)]
    assert values["better"] + values["equal"] + values["worse"] == 2
    for stage in ("before", "after"):
        orders = {query["id"]: query[stage] for query in values["queries"]}
        assert {len(order) for order in orders.values()} == {4}
        figures = ndcg(orders, judged.judgments)
        assert values[f"ndcg_{stage}"] == pytest.approx(sum(figures.values()) / 2)
        assert {query["id"]: query[f"ndcg_{stage}"] for query in values["queries"]} == figures
    assert all(query["scores"] == sorted(query["scores"], reverse=True) for query in values["queries"])
    assert values["versions"]["milvus-rerank"] == "0.1.0"


def test_the_changes_are_counted_by_their_direction(folder: Path, tmp_path: Path) -> None:
    from milvus_rerank.evaluation import ComparisonReport, QueryReport, RankedDocument

    documents = (RankedDocument("a", 2.0, 2, 1, 1, "A"), RankedDocument("b", 1.0, 1, 2, 0, "B"))
    figures = [(0.5, 1.0), (0.5, 0.5), (1.0, 0.2), (0.1, 0.2)]
    queries = tuple(
        QueryReport(str(i), "q", documents, before, after, Timings(0.001, 0.002, float(i)))
        for i, (before, after) in enumerate(figures)
    )
    report = ComparisonReport("c", 2, queries)
    assert report.changes == (2, 1, 1)
    assert [report.ndcg_before, report.ndcg_after] == pytest.approx([2.1 / 4, 1.9 / 4])
    assert report.median_seconds == {"embed": 0.001, "search": 0.002, "rerank": 1.5}
    assert (queries[0].ids_before, queries[0].ids_after) == (["b", "a"], ["a", "b"])


def test_the_shipped_collection_is_as_large_as_it_is_said_to_be() -> None:
    judged = load_judged(demo_folder())
    assert len(judged.passages) == 300
    assert len(judged.queries) == 60
    assert {score for own in judged.judgments.values() for score in own.values()} == {1, 2}
