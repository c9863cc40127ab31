"""The answer of a two-stage search, and its timings."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any, overload

from milvus_rerank.results import RerankResult


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
class SearchAnswer(Sequence[RerankResult]):
    """Results of one query: a sequence of results, best first, with the timings and any error of the reranker.

    :param query: the query.
    :param results: the results, best first.
    :param reranked: False if the reranker failed; the results are then in the first stage's order with ``score=None``.
    :param error: the reranker's exception; None if it did not fail.
    :param timings: seconds per stage.
    """

    query: str
    results: tuple[RerankResult, ...]
    reranked: bool
    error: Exception | None
    timings: Timings

    @overload
    def __getitem__(self, index: int) -> RerankResult: ...

    @overload
    def __getitem__(self, index: slice) -> tuple[RerankResult, ...]: ...

    def __getitem__(self, index: int | slice) -> RerankResult | tuple[RerankResult, ...]:
        return self.results[index]

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


class Stopwatch:
    """Time the stages of a search.

    :param clock: returns seconds.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._laps = [clock()]

    def lap(self) -> None:
        """End the current stage."""
        self._laps.append(self._clock())

    def timings(self) -> Timings:
        """End the last stage, and return the seconds of each stage."""
        self.lap()
        return Timings(*(end - start for start, end in pairwise(self._laps)))
