"""LangChain's cross-encoder."""

from typing import Any

from langchain_core.cross_encoders import BaseCrossEncoder

from milvus_rerank.integrations.core import DEFAULT_MODEL, open_reranker


class RerankCrossEncoder(BaseCrossEncoder):
    """Score pairs of texts, for LangChain's ``CrossEncoderReranker``.

    :param reranker: a rerank function, or a name for :func:`milvus_rerank.load`.
    """

    def __init__(self, reranker: Any = DEFAULT_MODEL) -> None:
        self.reranker = open_reranker(reranker)

    def score(self, text_pairs: list[tuple[str, str]]) -> list[float]:
        """Return a score for each pair, in input order."""
        return self.reranker.score_pairs(text_pairs)
