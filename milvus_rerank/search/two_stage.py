"""TwoStageSearch: retrieve candidates from Milvus, rerank them, keep ids and fields."""

import logging
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from functools import partial
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeAlias, TypeVar, overload

from typing_extensions import Unpack

from milvus_rerank.concurrency import here, off_loop
from milvus_rerank.errors import HitError, InputError, RerankError, StoppedError
from milvus_rerank.hits import MISSING, Missing, read_search_result
from milvus_rerank.reranker.base import BaseRerankFunction
from milvus_rerank.reranker.custom import Scorer, wrap
from milvus_rerank.result_list import RerankResults, Score
from milvus_rerank.results import RerankResult
from milvus_rerank.search.answer import SearchAnswer, Stopwatch, make_answers
from milvus_rerank.search.arguments import SearchArguments, SearchOptions, check_arguments
from milvus_rerank.search.first_stage import Dense, Embed, FirstStage, FullText, Hybrid
from milvus_rerank.search.milvus import open_source
from milvus_rerank.search.retrieve import aretrieve, find_embedders, make_request, retrieve
from milvus_rerank.steps import Pipeline, Step
from milvus_rerank.text_field import TextField, read_text_field
from milvus_rerank.validation import check_choice

if TYPE_CHECKING:
    from milvus_rerank.config import Config
    from milvus_rerank.tracing import SearchSpans

logger = logging.getLogger(__name__)
T = TypeVar("T")
Steps: TypeAlias = Pipeline | Sequence[Step | Mapping[str, Any]]
OnRerankError = Literal["raise", "first_stage"]


