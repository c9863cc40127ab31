"""Two-stage search: Milvus retrieves candidates, a reranker puts them in order."""

from milvus_rerank.pipeline.answer import SearchAnswer, Timings
from milvus_rerank.pipeline.search import TwoStageSearch
from milvus_rerank.pipeline.stages import Dense, FullText, Hybrid
from milvus_rerank.scores.fusion import RRF, Weighted

__all__ = ["RRF", "Dense", "FullText", "Hybrid", "SearchAnswer", "Timings", "TwoStageSearch", "Weighted"]
