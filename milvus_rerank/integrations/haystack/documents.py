"""The text, meta and score of a Haystack document, its copy with a result, and duplicates."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from haystack import Document

from milvus_rerank.integrations.core import span_metadata
from milvus_rerank.results import RerankResult


def read_text(document: Document, meta_fields: Sequence[str], separator: str) -> object:
    """Return the fields of ``meta`` that the document has, and its content; None without content."""
    if not isinstance(document.content, str):
        return document.content
    fields = [document.meta.get(name) for name in meta_fields]
    return separator.join([*(str(value) for value in fields if value is not None and value != ""), document.content])


def read_meta(document: Document) -> dict[str, Any]:
    """Return ``meta``."""
    return document.meta  # type: ignore[no-any-return]


def read_score(document: Document) -> float | None:
    """Return the score of the retriever."""
    return document.score  # type: ignore[no-any-return]


def scored(document: Document, result: RerankResult) -> Document:
    """Return a copy with the score, and with the best part of a long document in ``meta``."""
    meta = {**document.meta, **span_metadata(result, document.content or "")}
    return replace(document, score=result.score, meta=meta)


def best_by_id(documents: Sequence[Document]) -> list[Document]:
    """Return the documents without duplicates: of equal ids the one that the retrievers scored best stays."""
    best: dict[str, Document] = {}
    for document in documents:
        if document.id not in best or _retrieval_score(document) > _retrieval_score(best[document.id]):
            best[document.id] = document
    return list(best.values())


def _retrieval_score(document: Document) -> float:
    return float("-inf") if document.score is None else document.score
