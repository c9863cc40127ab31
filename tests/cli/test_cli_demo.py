"""`milvus-rerank demo`: the queries that it shows."""

import json
from pathlib import Path

import pytest
from commands import Cli
from tiny_embedder import save_embedder

from milvus_rerank.cli.demo_report import pick
from milvus_rerank.evaluation import ComparisonReport, QueryReport, demo_folder, load_judged, ndcg
from milvus_rerank.search import Timings

pytestmark = pytest.mark.compat


def test_the_demo_prints_one_json_document_with_both_orders_of_every_query(
    cli: Cli, tiny: dict[str, Path], tmp_path: Path
) -> None:
    judged = load_judged(demo_folder())
    save_embedder(tmp_path / "embedder", (passage.text for passage in judged.passages))
    options = ("--embedder", "embedder", "--model", tiny["bert"], "--candidates", 5)
    code, out, err = cli("demo", *options, "--keep", "kept.db", "--json")
    assert (code, err) == (0, "")
    report = json.loads(out)
    assert len(report["queries"]) == 60
    assert all(sorted(query["before"]) == sorted(query["after"]) for query in report["queries"])
    for stage in ("before", "after"):
        figures = ndcg({query["id"]: query[stage] for query in report["queries"]}, judged.judgments)
        assert report[f"ndcg_{stage}"] == pytest.approx(sum(figures.values()) / 60)
    code, out, err = cli("demo", *options, "--keep", "kept.db", "--queries", 2)
    assert code == 0
    assert out.count("vector search") == 3  # above two queries, and beside one bar
    assert f"reranked       {'█' * round(report['ndcg_after'] * 40)}░" in out
    assert f"{report['ndcg_before']:.3f}" in out
    assert "kept.db" in err


def test_the_demo_shows_the_greatest_gains_and_the_greatest_loss_too() -> None:
    gains = {"a": 0.1, "b": 0.5, "c": -0.2, "d": 0.0, "e": -0.1}
    queries = tuple(QueryReport(name, name, (), 0.5, 0.5 + gain, Timings(0, 0, 0)) for name, gain in gains.items())
    assert [query.id for query in pick(ComparisonReport("c", 1, queries), 3)] == ["b", "a", "c"]
    assert [query.id for query in pick(ComparisonReport("c", 1, queries[:2]), 5)] == ["b", "a"]
    assert [query.id for query in pick(ComparisonReport("c", 1, (queries[0], queries[1], queries[3])), 2)] == ["b", "a"]
    assert pick(ComparisonReport("c", 1, queries), 0) == []
