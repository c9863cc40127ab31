"""Reranking on many machines with Ray: data sets in bulk."""

from milvus_rerank.cluster.batch import rerank_files
from milvus_rerank.cluster.dataset import rerank_dataset
from milvus_rerank.cluster.first_stage import MilvusFirstStage
from milvus_rerank.cluster.job import BatchReport
from milvus_rerank.cluster.queries import QueryFields
from milvus_rerank.cluster.reranker import RerankerSpec

__all__ = ["BatchReport", "MilvusFirstStage", "QueryFields", "RerankerSpec", "rerank_dataset", "rerank_files"]
