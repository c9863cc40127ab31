"""Judged collections, metrics, and comparisons of rankings before and after reranking."""

from milvus_rerank.evaluation.compare import compare
from milvus_rerank.evaluation.demo import DEMO_COLLECTION, DemoReport, demo_folder, run_demo
from milvus_rerank.evaluation.judged import JudgedCollection, load_judged
from milvus_rerank.evaluation.metrics import ndcg
from milvus_rerank.evaluation.report import ComparisonReport, QueryReport, RankedDocument

__all__ = [
    "DEMO_COLLECTION",
    "ComparisonReport",
    "DemoReport",
    "JudgedCollection",
    "QueryReport",
    "RankedDocument",
    "compare",
    "demo_folder",
    "load_judged",
    "ndcg",
    "run_demo",
]
