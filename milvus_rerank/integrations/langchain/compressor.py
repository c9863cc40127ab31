"""LangChain's document compressor."""

from collections.abc import Sequence
from typing import Any

from langchain_core.callbacks import Callbacks
from langchain_core.documents import BaseDocumentCompressor, Document
from pydantic import ConfigDict, field_validator

from milvus_rerank.integrations.core import DEFAULT_MODEL, ItemCall, open_reranker, score_metadata
from milvus_rerank.integrations.steps_field import StepsField
from milvus_rerank.results import RerankResult
from milvus_rerank.validation import check_threshold, check_top_k


class RerankCompressor(BaseDocumentCompressor):
    """Rerank documents, for ``ContextualCompressionRetriever`` and other users of document compressors.

    It returns copies of the documents with ``metadata["relevance_score"]``, and ``metadata["relevance_span"]`` for the
    best part of a long document. ``reranker`` is a rerank function or a name for :func:`milvus_rerank.load`; ``top_n``
    is the most documents to return, None for all; ``threshold`` is the least score of the reranker to return. ``steps``
    run after the reranker and read the metadata: a :class:`milvus_rerank.Pipeline`, or steps or tables for one.
    """

    model_config = ConfigDict(arbitrary_types_allowed=True, extra="forbid", validate_default=True)
    reranker: Any = DEFAULT_MODEL
    top_n: int | None = 5
    threshold: float | None = None
    instruction: str | None = None
    steps: StepsField = None

    _open = field_validator("reranker")(open_reranker)
    _check_top_n = field_validator("top_n", mode="before")(check_top_k)
    _check_threshold = field_validator("threshold", mode="before")(check_threshold)

    def compress_documents(
        self, documents: Sequence[Document], query: str, callbacks: Callbacks | None = None
    ) -> Sequence[Document]:
        """Return copies of the best documents, best first."""
        return self._call(documents, query).run(self.reranker)

    async def acompress_documents(
        self, documents: Sequence[Document], query: str, callbacks: Callbacks | None = None
    ) -> Sequence[Document]:
        """Return copies of the best documents, best first, without blocking the event loop."""
        return await self._call(documents, query).arun(self.reranker)

    def _call(self, documents: Sequence[Document], query: str) -> ItemCall[Document]:
        options = self.top_n, self.threshold, self.instruction, self.steps
        return ItemCall(query, documents, _text, _copy, *options, fields=_metadata)


def _text(document: Document) -> object:
    return document.page_content


def _metadata(document: Document) -> dict[str, Any]:
    return document.metadata  # type: ignore[no-any-return]


def _copy(document: Document, result: RerankResult) -> Document:
    metadata = {**document.metadata, **score_metadata(result, document.page_content)}
    return document.model_copy(update={"metadata": metadata})
