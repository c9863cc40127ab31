"""BaseRerankFunction: all methods of a reranker, on top of one method that scores."""

import asyncio
import sys
import threading
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any, Literal, TypedDict, overload

from typing_extensions import Unpack

from milvus_rerank.errors import InputError
from milvus_rerank.hits import Missing
from milvus_rerank.reranker.call import CheckedCall, check_hits, check_pairs, check_texts, pair_scores, results
from milvus_rerank.reranker.predict import CrossEncoderMethods
from milvus_rerank.result_list import RerankResults
from milvus_rerank.results import DocumentScores
from milvus_rerank.scoring import Request
from milvus_rerank.text_field import TextField
from milvus_rerank.validation import check_text, describe

if TYPE_CHECKING:
    from typing_extensions import Self

    from milvus_rerank.tracing import Recorder

NO_SPANS: "AbstractContextManager[Recorder | None]" = nullcontext()
"""Takes the place of the spans of a call where OpenTelemetry has no provider."""
_PROVIDERS = (("opentelemetry.trace", "get_tracer_provider"), ("opentelemetry.metrics", "get_meter_provider"))
"""OpenTelemetry's modules, if they are imported, and their functions. Until a provider is set, these return a class of
the module itself. Looked at in each call, because providers may be set at any time and tell no one."""


class HitOptions(TypedDict, total=False):
    """Keyword arguments of :meth:`BaseRerankFunction.rerank_hits`, which documents them."""

    text_field: TextField
    top_k: int | None
    threshold: float | None
    id_field: str | None
    instruction: str | None


