"""Two-stage search: Milvus retrieves candidates, a reranker puts them in order."""

from milvus_rerank.postprocess.fuse import RRF, Weighted
from milvus_rerank.search.answer import SearchAnswer, Timings
from milvus_rerank.search.first_stage import Dense, FullText, Hybrid
from milvus_rerank.search.two_stage import TwoStageSearch

__all__ = ["RRF", "Dense", "FullText", "Hybrid", "SearchAnswer", "Timings", "TwoStageSearch", "Weighted"]
