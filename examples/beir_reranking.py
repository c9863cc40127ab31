"""BEIR: rerank the results of a search with a reranker of this package, and evaluate both.

pip install "milvus-rerank[eval]" beir
"""

from collections.abc import Sequence
from pathlib import Path

from beir.datasets.data_loader import GenericDataLoader
from beir.reranking import Rerank
from beir.retrieval.evaluation import EvaluateRetrieval

import milvus_rerank
from milvus_rerank import StaticEmbedder, load
from milvus_rerank.reranker.base import BaseRerankFunction

FOLDER = Path(milvus_rerank.__file__).parent / "data" / "history"
CANDIDATES = 10


class BEIRReranker:
    """A reranker as BEIR calls it."""

    def __init__(self, reranker: BaseRerankFunction) -> None:
        self.reranker = reranker

    def predict(self, pairs: Sequence[Sequence[str]], batch_size: int = 0) -> list[float]:
        return self.reranker.score_pairs((query, text) for query, text in pairs)


corpus, queries, qrels = GenericDataLoader(str(FOLDER)).load(split="test")
embedder = StaticEmbedder()
vectors = embedder.encode_documents([f"{row['title']} {row['text']}".strip() for row in corpus.values()])
similarities = embedder.encode_queries(list(queries.values())) @ vectors.T
results = {
    query: dict(sorted(zip(corpus, map(float, row), strict=True), key=lambda item: -item[1])[:CANDIDATES])
    for query, row in zip(queries, similarities, strict=True)
}
reranked = Rerank(BEIRReranker(load("builtin/rerank", device="cpu"))).rerank(corpus, queries, results, CANDIDATES)
for name, scores in (("search", results), ("reranked", reranked)):
    ndcg, _, _, _ = EvaluateRetrieval.evaluate(qrels, scores, [10])
    print(f"{name} nDCG@10 {ndcg['NDCG@10']:.3f}")
