"""txtai over its embedded Milvus: its Reranker pipeline asks a rerank function for the scores.

pip install milvus-rerank txtai milvus-lite
"""

from collections.abc import Iterable
from typing import Any

from txtai import Embeddings
from txtai.pipeline import Reranker

from milvus_rerank import StaticEmbedder, load

TEXTS = [
    "Babbage planned a general calculating machine driven by punched cards.",
    "Ada Lovelace published the first program, for Babbage's analytical engine.",
    "Six women set up the cables and switches of ENIAC.",
    "Grace Hopper wrote the first compiler, A-0, in 1952.",
]
embedder = StaticEmbedder()
reranker = load("builtin/rerank", device="cpu")


def embed(texts: Iterable[str]) -> Any:
    """Embed texts; any other model of txtai does, too."""
    return embedder.encode_documents(list(texts))


def similarity(query: str, texts: list[str]) -> list[tuple[int, float]]:
    """Return the position and the score of each text."""
    return [(result.index, result.score) for result in reranker(query, texts, top_k=None)]


embeddings = Embeddings(method="external", transform=embed, content=True, backend="milvus")
embeddings.index(TEXTS)
rerank = Reranker(embeddings, similarity)
for row in rerank("who published the first program", limit=2, factor=10):  # 2 of 20 candidates
    print(f"{row['score']:.2f}  {row['text']}")
