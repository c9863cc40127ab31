"""Fine-tuning of a cross-encoder on the judged queries of a collection."""

from milvus_rerank.training.examples import TrainingQuery, collect_queries
from milvus_rerank.training.options import TrainingOptions
from milvus_rerank.training.report import TrainingReport
from milvus_rerank.training.train import train, train_on

__all__ = ["TrainingOptions", "TrainingQuery", "TrainingReport", "collect_queries", "train", "train_on"]