class TwoStageSearch(Generic[Score]):
    """Retrieve candidates from a Milvus collection, rerank them, and return results that keep ids and fields.

    :param client: a ``MilvusClient``, an ``AsyncMilvusClient`` (for :meth:`asearch`), or an ORM ``Collection``.
    :param collection: the collection's name; None for an ORM collection.
    :param reranker: any rerank function, or any object with ``score(query, texts)``.
    :param embed: embeds the queries: a function from a list of queries to one vector each.
    :param text_field: the field with the text that the reranker scores; or several, whose texts are joined by line
        breaks; or a template such as ``"{title}: {text}"``.
    :param first_stage: ``Dense(...)``, ``FullText(...)`` or ``Hybrid(...)``; None for ``Dense()``.
    :param missing: the treatment of a hit whose text is absent or null: ``error``, ``skip`` it, or put it ``last``.
    :param on_rerank_error: ``raise`` the reranker's exception, or return the order of the ``first_stage``, marked with
        ``reranked=False``.
    :param steps: steps after the reranker, in their order, or a :class:`~milvus_rerank.Pipeline`; the search requests
        the fields that they read. ``threshold`` of a call is for the reranker's score, before the steps. The order of
        the first stage after a failure has none of the steps.
    :param clock: returns seconds.
    :raises InputError: for an invalid argument.
    """

    @overload
    def __init__(
        self: "TwoStageSearch[float]",
        client: Any,
        collection: str | None = None,
        *,
        reranker: BaseRerankFunction | Scorer,
        embed: Embed | None = None,
        text_field: TextField = "text",
        first_stage: FirstStage | None = None,
        missing: Literal["error", "skip"] = "error",
        on_rerank_error: Literal["raise"] = "raise",
        steps: Steps = (),
        clock: Callable[[], float] = time.perf_counter,
    ) -> None: ...

    @overload
    def __init__(
        self: "TwoStageSearch[float | None]",
        client: Any,
        collection: str | None = None,
        *,
        reranker: BaseRerankFunction | Scorer,
        embed: Embed | None = None,
        text_field: TextField = "text",
        first_stage: FirstStage | None = None,
        missing: Missing = "error",
        on_rerank_error: OnRerankError = "raise",
        steps: Steps = (),
        clock: Callable[[], float] = time.perf_counter,
    ) -> None: ...

    def __init__(
        self,
        client: Any,
        collection: str | None = None,
        *,
        reranker: BaseRerankFunction | Scorer,
        embed: Embed | None = None,
        text_field: TextField = "text",
        first_stage: FirstStage | None = None,
        missing: Missing = "error",
        on_rerank_error: OnRerankError = "raise",
        steps: Steps = (),
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
        self.steps = steps if isinstance(steps, Pipeline) else Pipeline(steps)
        self._fields = (*read_text_field(text_field).names, *self.steps.fields)
        check_choice(missing, "missing", MISSING)
        check_choice(on_rerank_error, "on_rerank_error", ("raise", "first_stage"))
        self.source = open_source(client, collection)
        self.reranker = wrap(reranker, type(reranker).__name__)
        self.embed = embed
        self.text_field: TextField = text_field
        self.first_stage: FirstStage = first_stage or Dense()
        self.missing: Missing = missing
        self.on_rerank_error = on_rerank_error
        self._clock = clock

    @classmethod
    def from_config(
        cls, config: "str | os.PathLike[str] | Mapping[str, Any] | Config", *, client: Any = None
    ) -> "TwoStageSearch[float]":
        """Return the search that a config file describes; calls take their defaults from it, too.

        :param config: the path of a TOML file, a mapping from the names of its tables to their keys, or a
            :class:`~milvus_rerank.config.Config`.
        :param client: a ``MilvusClient``; None to open the config's. Closing it is up to you:
            ``search.source.client.close()``.
        :returns: the search.
        :raises InputError: if the config or a value is wrong; it names the file and the key.
        :raises SearchError: if Milvus does not answer.
        """
        from milvus_rerank.indexing.configured import open_configured

        return open_configured(config, client)

    @overload
    def __call__(  # type: ignore[overload-overlap]  # a str is also a Sequence[str]; here it is one query
        self, query: str, **options: Unpack[SearchOptions]
    ) -> SearchAnswer[Score]: ...

    @overload
    def __call__(self, query: Sequence[str], **options: Unpack[SearchOptions]) -> list[SearchAnswer[Score]]: ...

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
        instruction: str | None = None,
    ) -> SearchAnswer[Score] | list[SearchAnswer[Score]]:
        """Search for one query, or for many queries with one call to Milvus and one call to the reranker.

        :param query: a query, or a list of queries.
        :param top_k: the number of results per query; 0 or None for all candidates.
        :param candidates: the most hits per query that Milvus returns for reranking; at least ``top_k``.
        :param threshold: the lowest rerank score to return.
        :param filter: Milvus' boolean expression, such as ``"year > 2020"``.
        :param partitions: the partitions to search; None for all.
        :param output_fields: fields to return in addition to the text field, which is always returned; ``["*"]`` for
            all.
        :param vectors: precomputed query vectors, one per query, instead of embedding the queries.
        :param timeout: seconds to wait for Milvus; None to wait without limit.
        :param instruction: says what is relevant, for a reranker that takes instructions.
        :returns: one answer for a query, a list of answers for a list.
        :raises InputError: for an invalid argument.
        :raises HitError: if a hit has no text and ``missing`` is ``error``.
        :raises SearchError: if Milvus refuses, fails, or does not answer in time.
        """
        arguments = check_arguments(
            query, top_k, candidates, threshold, filter, partitions, output_fields, vectors, timeout, instruction
        )
        if not arguments.queries:
            return []
        with self._spans(arguments) as spans:
            clock = Stopwatch(self._clock, spans)
            embedders = find_embedders(self.first_stage, self.embed, arguments)
            embedded = [here(partial(embed, list(arguments.queries))) for embed in embedders]
            request = make_request(self.first_stage, self.embed, arguments, embedded, self._fields)
            clock.lap()
            hits = retrieve(self.source, request)
            clock.lap(hits)
            error = None
            try:
                results = self._rerank(self.reranker.rerank_search_result, arguments, hits)
            except Exception as raised:  # noqa: BLE001  a custom reranker may raise anything; on_rerank_error decides
                results, error = self._fall_back(raised, arguments, hits), raised
            answers = make_answers(arguments.queries, results, error, clock, self.steps, arguments.top_k)
        return answers[0] if isinstance(query, str) else answers

    @overload
    async def asearch(  # type: ignore[overload-overlap]  # a str is also a Sequence[str]; here it is one query
        self, query: str, **options: Unpack[SearchOptions]
    ) -> SearchAnswer[Score]: ...

    @overload
    async def asearch(self, query: Sequence[str], **options: Unpack[SearchOptions]) -> list[SearchAnswer[Score]]: ...

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
        instruction: str | None = None,
    ) -> SearchAnswer[Score] | list[SearchAnswer[Score]]:
        """Search as :meth:`__call__` does, with the same arguments and answers, without blocking the event loop.

        An asynchronous client or embedder is awaited; any other runs in a thread. Cancelling stops the reranker.
        """
        arguments = check_arguments(
            query, top_k, candidates, threshold, filter, partitions, output_fields, vectors, timeout, instruction
        )
        if not arguments.queries:
            return []
        with self._spans(arguments) as spans:
            clock = Stopwatch(self._clock, spans)
            embedders = find_embedders(self.first_stage, self.embed, arguments)
            embedded = [await off_loop(partial(embed, list(arguments.queries))) for embed in embedders]
            request = make_request(self.first_stage, self.embed, arguments, embedded, self._fields)
            clock.lap()
            hits = await aretrieve(self.source, request)
            clock.lap(hits)
            error = None
            try:
                results = await self._rerank(self.reranker.arerank_search_result, arguments, hits)
            except Exception as raised:  # noqa: BLE001  a custom reranker may raise anything; on_rerank_error decides
                results, error = self._fall_back(raised, arguments, hits), raised
            answers = make_answers(arguments.queries, results, error, clock, self.steps, arguments.top_k)
        return answers[0] if isinstance(query, str) else answers

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}({self.source.name!r}, reranker={self.reranker!r}, "
            f"first_stage={self.first_stage!r}, text_field={self.text_field!r})"
        )

    def _rerank(self, method: Callable[..., T], arguments: SearchArguments, hits: Any) -> T:
        """Return the reranked hits of all queries, or an awaitable of them if the reranker's method is asynchronous."""
        return method(
            arguments.queries,
            hits,
            text_field=self.text_field,
            top_k=None if self.steps.steps else arguments.top_k,  # a step may move any candidate to the top
            threshold=arguments.threshold,
            missing=self.missing,
            instruction=arguments.instruction,
        )

    def _fall_back(self, error: Exception, arguments: SearchArguments, hits: Any) -> list[RerankResults[Any]]:
        """Return the first stage's order if the caller asked for it after such an error; else raise the error."""
        # A wrong field name or a cancelled call is not a failure of the reranker.
        if self.on_rerank_error == "raise" or isinstance(error, (HitError, StoppedError)):
            raise error
        logger.warning("the reranker failed (%s: %s); returning the first stage's order", type(error).__name__, error)
        lists = read_search_result(hits, self.text_field, len(arguments.queries), missing=self.missing)
        return [RerankResults(hits.in_order()[: arguments.top_k]) for hits in lists]

    def _spans(self, arguments: SearchArguments) -> "AbstractContextManager[SearchSpans | None]":
        """Return the spans of a search; nothing in a process that has not imported OpenTelemetry."""
        if "opentelemetry.trace" not in sys.modules:
            return nullcontext()
        from milvus_rerank.tracing import searching

        return searching(self.source.name, arguments.queries, self._read_hits)

    def _read_hits(self, result: Any) -> list[RerankResult[None]]:
        """Return one query's hits for its span; none if the reranker, too, will not be able to read them."""
        hits: list[RerankResult[None]] = []
        with suppress(RerankError):
            hits = read_search_result(result, self.text_field, 1, missing="last")[0].in_order()
        return hits
