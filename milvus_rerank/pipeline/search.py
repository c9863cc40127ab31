"""TwoStageSearch: retrieve candidates from Milvus, rerank them, keep ids and fields."""

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Literal, overload

from milvus_rerank.driving import run_here
from milvus_rerank.errors import HitError, InputError, RerankError, StoppedError
from milvus_rerank.hits import Candidates, Missing, check_missing, read_search_result
from milvus_rerank.inputs import check_choice
from milvus_rerank.pipeline.answer import SearchAnswer, Timings
from milvus_rerank.pipeline.ask import Ask, check_ask
from milvus_rerank.pipeline.milvus import FirstStage, explain, is_refusal, milvus_errors, open_source
from milvus_rerank.pipeline.runs import Run, bounded, here, off_loop
from milvus_rerank.pipeline.stages import Dense, Embed, FullText, Hybrid, Stage, check_vectors, searches_of
from milvus_rerank.reranker.base import BaseRerankFunction
from milvus_rerank.reranker.plugin import Scorer, wrap
from milvus_rerank.results import RerankResult

logger = logging.getLogger(__name__)


class TwoStageSearch:
    """Retrieve candidates from a Milvus collection, rerank them, and return results that keep ids and fields.

    :param client: a ``MilvusClient``, an ``AsyncMilvusClient`` (for :meth:`asearch`), or an ORM ``Collection``.
    :param collection: the collection's name; None for an ORM collection.
    :param reranker: any rerank function, or any object with ``score(query, texts)``.
    :param embed: makes query vectors: a function from a list of queries to one vector each.
    :param text_field: the field with the text to rerank by.
    :param first_stage: ``Dense(...)``, ``FullText(...)`` or ``Hybrid(...)``; None for ``Dense()``.
    :param missing: what to do with a hit whose text is absent or null: ``error``, ``skip`` it, or put it ``last``.
    :param on_rerank_error: ``raise`` what the reranker raises, or return the ``first_stage``'s order, marked as such.
    :param clock: returns seconds.
    :raises InputError: for an argument that cannot be used.
    """

    def __init__(
        self,
        client: Any,
        collection: str | None = None,
        *,
        reranker: BaseRerankFunction | Scorer,
        embed: Embed | None = None,
        text_field: str = "text",
        first_stage: Stage | None = None,
        missing: Missing = "error",
        on_rerank_error: Literal["raise", "first_stage"] = "raise",
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        if not callable(getattr(reranker, "score", None)) or isinstance(reranker, type):
            raise InputError(
                f"reranker must be a rerank function such as CrossEncoderRerankFunction(), or have a method "
                f"score(query, texts), got {type(reranker).__name__}"
            )
        if embed is not None and not callable(embed):
            raise InputError(
                f"embed must be a function from queries to vectors, such as embedder.encode_queries, "
                f"got {type(embed).__name__}"
            )
        if first_stage is not None and not isinstance(first_stage, (Dense, FullText, Hybrid)):
            raise InputError(f"first_stage must be Dense(...), FullText(...) or Hybrid(...), got {first_stage!r}")
        if not isinstance(text_field, str) or not text_field:
            raise InputError(f"text_field must be the name of a field, got {text_field!r}")
        check_missing(missing)
        check_choice(on_rerank_error, "on_rerank_error", ("raise", "first_stage"))
        self.source = open_source(client, collection)
        self.reranker = wrap(reranker, type(reranker).__name__)
        self.embed = embed
        self.text_field = text_field
        self.first_stage: Stage = first_stage or Dense()
        self.missing: Missing = missing
        self.on_rerank_error = on_rerank_error
        self._clock = clock

    @overload
    def __call__(  # type: ignore[overload-overlap]  # a str is a Sequence[str] too; here it is one query
        self,
        query: str,
        *,
        top_k: int | None = ...,
        candidates: int = ...,
        threshold: float | None = ...,
        filter: str = ...,
        partitions: Sequence[str] | None = ...,
        output_fields: Sequence[str] | None = ...,
        vectors: Any = ...,
        timeout: float | None = ...,
    ) -> SearchAnswer: ...

    @overload
    def __call__(
        self,
        query: Sequence[str],
        *,
        top_k: int | None = ...,
        candidates: int = ...,
        threshold: float | None = ...,
        filter: str = ...,
        partitions: Sequence[str] | None = ...,
        output_fields: Sequence[str] | None = ...,
        vectors: Any = ...,
        timeout: float | None = ...,
    ) -> list[SearchAnswer]: ...

    def __call__(
        self,
        query: str | Sequence[str],
        *,
        top_k: int | None = 10,
        candidates: int = 100,
        threshold: float | None = None,
        filter: str = "",
        partitions: Sequence[str] | None = None,
        output_fields: Sequence[str] | None = None,
        vectors: Any = None,
        timeout: float | None = 30.0,
    ) -> SearchAnswer | list[SearchAnswer]:
        """Search for one query, or for many in one call to Milvus and one pass of the reranker.

        :param query: a query, or a list of queries.
        :param top_k: how many results to return per query; 0 or None for all candidates.
        :param candidates: how many hits Milvus may return per query for the reranker to order; at least ``top_k``.
        :param threshold: the least rerank score to return.
        :param filter: Milvus' boolean expression, such as ``"year > 2020"``.
        :param partitions: the partitions to search; None for all.
        :param output_fields: fields to return beside the text field, which is always there; ``["*"]`` for all.
        :param vectors: ready query vectors, one per query, instead of embedding the queries.
        :param timeout: seconds that Milvus may take; None for as long as it takes.
        :returns: one answer for a query, a list of answers for a list.
        :raises InputError: for an argument that cannot be used.
        :raises HitError: if a hit has no text, unless ``missing`` says what to do with it.
        :raises SearchError: if Milvus refuses, fails, or does not answer in time.
        """
        ask = check_ask(query, top_k, candidates, threshold, filter, partitions, output_fields, vectors, timeout)
        answers = run_here(self._search(ask, here, self.reranker.rerank_hits))
        return answers[0] if isinstance(query, str) else answers

    async def asearch(
        self,
        query: str | Sequence[str],
        *,
        top_k: int | None = 10,
        candidates: int = 100,
        threshold: float | None = None,
        filter: str = "",
        partitions: Sequence[str] | None = None,
        output_fields: Sequence[str] | None = None,
        vectors: Any = None,
        timeout: float | None = 30.0,
    ) -> Any:
        """Like calling the object, with the same arguments and answers, but never blocking the event loop.

        An asynchronous client or embedder is awaited, any other runs in a thread; cancelling stops the reranker.
        """
        ask = check_ask(query, top_k, candidates, threshold, filter, partitions, output_fields, vectors, timeout)
        answers = await self._search(ask, off_loop, self.reranker.arerank_hits)
        return answers[0] if isinstance(query, str) else answers

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}({self.source.name!r}, reranker={self.reranker!r}, "
            f"first_stage={self.first_stage!r}, text_field={self.text_field!r})"
        )

    async def _search(self, ask: Ask, run: Run, rerank: Callable[..., Any]) -> list[SearchAnswer]:
        if not ask.queries:
            return []
        started = self._clock()
        data = await self._query_data(ask, run)
        embedded = self._clock()
        hits = await self._retrieve(ask, data, run)
        searched = self._clock()
        ranked, error = await self._rerank(ask, hits, run, rerank)
        timings = Timings(embedded - started, searched - embedded, self._clock() - searched)
        return [
            SearchAnswer(query, tuple(results), error is None, error, timings)
            for query, results in zip(ask.queries, ranked, strict=True)
        ]

    async def _query_data(self, ask: Ask, run: Run) -> tuple[list[Any], ...]:
        made: dict[int, list[Any]] = {}  # searches with the same embedder share its vectors
        data: list[list[Any]] = []
        for search in searches_of(self.first_stage):
            if isinstance(search, FullText):
                data.append(ask.queries)
            elif search.embed is None and ask.vectors is not None:
                data.append(ask.vectors)
            else:
                embed = search.embed or self.embed
                if embed is None:
                    raise InputError(
                        "vector search needs query vectors: pass an embedder, TwoStageSearch(..., embed=...), or ready "
                        "ones, search(query, vectors=[vector]); for BM25, first_stage=FullText(field)"
                    )
                if id(embed) not in made:
                    vectors = await run(partial(embed, list(ask.queries)))
                    made[id(embed)] = check_vectors(vectors, len(ask.queries), "the embedder's vectors")
                data.append(made[id(embed)])
        return tuple(data)

    async def _retrieve(self, ask: Ask, data: tuple[list[Any], ...], run: Run) -> Any:
        request = FirstStage(
            stage=self.first_stage,
            data=data,
            limit=ask.candidates,
            output_fields=list(dict.fromkeys([self.text_field, *ask.output_fields])),
            filter=ask.filter,
            partitions=ask.partitions,
            timeout=ask.timeout,
        )
        try:
            return await run(bounded(self.source.search(request), ask.timeout))
        except RerankError:
            raise
        except milvus_errors() as error:
            schema = await self._schema(ask, run) if is_refusal(error) else None
            raise explain(error, self.source, request, schema) from error

    async def _schema(self, ask: Ask, run: Run) -> Mapping[str, Any] | None:
        seconds = min(1.0, ask.timeout or 1.0)  # Milvus did answer, and this only makes the error clearer
        try:
            schema: Mapping[str, Any] = await run(bounded(self.source.describe(seconds), seconds))
        except milvus_errors():
            return None  # the first error is the one to tell
        return schema

    async def _rerank(
        self, ask: Ask, hits: Any, run: Run, rerank: Callable[..., Any]
    ) -> tuple[list[list[RerankResult]], Exception | None]:
        work = partial(
            rerank,
            ask.queries,
            hits,
            text_field=self.text_field,
            top_k=ask.top_k,
            threshold=ask.threshold,
            missing=self.missing,
        )
        try:
            ranked: list[list[RerankResult]] = await run(work)
        except (HitError, StoppedError):
            raise  # the fields were named wrongly, or the caller no longer waits: no failure of the reranker
        except Exception as error:  # a plugin may raise anything, and the caller asked to survive it
            if self.on_rerank_error == "raise":
                raise
            logger.warning(
                "the reranker failed (%s: %s); returning the first stage's order", type(error).__name__, error
            )
            lists = read_search_result(hits, self.text_field, len(ask.queries), missing=self.missing)
            return [_first_stage_order(own)[: ask.top_k] for own in lists], error
        return ranked, None


def _first_stage_order(candidates: Candidates) -> list[RerankResult]:
    hits = sorted((*candidates.scored, *candidates.unscored), key=lambda hit: hit.index)
    return [hit.result for hit in hits]
