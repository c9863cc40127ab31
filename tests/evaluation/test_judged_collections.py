"""Metrics of an evaluation on judged collections, against pytrec_eval itself.

``MILVUS_RERANK_COLLECTIONS`` names a folder of collections in BEIR's layout; without it, these tests are skipped.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from milvus_rerank.evaluation import EvaluationReport, JudgedQueries, evaluate, load_judged_queries
from milvus_rerank.indexing import (
    describe,
    index_passages,
    load_embedder,
    open_client,
    open_corpus,
    open_search,
)
from milvus_rerank.reranker.lexical import LexicalRerankFunction

FOLDER = Path(os.environ.get("MILVUS_RERANK_COLLECTIONS", "none"))
pytestmark = [
    pytest.mark.needs("milvus_lite", "ir_measures", "pytrec_eval"),
    pytest.mark.skipif(not FOLDER.is_dir(), reason="needs MILVUS_RERANK_COLLECTIONS"),
]


def evaluate_on(name: str, database: Path) -> tuple[JudgedQueries, EvaluationReport]:
    """Index a collection, and evaluate its BM25 search and a reranker of no weight."""
    judged = load_judged_queries(FOLDER / name)
    with open_client(str(database)) as client, open_corpus(FOLDER / name) as passages:
        index_passages(client, name, passages, load_embedder("builtin/embed"))
        search = open_search(client, describe(client, name), mode="bm25")
        return judged, evaluate(search, judged, rerankers={"lexical": LexicalRerankFunction()})


def trec_values(judged: JudgedQueries, runs: Mapping[str, Mapping[str, float]]) -> dict[str, dict[str, float]]:
    """Return pytrec_eval's measures of the queries with a relevant document."""
    import pytrec_eval

    relevant = {
        query: {name: max(grade, 0) for name, grade in grades.items()}
        for query, grades in judged.judgments.items()
        if max(grades.values()) > 0
    }
    names = {"ndcg_cut.10", "map", "recall.50"}
    values: dict[str, dict[str, Any]] = pytrec_eval.RelevanceEvaluator(relevant, names).evaluate(runs)
    nothing = {"ndcg_cut_10": 0.0, "map": 0.0, "recall_50": 0.0}
    return {query: values.get(query, nothing) for query in relevant}


@pytest.mark.parametrize("name", ["cranfield", "cisi", "cacm"])
def test_measures_equal_those_of_pytrec_eval(name: str, tmp_path: Path) -> None:
    judged, report = evaluate_on(name, tmp_path / "x.db")
    for system in report.systems:
        runs = {
            query: {document: 1000.0 - rank for rank, document in enumerate(ranking.ids)}
            for query, ranking in system.rankings.items()
            if ranking.ids
        }
        expected = trec_values(judged, runs)
        for metric, trec in (("nDCG@10", "ndcg_cut_10"), ("AP", "map"), ("R@50", "recall_50")):
            measured = system.measures[metric]
            assert measured == pytest.approx({query: values[trec] for query, values in expected.items()}, abs=1e-6)
        assert 0.05 < system.ndcg10 < 0.6
