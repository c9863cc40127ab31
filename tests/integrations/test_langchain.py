"""The LangChain adapters, in LangChain's own retrievers, chains and tools."""

import asyncio
import re
from pathlib import Path
from typing import Any

import pytest
from adapting import LONG_TEXT, QUERY, TEXTS, by_parts, check_span, direct, framework, run_example
from two_stage_docs import Failing, docs

framework("langchain_classic", "langchain_milvus", "milvus_lite")

from langchain_classic.retrievers import ContextualCompressionRetriever
from langchain_classic.retrievers.document_compressors import CrossEncoderReranker
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.documents import Document
from langchain_core.language_models.fake_chat_models import GenericFakeChatModel
from langchain_core.messages import AIMessage
from langchain_core.retrievers import BaseRetriever
from langchain_core.runnables import RunnableLambda
from milvus_fixtures import MILVUS_INDEX

from milvus_rerank import TwoStageSearch
from milvus_rerank.errors import InputError, RegistryError, SearchError
from milvus_rerank.integrations.langchain import (
    RerankCompressor,
    RerankCrossEncoder,
    TwoStageRetriever,
    search_tool,
)

pytestmark = pytest.mark.filterwarnings("default")  # frameworks warn of each other


class Fixed(BaseRetriever):
    documents: list[Document]

    def _get_relevant_documents(self, query: str, *, run_manager: Any) -> list[Document]:
        return self.documents


class Errors(BaseCallbackHandler):
    def __init__(self) -> None:
        self.raised: list[BaseException] = []

    def on_retriever_error(self, error: BaseException, **options: Any) -> None:
        self.raised.append(error)


def documents() -> list[Document]:
    return [Document(text, id=f"d{index}", metadata={"tags": [index]}) for index, text in enumerate(TEXTS)]


def compression(**options: Any) -> ContextualCompressionRetriever:
    return ContextualCompressionRetriever(
        base_compressor=RerankCompressor(**options), base_retriever=Fixed(documents=documents())
    )


def check(found: list[Document]) -> None:
    """Check that documents are ordered and scored as by the reranker itself, and are whole."""
    expected = direct()
    assert [document.id for document in found] == [f"d{index}" for index, _ in expected]
    assert [document.metadata["tags"] for document in found] == [[index] for index, _ in expected]
    scores = [document.metadata["relevance_score"] for document in found]
    assert scores == pytest.approx([score for _, score in expected], abs=1e-6)


def test_a_compression_retriever_gives_the_rerankers_scores() -> None:
    check(compression(top_n=None).invoke(QUERY))
    check(asyncio.run(compression(top_n=None).ainvoke(QUERY)))


def test_the_documents_that_came_in_are_not_changed() -> None:
    given = documents()
    found = RerankCompressor().compress_documents(given, QUERY)
    assert given == documents()
    assert not any(document is one for document in found for one in given)


def test_top_n_and_the_threshold_cut() -> None:
    scores = [score for _, score in direct()]
    assert len(compression(top_n=2).invoke(QUERY)) == 2
    assert len(compression(top_n=None, threshold=scores[2]).invoke(QUERY)) == 3
    assert RerankCompressor().compress_documents([], QUERY) == []


def test_a_chain_passes_the_documents_on() -> None:
    chain = compression(top_n=1) | RunnableLambda(lambda found: found[0].page_content)
    assert chain.invoke(QUERY) == TEXTS[1]
    compressor = RerankCompressor(top_n=1)
    runnable = RunnableLambda(lambda question: compressor.compress_documents(documents(), question))
    assert [found[0].page_content for found in runnable.batch([QUERY, "baked bread"])] == [TEXTS[1], TEXTS[3]]


def test_twenty_concurrent_calls_lose_nothing() -> None:
    retriever = compression(top_n=None)

    async def calls() -> list[list[Document]]:
        return list(await asyncio.gather(*(retriever.ainvoke(QUERY) for _ in range(20))))

    found = asyncio.run(calls())
    assert len(found) == 20
    for one in found:
        check(one)


def test_the_best_part_of_a_long_document_is_in_the_metadata() -> None:
    [found] = RerankCompressor(reranker=by_parts()).compress_documents([Document(LONG_TEXT)], QUERY)
    check_span(found.metadata["relevance_span"])


def test_langchains_own_reranker_takes_the_cross_encoder() -> None:
    compressor = CrossEncoderReranker(model=RerankCrossEncoder(), top_n=3)
    found = compressor.compress_documents(documents(), QUERY)
    assert [document.id for document in found] == [f"d{index}" for index, _ in direct()[:3]]
    scores = RerankCrossEncoder().score([(QUERY, text) for text in TEXTS])
    assert scores == pytest.approx([score for _, score in sorted(direct())], abs=1e-6)


def test_wrong_options_say_what_is_expected() -> None:
    with pytest.raises(ValueError, match="top_k must not be negative"):
        RerankCompressor(top_n=-1)
    with pytest.raises(ValueError, match="reranker must be a name such as 'builtin/rerank'"):
        RerankCompressor(reranker=3)
    with pytest.raises(RegistryError, match="no reranker is named 'nonsense'"):
        RerankCompressor(reranker="nonsense")
    with pytest.raises(ValueError, match="Extra inputs are not permitted"):
        RerankCompressor(topn=3)


