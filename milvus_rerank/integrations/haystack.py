"""Haystack: a ranker component."""

import threading
from dataclasses import replace
from typing import Any

from milvus_rerank.errors import InputError
from milvus_rerank.integrations.core import DEFAULT_MODEL, arerank_items, open_reranker, require_framework, rerank_items

require_framework("the Haystack adapter", "haystack-ai", "3.0", "haystack")

from haystack import Document, component, default_from_dict, default_to_dict
from haystack.core.serialization import allow_deserialization_module

from milvus_rerank.concurrency import off_loop
from milvus_rerank.reranker.base import BaseRerankFunction
from milvus_rerank.results import RerankResult
from milvus_rerank.validation import check_count, check_threshold

allow_deserialization_module(__name__)  # whoever imports this module trusts it: Pipeline.loads may make its component


@component
class MilvusRerankRanker:
    """Rerank documents, best first. The documents that came in are not changed; duplicates by id are dropped.

    :param model: a name for :func:`milvus_rerank.load`.
    :param options: options of ``load``, such as ``{"device": "cpu"}``.
    :param top_k: the most documents to return.
    :param score_threshold: the least score to return; None for no limit.
    :param meta_fields_to_embed: fields of ``meta`` to put before the content; a document may lack them.
    :param embedding_separator: stands between these fields and the content.
    :param instruction: says what is relevant, for a model that takes instructions.
    """

    def __init__(
        self,
        model: str = DEFAULT_MODEL,
        *,
        options: dict[str, Any] | None = None,
        top_k: int = 10,
        score_threshold: float | None = None,
        meta_fields_to_embed: list[str] | None = None,
        embedding_separator: str = "\n",
        instruction: str | None = None,
    ) -> None:
        if not isinstance(model, str):
            raise InputError(f"model must be a name such as {DEFAULT_MODEL!r}, got {type(model).__name__}")
        self.model = model
        self.options = options or {}
        self.top_k = check_count(top_k, "top_k")
        self.score_threshold = check_threshold(score_threshold)
        self.meta_fields_to_embed = meta_fields_to_embed or []
        self.embedding_separator = embedding_separator
        self.instruction = instruction
        self._reranker: BaseRerankFunction | None = None
        self._loading = threading.Lock()  # concurrent first calls load the model once

    def warm_up(self) -> None:
        """Load the model; later calls do nothing."""
        self._opened()

    @component.output_types(documents=list[Document])
    def run(
        self, query: str, documents: list[Document], top_k: int | None = None, score_threshold: float | None = None
    ) -> dict[str, list[Document]]:
        """Return the best documents with their scores.

        :param query: the query.
        :param documents: the documents to rerank; one without content is an error.
        :param top_k: the most documents to return; None for that of the component.
        :param score_threshold: the least score to return; None for that of the component.
        :returns: the ``documents``, copied, best first.
        """
        items, limits = _unique(documents), self._limits(top_k, score_threshold)
        pairs = rerank_items(self._opened(), query, items, self._text, *limits, self.instruction)
        return {"documents": [_scored(document, result) for document, result in pairs]}

    @component.output_types(documents=list[Document])
    async def run_async(
        self, query: str, documents: list[Document], top_k: int | None = None, score_threshold: float | None = None
    ) -> dict[str, list[Document]]:
        """Like :meth:`run`, without blocking the event loop."""
        items, limits = _unique(documents), self._limits(top_k, score_threshold)
        reranker = self._reranker or await off_loop(self._opened)
        pairs = await arerank_items(reranker, query, items, self._text, *limits, self.instruction)
        return {"documents": [_scored(document, result) for document, result in pairs]}

    def to_dict(self) -> dict[str, Any]:
        """Return the component as a dict for a pipeline's file."""
        names = ("model", "options", "top_k", "score_threshold", "meta_fields_to_embed", "embedding_separator")
        data: dict[str, Any] = default_to_dict(self, **{name: getattr(self, name) for name in (*names, "instruction")})
        return data

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> "MilvusRerankRanker":
        """Return the component of a dict from :meth:`to_dict`."""
        return default_from_dict(cls, data)  # type: ignore[no-any-return]

    def _opened(self) -> BaseRerankFunction:
        with self._loading:
            if self._reranker is None:
                self._reranker = open_reranker(self.model, **self.options)
            return self._reranker

    def _limits(self, top_k: int | None, score_threshold: float | None) -> tuple[int, float | None]:
        return (
            self.top_k if top_k is None else check_count(top_k, "top_k"),
            self.score_threshold if score_threshold is None else score_threshold,
        )

    def _text(self, document: Document) -> object:
        if document.content is None:
            return None
        fields = [document.meta.get(name) for name in self.meta_fields_to_embed]
        parts = [*(str(value) for value in fields if value is not None and value != ""), document.content]
        return self.embedding_separator.join(parts)


def _unique(documents: list[Document]) -> list[Document]:
    """Return the documents without duplicates: of equal ids the one that the retrievers scored best stays."""
    best: dict[str, Document] = {}
    for document in documents:
        kept = best.get(document.id)
        if kept is None or _retrieval_score(document) > _retrieval_score(kept):
            best[document.id] = document
    return list(best.values())


def _retrieval_score(document: Document) -> float:
    return float("-inf") if document.score is None else document.score


def _scored(document: Document, result: RerankResult) -> Document:
    return replace(document, score=result.score)
