"""The answer of a two-stage search, and its timings."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Generic, overload

from milvus_rerank.notebook import answer_html
from milvus_rerank.result_list import Distance, RerankResults, make_hits
from milvus_rerank.results import RerankResult, Score_co
from milvus_rerank.steps import Pipeline

if TYPE_CHECKING:
    from pandas import DataFrame
    from pymilvus import Hits

    from milvus_rerank.tracing import SearchSpans


@dataclass(frozen=True, slots=True)
class Timings:
    """Duration of each stage in seconds; for a list of queries, the duration for all of them together.

    :param embed: embedding the queries; about 0 if no query needs embedding.
    :param search: the first stage, including the round trip to Milvus.
    :param rerank: reading, scoring and ordering the candidates, or the failed attempt.
    """

    embed: float
    search: float
    rerank: float

    @property
    def total(self) -> float:
        """Sum of the three durations."""
        return self.embed + self.search + self.rerank


@dataclass(frozen=True, slots=True)
class SearchAnswer(Sequence[RerankResult[Score_co]], Generic[Score_co]):
    """Results of one query: a sequence of results, best first, with the timings and any error of the reranker.

    Notebooks show it as a table. To a type checker, scores may be None if the search can return hits without a score:
    with ``missing="last"`` or ``on_rerank_error="first_stage"``.

    :param query: the query.
    :param results: the results, best first.
    :param reranked: False if the reranker failed; the results are then in the first stage's order with ``score=None``.
    :param error: the reranker's exception; None if it did not fail.
    :param timings: seconds per stage.
    """

    query: str
    results: tuple[RerankResult[Score_co], ...]
    reranked: bool
    error: Exception | None
    timings: Timings

    @overload
    def __getitem__(self, index: int) -> RerankResult[Score_co]: ...

    @overload
    def __getitem__(self, index: slice) -> RerankResults[Score_co]: ...

    def __getitem__(self, index: int | slice) -> RerankResult[Score_co] | RerankResults[Score_co]:
        return RerankResults(self.results[index]) if isinstance(index, slice) else self.results[index]

    def __len__(self) -> int:
        return len(self.results)

    def to_dict(self) -> dict[str, Any]:
        """Return the answer as JSON-safe Python values; ``error`` becomes its type and message."""
        return {
            "query": self.query,
            "results": [result.to_dict() for result in self.results],
            "reranked": self.reranked,
            "error": None if self.error is None else f"{type(self.error).__name__}: {self.error}",
            "timings": asdict(self.timings),
        }

    def to_pandas(self) -> "DataFrame":
        """Return the results as a data frame, as :meth:`RerankResults.to_pandas` does."""
        return RerankResults(self.results).to_pandas()

    def to_hits(self, distance: Distance | None = None) -> "Hits":
        """Return the results as the hits that ``client.search`` returns for one query, in the new order.

        :param distance: the ``distance`` of each hit, as in :meth:`RerankResults.to_hits`; None for the rerank
            ``score``, or for that of the ``first_stage`` if the reranker failed: its hits then are as Milvus gave them.
        :returns: pymilvus' list of its hits, with ``ids`` and ``distances``.
        """
        return make_hits(self.results, distance or ("score" if self.reranked else "first_stage"))

    def _repr_html_(self) -> str:
        return answer_html(self.query, self.results, asdict(self.timings), self.error)


class Stopwatch:
    """Time the stages of a search.

    :param clock: returns seconds.
    :param spans: spans of the stages; None without OpenTelemetry.
    """

    def __init__(self, clock: Callable[[], float], spans: "SearchSpans | None" = None) -> None:
        self._clock = clock
        self._spans = spans
        self._laps = [clock()]

    def lap(self, hits: Any = None) -> None:
        """End the current stage: embedding, or the search with its hits."""
        self._laps.append(self._clock())
        if self._spans is not None:
            self._spans.lap(hits)

    def timings(self, error: Exception | None = None) -> Timings:
        """End the last stage, with the reranker's error if it failed, and return the seconds of each stage."""
        self._laps.append(self._clock())
        timings = Timings(*(end - start for start, end in pairwise(self._laps)))
        if self._spans is not None:
            self._spans.finish(asdict(timings), error)
        return timings


def make_answers(
    queries: Sequence[str],
    results: Sequence[RerankResults[Any]],
    error: Exception | None,
    clock: Stopwatch,
    steps: Pipeline,
    top_k: int | None,
) -> list[SearchAnswer[Any]]:
    """Run the steps, and return the answers.

    :param queries: the queries.
    :param results: the results of each.
    :param error: the reranker's exception; results are then in the first stage's order, without scores for the steps.
    :param clock: the times of the search; the steps are part of its last stage.
    :param steps: the steps after the reranker.
    :param top_k: the most results of each query; None for all.
    :returns: one answer for each query.
    """
    if error is None and steps.steps:
        results = [steps(ranked, top_k) for ranked in results]
    timings = clock.timings(error)
    return [
        SearchAnswer(query, tuple(ranked), error is None, error, timings)
        for query, ranked in zip(queries, results, strict=True)
    ]