def test_a_document_without_text_is_named() -> None:
    broken = Document.model_construct(page_content=[{"type": "image"}], metadata={}, id="picture")
    with pytest.raises(InputError, match=r"documents\[1\] \(id 'picture'\) has no text to rerank, got list"):
        RerankCompressor().compress_documents([Document("a"), broken], QUERY)


def test_a_failing_reranker_reaches_langchains_callbacks() -> None:
    errors = Errors()
    failure = RuntimeError("out of order")
    retriever = compression(reranker=Failing(failure))
    with pytest.raises(RuntimeError, match="out of order"):
        retriever.invoke(QUERY, config={"callbacks": [errors]})
    assert errors.raised == [failure]
    fallback = retriever.with_fallbacks([Fixed(documents=documents())])
    assert len(fallback.invoke(QUERY)) == len(TEXTS)


def test_the_retriever_in_two_stages_keeps_ids_and_fields(client: Any) -> None:
    search = docs(client)
    retriever = TwoStageRetriever(search=search, options={"top_k": 3, "candidates": 9, "output_fields": ["year"]})
    answer = search(MILVUS_INDEX, top_k=3, candidates=9)
    for found in (retriever.invoke(MILVUS_INDEX), asyncio.run(retriever.ainvoke(MILVUS_INDEX))):
        assert [document.id for document in found] == [result.id for result in answer]
        for document, result in zip(found, answer, strict=True):
            assert document.page_content == result.text
            assert document.metadata == {
                "pk": result.id, "year": 2015 + int(str(result.id)[1:]), "distance": result.distance,
                "relevance_score": result.score,
            }  # fmt: skip
    [one] = retriever.invoke(MILVUS_INDEX, top_k=1, filter="year > 2019")
    assert one.metadata["year"] > 2019

    async def calls() -> list[list[Document]]:
        return list(await asyncio.gather(*(retriever.ainvoke(MILVUS_INDEX) for _ in range(20))))

    assert [[document.id for document in found] for found in asyncio.run(calls())] == [
        [result.id for result in answer]
    ] * 20


def test_the_retriever_puts_the_best_part_of_a_long_document_into_the_metadata(client: Any, long_docs: str) -> None:
    search = TwoStageSearch(client, long_docs, reranker=by_parts(), embed=lambda queries: [[1.0, 0.0]])
    [found] = TwoStageRetriever(search=search).invoke(QUERY)
    check_span(found.metadata["relevance_span"])


def test_errors_of_the_search_and_the_reranker_reach_langchains_callbacks(client: Any) -> None:
    errors = Errors()
    failure = RuntimeError("out of order")
    retriever = TwoStageRetriever(search=docs(client, reranker=Failing(failure)))
    with pytest.raises(RuntimeError, match="out of order"):
        retriever.invoke(MILVUS_INDEX, config={"callbacks": [errors]})
    with pytest.raises(RuntimeError, match="out of order"):
        asyncio.run(retriever.ainvoke(MILVUS_INDEX, config={"callbacks": [errors]}))
    with pytest.raises(SearchError, match="year >"):
        retriever.invoke(MILVUS_INDEX, filter="year >", config={"callbacks": [errors]})
    assert errors.raised[:2] == [failure, failure]
    assert len(errors.raised) == 3


class Scripted(GenericFakeChatModel):
    """A language model whose answers are given; it takes any tools."""

    def bind_tools(self, tools: Any, **options: Any) -> Any:
        return self


def test_an_agent_answers_from_what_the_tool_finds(client: Any) -> None:
    framework("langchain")
    from langchain.agents import create_agent

    call = {"id": "1", "name": "search_docs", "args": {"query": MILVUS_INDEX}}
    model = Scripted(messages=iter([AIMessage("", tool_calls=[call]), AIMessage("both")]))
    tool = search_tool(docs(client), "search_docs", "Search notes on vector databases.", top_k=2, candidates=9)
    *_, found, answer = create_agent(model, [tool]).invoke({"messages": [("user", "what builds an index")]})["messages"]
    expected = docs(client)(MILVUS_INDEX, top_k=2, candidates=9)
    assert found.content == "\n\n".join(result.text for result in expected)
    assert [document.metadata["relevance_score"] for document in found.artifact] == [hit.score for hit in expected]
    assert answer.content == "both"


def test_a_call_of_the_tool_has_the_documents_as_its_artifact(client: Any) -> None:
    tool = search_tool(docs(client), "search_docs", "Search notes on vector databases.", top_k=2, candidates=9)
    assert (tool.name, list(tool.args)) == ("search_docs", ["query"])
    message = tool.invoke({"type": "tool_call", "id": "1", "name": "search_docs", "args": {"query": MILVUS_INDEX}})
    assert message.content == "\n\n".join(document.page_content for document in message.artifact)
    assert len(message.artifact) == 2

    async def calls() -> list[Any]:
        return list(await asyncio.gather(*(tool.ainvoke({"query": MILVUS_INDEX}) for _ in range(20))))

    assert asyncio.run(calls()) == [message.content] * 20


def test_the_example_finds_the_first_program(tmp_path: Path) -> None:
    printed = run_example("langchain_rag.py", tmp_path)
    assert re.fullmatch(r"-?\d+\.\d\d  lovelace\n-?\d+\.\d\d  \w+\n", printed), printed
