"""Haystack's ranker component."""

from functools import partial
from typing import Any

from haystack import Document, component, default_from_dict, default_to_dict

from milvus_rerank.errors import InputError
from milvus_rerank.integrations.core import DEFAULT_MODEL, ItemCall, LazyReranker
from milvus_rerank.integrations.haystack.documents import best_by_id, read_meta, read_score, read_text, scored
from milvus_rerank.integrations.steps import as_pipeline
from milvus_rerank.validation import check_count, check_threshold


@component
class MilvusRerankRanker:
    """Rerank documents, best first. The documents that came in are not changed; duplicates by id are dropped.

    :param model: a name for :func:`milvus_rerank.load`.
    :param options: options of ``load``, such as ``{"device": "cpu"}``.
    :param top_k: the most documents to return.
    :param score_threshold: the least score of the reranker to return; None for no limit.
    :param meta_fields_to_embed: fields of ``meta`` to put before the content; a document may lack them.
    :param embedding_separator: stands between these fields and the content.
    :param instruction: says what is relevant, for a model that takes instructions.
    :param steps: steps after the reranker, which read ``meta``: a :class:`milvus_rerank.Pipeline`, or tables for one.
    """

    def __init__(
        self, model: str = DEFAULT_MODEL, *, options: dict[str, Any] | None = None, top_k: int = 10,
        score_threshold: float | None = None, meta_fields_to_embed: list[str] | None = None,
        embedding_separator: str = "\n", instruction: str | None = None, steps: Any = None,
    ) -> None:  # fmt: skip
        if not isinstance(model, str):
            raise InputError(f"model must be a name such as {DEFAULT_MODEL!r}, got {type(model).__name__}")
        self.model, self.options = model, options or {}
        self.top_k, self.score_threshold = check_count(top_k, "top_k"), check_threshold(score_threshold)
        self.meta_fields_to_embed, self.embedding_separator = meta_fields_to_embed or [], embedding_separator
        self._pipeline = as_pipeline(steps)
        self.instruction, self.steps = instruction, self._pipeline.to_list()
        self._reranker = LazyReranker(model, self.options)

    def warm_up(self) -> None:
        """Load the model; later calls do nothing."""
        self._reranker.open()

    @component.output_types(documents=list[Document])
    def run(
        self, query: str, documents: list[Document], top_k: int | None = None, score_threshold: float | None = None
    ) -> dict[str, list[Document]]:
        """Return copies of the best documents with their scores; one without content is an error.

        ``top_k`` and ``score_threshold`` take precedence over those of the component.
        """
        return {"documents": self._call(query, documents, top_k, score_threshold).run(self._reranker.open())}

    @component.output_types(documents=list[Document])
    async def run_async(
        self, query: str, documents: list[Document], top_k: int | None = None, score_threshold: float | None = None
    ) -> dict[str, list[Document]]:
        """Like :meth:`run`, without blocking the event loop."""
        call = self._call(query, documents, top_k, score_threshold)
        return {"documents": await call.arun(await self._reranker.aopen())}

    def to_dict(self) -> dict[str, Any]:
        """Return the component as a dict for a pipeline's file."""
        return default_to_dict(self, **{k: v for k, v in vars(self).items() if not k.startswith("_")})  # type: ignore[no-any-return]

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> "MilvusRerankRanker":
        """Return the component of a dict from :meth:`to_dict`."""
        return default_from_dict(cls, data)  # type: ignore[no-any-return]

    def _call(self, query: str, given: list[Document], top_k: int | None, least: float | None) -> ItemCall[Document]:
        text = partial(read_text, meta_fields=self.meta_fields_to_embed, separator=self.embedding_separator)
        top_k = self.top_k if top_k is None else check_count(top_k, "top_k")
        least = self.score_threshold if least is None else least
        options = self.instruction, self._pipeline, read_meta, read_score
        return ItemCall(query, best_by_id(given), text, scored, top_k, least, *options)
