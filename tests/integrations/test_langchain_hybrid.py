"""Candidates of langchain-milvus' hybrid store, dense vectors and BM25 in Milvus Lite, for the reranker."""

import asyncio
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from adapting import framework

framework("langchain_classic", "langchain_milvus", "milvus_lite")

from langchain_classic.retrievers import ContextualCompressionRetriever
from langchain_core.documents import Document
from langchain_core.embeddings import Embeddings
from langchain_core.runnables import RunnableLambda
from langchain_core.vectorstores import InMemoryVectorStore
from langchain_milvus import BM25BuiltInFunction, Milvus
from milvus_fixtures import vector

from milvus_rerank import LexicalRerankFunction
from milvus_rerank.errors import InputError
from milvus_rerank.integrations.langchain import RerankCompressor, candidate_retriever

pytestmark = pytest.mark.filterwarnings("default")  # frameworks warn of each other
QUERY = "index file"
# The best document is the last of both first stages: its text is long, and its vector is farthest.
WORDS = ["index", "file"]
TEXTS = [*(f"{WORDS[n % 2]} {WORDS[n % 2]} number {n}" for n in range(11)), "the index file " + "and more words " * 30]
BEST = f"d{len(TEXTS) - 1}"


class Angles(Embeddings):
    """Embed document n at n * 5 degrees, and every query at 0."""

    def embed_documents(self, texts: Sequence[str]) -> list[list[float]]:
        return [vector(5 * TEXTS.index(text)) for text in texts]

    def embed_query(self, text: str) -> list[float]:
        return vector(0)


@pytest.fixture(params=["hybrid", "dense"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Any]:
    dense = {"index_type": "FLAT", "metric_type": "COSINE"}
    fields: dict[str, Any] = {"index_params": dense}
    if request.param == "hybrid":
        fields = {
            "builtin_function": BM25BuiltInFunction(output_field_names="sparse"),
            "vector_field": ["dense", "sparse"],
            "index_params": [dense, {"index_type": "SPARSE_INVERTED_INDEX", "metric_type": "BM25"}],
            "search_params": [{"metric_type": "COSINE"}, {"metric_type": "BM25"}],  # Milvus Lite refuses the default
        }
    store = Milvus(Angles(), connection_args={"uri": str(tmp_path / "x.db")}, **fields)
    store.add_documents([Document(text, metadata={"name": f"d{n}"}) for n, text in enumerate(TEXTS)])
    yield store
    store.client.close()


def names(documents: Sequence[Document]) -> list[str]:
    return [document.metadata["name"] for document in documents]


def test_the_reranker_gets_all_candidates_of_each_vector_field(store: Any) -> None:
    found = names(candidate_retriever(store, 12).invoke(QUERY))
    assert sorted(found) == sorted(f"d{number}" for number in range(12))
    assert len(names(candidate_retriever(store, 6).invoke(QUERY))) == 6


def test_the_best_document_comes_first_though_each_first_stage_finds_it_late(store: Any) -> None:
    compressor = RerankCompressor(reranker=LexicalRerankFunction(), top_n=2)

    def best(base: Any) -> str:
        return names(ContextualCompressionRetriever(base_retriever=base, base_compressor=compressor).invoke(QUERY))[0]

    retriever = candidate_retriever(store)
    assert best(retriever) == BEST
    chain = {"documents": retriever, "query": RunnableLambda(str)} | RunnableLambda(
        lambda asked: compressor.compress_documents(asked["documents"], asked["query"])
    )
    assert names(chain.invoke(QUERY))[0] == BEST
    assert names(asyncio.run(chain.ainvoke(QUERY)))[0] == BEST
    untold = store.as_retriever(search_kwargs={"reranker": retriever.search_kwargs.get("reranker")})
    found = names(untold.invoke(QUERY))
    assert len(found) == 4
    assert BEST not in found


def test_twenty_concurrent_calls_over_the_store_lose_nothing(store: Any) -> None:
    compressor = RerankCompressor(reranker=LexicalRerankFunction(), top_n=None)
    base = candidate_retriever(store)
    retriever = ContextualCompressionRetriever(base_retriever=base, base_compressor=compressor)

    async def calls() -> list[list[str]]:
        return [names(found) for found in await asyncio.gather(*(retriever.ainvoke(QUERY) for _ in range(20)))]

    expected = names(retriever.invoke(QUERY))
    assert len(expected) == 12
    assert asyncio.run(calls()) == [expected] * 20


def test_further_arguments_go_to_the_stores_search_and_take_precedence(store: Any) -> None:
    assert names(candidate_retriever(store, 12, expr=f"name == '{BEST}'").invoke(QUERY)) == [BEST]
    assert len(candidate_retriever(store, 12, k=3).invoke(QUERY)) == 3
    with pytest.raises(InputError, match="candidates must be a positive integer, got int: 0"):
        candidate_retriever(store, 0)


def test_other_stores_get_only_what_they_know() -> None:
    store = InMemoryVectorStore.from_texts(TEXTS, Angles())
    assert candidate_retriever(store, 7).search_kwargs == {"k": 7}
    assert len(candidate_retriever(store, 7).invoke(QUERY)) == 7
