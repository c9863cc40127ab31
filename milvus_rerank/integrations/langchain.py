"""LangChain: a document compressor, a cross-encoder, a retriever in two stages, and a tool for agents."""

from collections.abc import Sequence
from typing import Any

from milvus_rerank.integrations.core import (
    DEFAULT_MODEL,
    arerank_items,
    open_reranker,
    require_framework,
    rerank_items,
    score_metadata,
)

require_framework("the LangChain adapter", "langchain-core", "1.3", "langchain")

from langchain_core.callbacks import AsyncCallbackManagerForRetrieverRun, CallbackManagerForRetrieverRun, Callbacks
from langchain_core.cross_encoders import BaseCrossEncoder
from langchain_core.documents import BaseDocumentCompressor, Document
from langchain_core.retrievers import BaseRetriever
from langchain_core.tools import StructuredTool, create_retriever_tool
from pydantic import ConfigDict, Field, field_validator

from milvus_rerank.search import SearchAnswer, TwoStageSearch
from milvus_rerank.validation import check_threshold, check_top_k


class RerankCompressor(BaseDocumentCompressor):
    """Rerank documents, for ``ContextualCompressionRetriever`` and other users of document compressors.

    It returns copies of the documents with ``metadata["relevance_score"]``, and ``metadata["relevance_span"]`` for the
    best part of a long document. ``reranker`` is a rerank function or a name for :func:`milvus_rerank.load`; ``top_n``
    is the most documents to return, None for all; ``threshold`` is the least score to return.
    """

    model_config = ConfigDict(arbitrary_types_allowed=True, extra="forbid", validate_default=True)
    reranker: Any = DEFAULT_MODEL
    top_n: int | None = 5
    threshold: float | None = None
    instruction: str | None = None

    _open = field_validator("reranker")(open_reranker)
    _check_top_n = field_validator("top_n", mode="before")(check_top_k)
    _check_threshold = field_validator("threshold", mode="before")(check_threshold)

    def compress_documents(
        self, documents: Sequence[Document], query: str, callbacks: Callbacks | None = None
    ) -> Sequence[Document]:
        """Return copies of the best documents, best first."""
        options = (self.top_n, self.threshold, self.instruction)
        pairs = rerank_items(self.reranker, query, documents, _text, *options)
        return [_scored(document, score_metadata(result)) for document, result in pairs]

    async def acompress_documents(
        self, documents: Sequence[Document], query: str, callbacks: Callbacks | None = None
    ) -> Sequence[Document]:
        """Return copies of the best documents, best first, without blocking the event loop."""
        options = (self.top_n, self.threshold, self.instruction)
        pairs = await arerank_items(self.reranker, query, documents, _text, *options)
        return [_scored(document, score_metadata(result)) for document, result in pairs]


class RerankCrossEncoder(BaseCrossEncoder):
    """Score pairs of texts, for LangChain's ``CrossEncoderReranker``.

    :param reranker: a rerank function, or a name for :func:`milvus_rerank.load`.
    """

    def __init__(self, reranker: Any = DEFAULT_MODEL) -> None:
        self.reranker = open_reranker(reranker)

    def score(self, text_pairs: list[tuple[str, str]]) -> list[float]:
        """Return a score for each pair, in input order."""
        return self.reranker.score_pairs(text_pairs)


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
        return [
            Document(
                result.text,
                id=str(result.id),
                metadata={
                    **{name: value for name, value in result.entity.items() if name != self.search.text_field},
                    result.id_field: result.id,
                    "distance": result.distance,
                    **score_metadata(result),
                },
            )
            for result in answer
        ]


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


def _text(document: Document) -> object:
    return document.page_content


def _scored(document: Document, metadata: dict[str, Any]) -> Document:
    return document.model_copy(update={"metadata": {**document.metadata, **metadata}})
