"""Retrievers of candidates and in two stages, and a tool for agents."""

from typing import Any

from langchain_core.callbacks import AsyncCallbackManagerForRetrieverRun, CallbackManagerForRetrieverRun
from langchain_core.documents import Document
from langchain_core.retrievers import BaseRetriever
from langchain_core.tools import StructuredTool, create_retriever_tool
from langchain_core.vectorstores import VectorStore, VectorStoreRetriever
from pydantic import ConfigDict, Field

from milvus_rerank.integrations.core import score_metadata
from milvus_rerank.search import SearchAnswer, TwoStageSearch
from milvus_rerank.validation import check_count


def candidate_retriever(store: VectorStore, candidates: int = 50, **search_kwargs: Any) -> VectorStoreRetriever:
    r"""Return a vector store's retriever that finds enough candidates to rerank.

    :param store: the store. One of langchain-milvus with several vector fields searches each for as many candidates
        and fuses them by RRF; ``as_retriever`` alone searches each for 4 documents.
    :param candidates: the number of documents to retrieve.
    :param \**search_kwargs: further arguments of the store's search, such as langchain-milvus' ``expr``.
    :returns: the retriever.
    """
    options: dict[str, Any] = {"k": check_count(candidates, "candidates")}
    if any(cls.__module__.startswith("langchain_milvus.") for cls in type(store).__mro__):
        options["fetch_k"] = candidates
        if len({*store.vector_fields}) > 1:
            from pymilvus import Function, FunctionType

            # The default, weights, fails from the second search on: langchain-milvus 0.4 counts BM25's field again.
            options["reranker"] = Function("rrf", FunctionType.RERANK, [], params={"reranker": "rrf", "k": 60})
    return store.as_retriever(search_kwargs={**options, **search_kwargs})


class TwoStageRetriever(BaseRetriever):
    """Retrieve documents with a :class:`~milvus_rerank.TwoStageSearch`.

    ``search`` is the search, and ``options`` are its call's, such as ``{"top_k": 5, "filter": "year > 2020"}``; those
    given to ``invoke`` take precedence. Metadata hold the hit's fields and key, ``distance`` and ``relevance_score``.
    """

    model_config = ConfigDict(arbitrary_types_allowed=True, extra="forbid")
    search: TwoStageSearch[Any]
    options: dict[str, Any] = Field(default_factory=dict)

    def _get_relevant_documents(
        self, query: str, *, run_manager: CallbackManagerForRetrieverRun, **options: Any
    ) -> list[Document]:
        return self._documents(self.search(query, **{**self.options, **options}))

    async def _aget_relevant_documents(
        self, query: str, *, run_manager: AsyncCallbackManagerForRetrieverRun, **options: Any
    ) -> list[Document]:
        return self._documents(await self.search.asearch(query, **{**self.options, **options}))

    def _documents(self, answer: SearchAnswer[Any]) -> list[Document]:
        documents = []
        for result in answer:
            fields = {name: value for name, value in result.entity.items() if name != self.search.text_field}
            ranks = {"distance": result.distance, **score_metadata(result, result.text)}
            metadata = {**fields, result.id_field: result.id, **ranks}
            documents.append(Document(result.text, id=str(result.id), metadata=metadata))
        return documents


def search_tool(search: TwoStageSearch[Any], name: str, description: str, **options: Any) -> StructuredTool:
    r"""Return a search as a tool for agents: the model reads the texts, the documents are the tool's artifact.

    :param search: the search.
    :param name: the tool's name, which the language model reads.
    :param description: says what the collection holds and when to search it; the language model reads it.
    :param \**options: options of the search's call, such as ``top_k``.
    :returns: the tool.
    """
    retriever = TwoStageRetriever(search=search, options=options)
    return create_retriever_tool(retriever, name, description, response_format="content_and_artifact")
