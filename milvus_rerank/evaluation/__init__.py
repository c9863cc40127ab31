"""Judged collections, metrics, and comparisons of rankings before and after reranking."""

from milvus_rerank.evaluation.cache import EvaluationCache, default_cache
from milvus_rerank.evaluation.compare import compare
from milvus_rerank.evaluation.demo import DEMO_COLLECTION, DemoReport, demo_folder, run_demo
from milvus_rerank.evaluation.evaluate import evaluate, stage_name
from milvus_rerank.evaluation.evaluation_report import EvaluationReport
from milvus_rerank.evaluation.judged import JudgedCollection, load_judged
from milvus_rerank.evaluation.metrics import ndcg
from milvus_rerank.evaluation.prices import Prices
from milvus_rerank.evaluation.queries import JudgedQueries, load_judged_queries, load_queries
from milvus_rerank.evaluation.report import ComparisonReport, QueryReport, RankedDocument
from milvus_rerank.evaluation.systems import System

__all__ = [
    "ComparisonReport",
    "DEMO_COLLECTION",
    "DemoReport",
    "EvaluationCache",
    "EvaluationReport",
    "JudgedCollection",
    "JudgedQueries",
    "Prices",
    "QueryReport",
    "RankedDocument",
    "System",
    "compare",
    "default_cache",
    "demo_folder",
    "evaluate",
    "load_judged",
    "load_judged_queries",
    "load_queries",
    "ndcg",
    "run_demo",
    "stage_name",
]
