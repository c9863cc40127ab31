"""BaseRerankFunction: everything a reranker offers, on top of one method that scores."""

import asyncio
import threading
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from typing import Any, TypeVar, overload

from milvus_rerank.hits import Missing
from milvus_rerank.reranker import work
from milvus_rerank.results import Judgement, RerankResult
from milvus_rerank.scoring import Request

T = TypeVar("T")


class BaseRerankFunction(ABC):
    """Rerank texts and Milvus hits. A subclass writes :meth:`score_requests`, a plugin any ``score(query, texts)``."""

    pointwise = True
    """Whether a document gets the same score whatever stands beside it. If not, a server must not share its batches."""

    @abstractmethod
    def score_requests(self, requests: Sequence[Request], stop: threading.Event) -> list[list[float]]:
        """Score the documents of several queries in one pass.

        :param requests: checked queries, each with its documents; either may be empty.
        :param stop: set when the caller no longer waits; look at it between batches and raise ``StoppedError``.
        :returns: one list per request, one score per document, in input order, larger is better.
        """

    def judge(self, requests: Sequence[Request], keep: int | None, stop: threading.Event) -> list[Judgement]:
        """Score as far as the best ``keep`` documents of each query need it; here all of them.

        A subclass that knows more than scores says it here. One that can tell which documents are out of reach may give
        those a rough score, as long as it is lower.

        :param requests: checked queries, each with its documents, none empty.
        :param keep: how many documents of each query are wanted; None for all.
        :param stop: as for :meth:`score_requests`.
        :returns: one judgement per request.
        """
        return [Judgement(scores) for scores in self.score_requests(requests, stop)]

    def __call__(
        self, query: str, documents: Sequence[str], top_k: int | None = 5, threshold: float | None = None
    ) -> list[RerankResult]:
        """Rerank documents for one query.

        :param query: the query.
        :param documents: the texts to rerank.
        :param top_k: how many results to return; 0 or None for all.
        :param threshold: keep only scores of at least this.
        :returns: results, best first; empty if there are no documents.
        :raises InputError: for a query, document or option that cannot be used.
        """
        return self._run(work.rerank_texts([query], [documents], top_k, threshold))[0]

    def score(self, query: str, documents: Sequence[str]) -> list[float]:
        """Score documents for one query.

        :param query: the query.
        :param documents: the texts to score.
        :returns: one score per document, in input order.
        :raises InputError: for a query or document that cannot be used.
        """
        return self._run(work.score_texts(query, documents))

    def score_pairs(self, pairs: Iterable[tuple[str, str]]) -> list[float]:
        """Score pairs of query and document.

        :param pairs: tuples ``(query, document)``; queries may repeat and mix.
        :returns: one score per pair, in input order.
        :raises InputError: for something that is no pair of strings.
        """
        return self._run(work.score_pairs(pairs))

    def rerank_many(
        self,
        queries: Sequence[str],
        documents: Sequence[Sequence[str]],
        top_k: int | None = 5,
        threshold: float | None = None,
    ) -> list[list[RerankResult]]:
        """Rerank the documents of many queries in one pass.

        :param queries: the queries.
        :param documents: one list of texts per query.
        :param top_k: how many results to return for each query; 0 or None for all.
        :param threshold: keep only scores of at least this.
        :returns: one list of results per query, best first.
        :raises InputError: for a query, document or option that cannot be used, or lists of different lengths.
        """
        return self._run(work.rerank_texts(queries, documents, top_k, threshold))

    @overload
    def rerank_hits(  # type: ignore[overload-overlap]  # a str is a Sequence[str] too; here it is one query
        self,
        query: str,
        hits: Iterable[Any],
        *,
        text_field: str = ...,
        top_k: int | None = ...,
        threshold: float | None = ...,
        missing: Missing = ...,
        id_field: str | None = ...,
    ) -> list[RerankResult]: ...

    @overload
    def rerank_hits(
        self,
        query: Sequence[str],
        hits: Iterable[Any],
        *,
        text_field: str = ...,
        top_k: int | None = ...,
        threshold: float | None = ...,
        missing: Missing = ...,
        id_field: str | None = ...,
    ) -> list[list[RerankResult]]: ...

    def rerank_hits(
        self,
        query: str | Sequence[str],
        hits: Iterable[Any],
        *,
        text_field: str = "text",
        top_k: int | None = None,
        threshold: float | None = None,
        missing: Missing = "error",
        id_field: str | None = None,
    ) -> list[RerankResult] | list[list[RerankResult]]:
        """Rerank what a Milvus search returned: one query's hits, or a whole search result with a list of queries.

        :param query: one query for one list of hits (or for a search result of one query), or a list of queries for a
            search result with as many lists of hits.
        :param hits: hits of any form that pymilvus returns, or plain dicts.
        :param text_field: the field that holds the text.
        :param top_k: how many results to return for each query; None or 0 for all.
        :param threshold: keep only scores of at least this; hits without a score are then dropped.
        :param missing: what to do with a hit whose text is absent or null: ``error``, ``skip`` it, or put it ``last``
            with ``score=None``.
        :param id_field: the primary key's name in plain dicts, where they do not say it; None guesses ``id`` or ``pk``.
        :returns: results with ``id``, ``distance`` and ``entity`` of each hit, best first; ``index`` is its place.
        :raises HitError: if a hit has no text; the message names the field, the hit and the fields it has.
        :raises InputError: for a query or option that cannot be used.
        """
        answer: list[Any] = self._run(work.rerank_hits(query, hits, text_field, top_k, threshold, missing, id_field))
        return answer

    async def arerank(
        self, query: str, documents: Sequence[str], top_k: int | None = 5, threshold: float | None = None
    ) -> list[RerankResult]:
        """Like calling the object, off the event loop; a cancelled call stops before its next batch."""
        return (await self._off_loop(work.rerank_texts([query], [documents], top_k, threshold)))[0]

    async def ascore(self, query: str, documents: Sequence[str]) -> list[float]:
        """Like :meth:`score`, off the event loop; a cancelled call stops before its next batch."""
        return await self._off_loop(work.score_texts(query, documents))

    async def ascore_pairs(self, pairs: Iterable[tuple[str, str]]) -> list[float]:
        """Like :meth:`score_pairs`, off the event loop; a cancelled call stops before its next batch."""
        return await self._off_loop(work.score_pairs(pairs))

    async def arerank_many(
        self,
        queries: Sequence[str],
        documents: Sequence[Sequence[str]],
        top_k: int | None = 5,
        threshold: float | None = None,
    ) -> list[list[RerankResult]]:
        """Like :meth:`rerank_many`, off the event loop; a cancelled call stops before its next batch."""
        return await self._off_loop(work.rerank_texts(queries, documents, top_k, threshold))

    async def arerank_hits(
        self,
        query: str | Sequence[str],
        hits: Iterable[Any],
        *,
        text_field: str = "text",
        top_k: int | None = None,
        threshold: float | None = None,
        missing: Missing = "error",
        id_field: str | None = None,
    ) -> Any:
        """Like :meth:`rerank_hits`, off the event loop; a cancelled call stops before its next batch."""
        return await self._off_loop(work.rerank_hits(query, hits, text_field, top_k, threshold, missing, id_field))

    def _run(self, call: work.Work[T], stop: threading.Event | None = None) -> T:
        ask = next(call)
        filled, stop = ask.filled, stop or threading.Event()
        if not filled:
            made = []
        elif ask.numbers:
            made = [Judgement(scores) for scores in self.score_requests(filled, stop)]
        else:
            made = self.judge(filled, ask.keep, stop)
        return work.finish(call, ask.check(made))

    async def _off_loop(self, call: work.Work[T]) -> T:
        """Run a call in a thread; a subclass that can wait without one does so here."""
        stop = threading.Event()
        try:
            return await asyncio.to_thread(self._run, call, stop)
        except asyncio.CancelledError:
            stop.set()
            raise
