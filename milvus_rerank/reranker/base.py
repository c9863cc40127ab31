"""BaseRerankFunction: everything a reranker offers, on top of one method that scores."""

import asyncio
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any, TypeVar, overload

from milvus_rerank.errors import InputError, ScoreError
from milvus_rerank.hits import Missing, read_hits, read_search_result, results
from milvus_rerank.inputs import check_documents, check_list, check_query, check_threshold, check_top_k
from milvus_rerank.results import RerankResult, check_scores, rank
from milvus_rerank.scoring import Request

T = TypeVar("T")
Name = Callable[[int, int], str]  # from a query's and a document's position to what to call the document


class BaseRerankFunction(ABC):
    """Rerank texts and Milvus hits. A subclass writes :meth:`score_requests`, a plugin any ``score(query, texts)``."""

    @abstractmethod
    def score_requests(self, requests: Sequence[Request], stop: threading.Event) -> list[list[float]]:
        """Score the documents of several queries in one pass.

        :param requests: checked queries, each with its documents; either may be empty.
        :param stop: set when the caller no longer waits; look at it between batches and raise ``StoppedError``.
        :returns: one list per request, one score per document, in input order, larger is better.
        """

    def score_best(self, requests: Sequence[Request], keep: int | None, stop: threading.Event) -> list[list[float]]:
        """Score as far as the best ``keep`` documents of each query need it; here all of them.

        A subclass that can tell which documents are out of reach may give those a rough score, as long as it is lower.

        :param requests: checked queries, each with its documents, none empty.
        :param keep: how many documents of each query are wanted; None for all.
        :param stop: as for :meth:`score_requests`.
        :returns: as :meth:`score_requests`.
        """
        return self.score_requests(requests, stop)

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
        return self._rerank_many([query], [documents], top_k, threshold)[0]

    def score(self, query: str, documents: Sequence[str]) -> list[float]:
        """Score documents for one query.

        :param query: the query.
        :param documents: the texts to score.
        :returns: one score per document, in input order.
        :raises InputError: for a query or document that cannot be used.
        """
        return self._score_documents([query], [documents])[0][1]

    def score_pairs(self, pairs: Iterable[tuple[str, str]]) -> list[float]:
        """Score pairs of query and document.

        :param pairs: tuples ``(query, document)``; queries may repeat and mix.
        :returns: one score per pair, in input order.
        :raises InputError: for something that is no pair of strings.
        """
        return self._score_pairs(pairs)

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
        return self._rerank_many(queries, documents, top_k, threshold)

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
        answer: list[Any] = self._rerank_hits(query, hits, text_field, top_k, threshold, missing, id_field)
        return answer

    async def arerank(
        self, query: str, documents: Sequence[str], top_k: int | None = 5, threshold: float | None = None
    ) -> list[RerankResult]:
        """Like calling the object, off the event loop; a cancelled call stops before its next batch."""
        return (await self._off_loop(partial(self._rerank_many, [query], [documents], top_k, threshold)))[0]

    async def ascore(self, query: str, documents: Sequence[str]) -> list[float]:
        """Like :meth:`score`, off the event loop; a cancelled call stops before its next batch."""
        return (await self._off_loop(partial(self._score_documents, [query], [documents])))[0][1]

    async def ascore_pairs(self, pairs: Iterable[tuple[str, str]]) -> list[float]:
        """Like :meth:`score_pairs`, off the event loop; a cancelled call stops before its next batch."""
        return await self._off_loop(partial(self._score_pairs, pairs))

    async def arerank_many(
        self,
        queries: Sequence[str],
        documents: Sequence[Sequence[str]],
        top_k: int | None = 5,
        threshold: float | None = None,
    ) -> list[list[RerankResult]]:
        """Like :meth:`rerank_many`, off the event loop; a cancelled call stops before its next batch."""
        return await self._off_loop(partial(self._rerank_many, queries, documents, top_k, threshold))

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
        return await self._off_loop(
            partial(self._rerank_hits, query, hits, text_field, top_k, threshold, missing, id_field)
        )

    def _score(
        self, requests: Sequence[Request], name: Name, stop: threading.Event | None = None, keep: int | None = None
    ) -> list[list[float]]:
        filled = [place for place, (_, texts) in enumerate(requests) if texts]
        some = [requests[place] for place in filled]
        made = self.score_best(some, keep, stop or threading.Event()) if filled else []
        if len(made) != len(filled):
            raise ScoreError(f"the reranker returned scores for {len(made)} queries, expected {len(filled)}")
        scores: list[list[float]] = [[] for _ in requests]
        for place, own in zip(filled, made, strict=True):
            scores[place] = check_scores(own, len(requests[place][1]), partial(name, place))
        return scores

    def _score_documents(
        self,
        queries: Sequence[str],
        documents: Sequence[Sequence[str]],
        stop: threading.Event | None = None,
        keep: int | None = None,
    ) -> list[tuple[Sequence[str], list[float]]]:
        requests = _requests(queries, documents)

        def name(query: int, document: int) -> str:
            return f"document {document}" + (f" of query {query}" if len(requests) > 1 else "")

        scores = self._score(requests, name, stop, keep)
        return [(texts, own) for (_, texts), own in zip(requests, scores, strict=True)]

    def _score_pairs(self, pairs: Iterable[tuple[str, str]], stop: threading.Event | None = None) -> list[float]:
        places: dict[str, list[int]] = {}
        texts: list[str] = []
        for index, pair in enumerate(check_list(pairs, "pairs", "(query, document) pairs")):
            if not isinstance(pair, (tuple, list)) or len(pair) != 2:
                raise InputError(f"pairs[{index}] must be a (query, document) pair of strings, got {pair!r}")
            query, text = check_documents(pair, f"pairs[{index}]")
            places.setdefault(query, []).append(index)
            texts.append(text)
        wheres = list(places.values())
        requests = [(query, [texts[index] for index in where]) for query, where in places.items()]
        scores = [0.0] * len(texts)
        grouped = self._score(requests, lambda query, document: f"pairs[{wheres[query][document]}]", stop)
        for where, some in zip(wheres, grouped, strict=True):
            for index, score in zip(where, some, strict=True):
                scores[index] = score
        return scores

    def _rerank_many(
        self,
        queries: Sequence[str],
        documents: Sequence[Sequence[str]],
        top_k: int | None,
        threshold: float | None,
        stop: threading.Event | None = None,
    ) -> list[list[RerankResult]]:
        keep, least = check_top_k(top_k), check_threshold(threshold)
        return [
            [RerankResult(texts[index], scores[index], index) for index in rank(scores, keep, least)]
            for texts, scores in self._score_documents(queries, documents, stop, keep)
        ]

    def _rerank_hits(
        self,
        query: str | Sequence[str],
        hits: Iterable[Any],
        text_field: str,
        top_k: int | None,
        threshold: float | None,
        missing: Missing,
        id_field: str | None,
        stop: threading.Event | None = None,
    ) -> Any:
        keep, least = check_top_k(top_k), check_threshold(threshold)
        single = isinstance(query, str) or query is None
        if single:
            queries = [check_query(query)]
            lists = [read_hits(hits, text_field, missing=missing, id_field=id_field)]
        else:
            queries = check_documents(query, "query")
            lists = read_search_result(hits, text_field, len(queries), missing=missing, id_field=id_field)

        def name(place: int, scored: int) -> str:
            hit = lists[place].scored[scored]
            return f"hit {hit.index} (id {hit.id!r})" + ("" if single else f" of query {place}")

        requests = [(one, check_documents(own.texts, text_field)) for one, own in zip(queries, lists, strict=True)]
        answers = [
            [
                found
                for found in results(candidates, own, rank(own, None, least))
                if least is None or found.score is not None
            ][:keep]
            for candidates, own in zip(lists, self._score(requests, name, stop, keep), strict=True)
        ]
        return answers[0] if single else answers

    async def _off_loop(self, work: Callable[..., T]) -> T:
        stop = threading.Event()
        try:
            return await asyncio.to_thread(work, stop=stop)
        except asyncio.CancelledError:
            stop.set()
            raise


def _requests(queries: Sequence[str], documents: Sequence[Sequence[str]]) -> list[Request]:
    checked = [check_query(query) for query in check_list(queries, "queries", "strings")]
    lists = check_list(documents, "documents", "lists of strings")
    if len(checked) != len(lists):
        raise InputError(f"got {len(checked)} queries, but documents for {len(lists)}; expected one list per query")
    names = ["documents"] if len(lists) == 1 else [f"documents[{index}]" for index in range(len(lists))]
    return [(query, check_documents(some, name)) for query, some, name in zip(checked, lists, names, strict=True)]