class BaseRerankFunction(CrossEncoderMethods, ABC):
    """Rerank texts and Milvus hits. A subclass implements :meth:`score_requests`."""

    pointwise = True
    """Whether a document's score is independent of the other documents. If not, a server must not share its batches."""

    @property
    def takes_instruction(self) -> bool:
        """True if calls may give an instruction: a sentence for the model that says what is relevant."""
        return False

    def with_instruction(self, instruction: str) -> "Self":
        """Return a reranker on the same model whose calls have an instruction.

        :param instruction: the instruction; "" for none even if the model has a default.
        :returns: the reranker.
        :raises InputError: if the model takes no instruction, or the text is not a string.
        """
        text = check_text(instruction, "instruction")
        if not self.takes_instruction:
            raise InputError(
                f"{self!r} takes no instruction, got {describe(text)}; leave it out, or use a model that was trained "
                "with instructions, such as Qwen/Qwen3-Reranker-0.6B"
            )
        return self._instructed(text)

    def _instructed(self, instruction: str) -> "Self":
        """Return a reranker with an instruction; one that takes instructions overrides this."""
        raise NotImplementedError

    @abstractmethod
    def score_requests(self, requests: Sequence[Request], stop: threading.Event) -> list[list[float]]:
        """Score the documents of several queries in one pass.

        :param requests: checked queries, each with its documents; a text may be empty.
        :param stop: set when the caller no longer waits; check it between batches and raise ``StoppedError``.
        :returns: one list per request: a score per document, in input order, larger is better.
        """

    def score_documents(
        self, requests: Sequence[Request], top_k: int | None, stop: threading.Event
    ) -> list[DocumentScores]:
        """Score documents, with spans or stages if the reranker has them.

        :param requests: checked queries, each with at least one document.
        :param top_k: the number of best documents of each query that need exact scores; None for all. The others may
            get a rough score, if it is lower.
        :param stop: as for :meth:`score_requests`.
        :returns: one value per request.
        """
        return [DocumentScores(scores) for scores in self.score_requests(requests, stop)]

    def __call__(
        self,
        query: str,
        documents: Sequence[str],
        top_k: int | None = 5,
        threshold: float | None = None,
        *,
        instruction: str | None = None,
    ) -> RerankResults:
        """Rerank documents for one query.

        :param query: the query.
        :param documents: the texts to rerank.
        :param top_k: the most results to return; 0 or None for all.
        :param threshold: the least score to return.
        :param instruction: says for this call what is relevant, as in :meth:`with_instruction`.
        :returns: results, best first; empty if there are no documents.
        :raises InputError: for a query, document or option that cannot be used.
        """
        checked = check_texts([query], [documents], top_k, threshold)
        return results(checked, self._score(checked, instruction))[0]

    def rerank(
        self,
        query: str,
        documents: Sequence[str],
        top_k: int | None = 5,
        threshold: float | None = None,
        *,
        instruction: str | None = None,
    ) -> RerankResults:
        """Like calling the object."""
        return self(query, documents, top_k, threshold, instruction=instruction)

    def score(self, query: str, documents: Sequence[str], *, instruction: str | None = None) -> list[float]:
        """Return one score per document, in input order; raise InputError as a call does."""
        checked = check_texts([query], [documents], only_scores=True)
        return self._score(checked, instruction)[0].flat()

    def score_pairs(self, pairs: Iterable[tuple[str, str]], *, instruction: str | None = None) -> list[float]:
        """Return one score per ``(query, document)`` pair, in input order; raise InputError for any other item."""
        checked = check_pairs(pairs)
        return pair_scores(checked, self._score(checked, instruction))

    def rerank_many(
        self,
        queries: Sequence[str],
        documents: Sequence[Sequence[str]],
        top_k: int | None = 5,
        threshold: float | None = None,
        *,
        instruction: str | None = None,
    ) -> list[RerankResults]:
        """Rerank the documents of many queries in one pass.

        :param queries: the queries.
        :param documents: one list of texts per query.
        :param top_k: the most results to return for each query; 0 or None for all.
        :param threshold: the least score to return.
        :param instruction: as in a call.
        :returns: one list of results per query, best first.
        :raises InputError: for a query, document or option that cannot be used, or lists of different lengths.
        """
        checked = check_texts(queries, documents, top_k, threshold)
        return results(checked, self._score(checked, instruction))

    @overload
    def rerank_hits(
        self, query: str, hits: Iterable[Any], *, missing: Literal["error", "skip"] = ..., **options: Unpack[HitOptions]
    ) -> RerankResults: ...

    @overload
    def rerank_hits(
        self, query: str, hits: Iterable[Any], *, missing: Missing, **options: Unpack[HitOptions]
    ) -> RerankResults[float | None]: ...

    def rerank_hits(
        self,
        query: str,
        hits: Iterable[Any],
        *,
        text_field: TextField = "text",
        top_k: int | None = None,
        threshold: float | None = None,
        missing: Missing = "error",
        id_field: str | None = None,
        instruction: str | None = None,
    ) -> RerankResults[Any]:
        """Rerank one query's hits of a Milvus search.

        :param query: the query.
        :param hits: hits in any form that pymilvus returns, or plain dicts; or a search result with one list of them.
        :param text_field: the field that holds the text; or several, whose texts are joined by line breaks; or a
            template such as ``"{title}: {text}"``.
        :param top_k: the most results to return; None or 0 for all.
        :param threshold: the least score to return; hits without a score are then dropped.
        :param missing: for a hit whose text is absent or null: ``error``, ``skip`` it, or put it ``last`` with
            ``score=None``.
        :param id_field: the primary key's name, if plain dicts do not show it; None takes ``id`` or ``pk``.
        :param instruction: as in a call.
        :returns: results with ``id``, ``distance`` and ``entity`` of each hit, best first; ``index`` is its position.
        :raises HitError: if a hit has no text; the message names the field, the hit and the fields it has.
        :raises InputError: for a query or option that cannot be used.
        """
        checked = check_hits(query, hits, text_field, top_k, threshold, missing, id_field)
        return results(checked, self._score(checked, instruction))[0]

    @overload
    def rerank_search_result(
        self,
        queries: Sequence[str],
        result: Iterable[Any],
        *,
        missing: Literal["error", "skip"] = ...,
        **options: Unpack[HitOptions],
    ) -> list[RerankResults]: ...

    @overload
    def rerank_search_result(
        self, queries: Sequence[str], result: Iterable[Any], *, missing: Missing, **options: Unpack[HitOptions]
    ) -> list[RerankResults[float | None]]: ...

    def rerank_search_result(
        self,
        queries: Sequence[str],
        result: Iterable[Any],
        *,
        text_field: TextField = "text",
        top_k: int | None = None,
        threshold: float | None = None,
        missing: Missing = "error",
        id_field: str | None = None,
        instruction: str | None = None,
    ) -> list[RerankResults[Any]]:
        """Rerank the hits of many queries in one pass.

        :param queries: the queries of the search, in its order.
        :param result: the result of the search: one list of hits per query.
        :param text_field: as in :meth:`rerank_hits`, like the following parameters and errors.
        :param top_k: the most results to return for each query.
        :param threshold: the least score to return.
        :param missing: for a hit whose text is absent or null.
        :param id_field: the primary key's name.
        :param instruction: as in a call.
        :returns: one list of results per query, best first.
        """
        checked = check_hits(queries, result, text_field, top_k, threshold, missing, id_field, many=True)
        return results(checked, self._score(checked, instruction))

    async def arerank(
        self,
        query: str,
        documents: Sequence[str],
        top_k: int | None = 5,
        threshold: float | None = None,
        *,
        instruction: str | None = None,
    ) -> RerankResults:
        """Like calling the object, off the event loop; a cancelled call stops before its next batch."""
        checked = check_texts([query], [documents], top_k, threshold)
        return results(checked, await self._ascore(checked, instruction))[0]

    async def ascore(self, query: str, documents: Sequence[str], *, instruction: str | None = None) -> list[float]:
        """Like :meth:`score`, off the event loop; a cancelled call stops before its next batch."""
        checked = check_texts([query], [documents], only_scores=True)
        return (await self._ascore(checked, instruction))[0].flat()

    async def ascore_pairs(self, pairs: Iterable[tuple[str, str]], *, instruction: str | None = None) -> list[float]:
        """Like :meth:`score_pairs`, off the event loop; a cancelled call stops before its next batch."""
        checked = check_pairs(pairs)
        return pair_scores(checked, await self._ascore(checked, instruction))

    async def arerank_many(
        self,
        queries: Sequence[str],
        documents: Sequence[Sequence[str]],
        top_k: int | None = 5,
        threshold: float | None = None,
        *,
        instruction: str | None = None,
    ) -> list[RerankResults]:
        """Like :meth:`rerank_many`, off the event loop; a cancelled call stops before its next batch."""
        checked = check_texts(queries, documents, top_k, threshold)
        return results(checked, await self._ascore(checked, instruction))

    @overload
    async def arerank_hits(
        self, query: str, hits: Iterable[Any], *, missing: Literal["error", "skip"] = ..., **options: Unpack[HitOptions]
    ) -> RerankResults: ...

    @overload
    async def arerank_hits(
        self, query: str, hits: Iterable[Any], *, missing: Missing, **options: Unpack[HitOptions]
    ) -> RerankResults[float | None]: ...

    async def arerank_hits(
        self,
        query: str,
        hits: Iterable[Any],
        *,
        text_field: TextField = "text",
        top_k: int | None = None,
        threshold: float | None = None,
        missing: Missing = "error",
        id_field: str | None = None,
        instruction: str | None = None,
    ) -> RerankResults[Any]:
        """Like :meth:`rerank_hits`, off the event loop; a cancelled call stops before its next batch."""
        checked = check_hits(query, hits, text_field, top_k, threshold, missing, id_field)
        return results(checked, await self._ascore(checked, instruction))[0]

    @overload
    async def arerank_search_result(
        self,
        queries: Sequence[str],
        result: Iterable[Any],
        *,
        missing: Literal["error", "skip"] = ...,
        **options: Unpack[HitOptions],
    ) -> list[RerankResults]: ...

    @overload
    async def arerank_search_result(
        self, queries: Sequence[str], result: Iterable[Any], *, missing: Missing, **options: Unpack[HitOptions]
    ) -> list[RerankResults[float | None]]: ...

    async def arerank_search_result(
        self,
        queries: Sequence[str],
        result: Iterable[Any],
        *,
        text_field: TextField = "text",
        top_k: int | None = None,
        threshold: float | None = None,
        missing: Missing = "error",
        id_field: str | None = None,
        instruction: str | None = None,
    ) -> list[RerankResults[Any]]:
        """Like :meth:`rerank_search_result`, off the event loop; a cancelled call stops before its next batch."""
        checked = check_hits(queries, result, text_field, top_k, threshold, missing, id_field, many=True)
        return results(checked, await self._ascore(checked, instruction))

    def _score(
        self, checked: CheckedCall, instruction: str | None, stop: threading.Event | None = None
    ) -> list[DocumentScores]:
        """Return the checked scores of a call's requests."""
        reranker = self if instruction is None else self.with_instruction(instruction)
        requests, stop = [request for request in checked.requests if request[1]], stop or threading.Event()
        spans = NO_SPANS
        for api, getter in _PROVIDERS:
            get_provider = getattr(sys.modules.get(api), getter, None)
            if get_provider is not None and not type(get_provider()).__module__.startswith(api):
                from milvus_rerank.tracing import reranking

                spans = reranking(reranker, checked.requests, checked.unscored, checked.top_k)
                break
        with spans as record:
            if checked.only_scores:
                scores = (
                    [DocumentScores(numbers) for numbers in reranker.score_requests(requests, stop)] if requests else []
                )
            else:
                scores = reranker.score_documents(requests, checked.top_k, stop) if requests else []
            scores = checked.check_scores(scores)
            if record is not None:
                record(results(checked, scores))
            return scores

    async def _ascore(self, checked: CheckedCall, instruction: str | None) -> list[DocumentScores]:
        """Score in a thread; a subclass that can wait without one does so here."""
        stop = threading.Event()
        try:
            return await asyncio.to_thread(self._score, checked, instruction, stop)
        except asyncio.CancelledError:
            stop.set()
            raise
