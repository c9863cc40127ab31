"""What a two-stage search returns."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any, overload

from milvus_rerank.results import RerankResult


@dataclass(frozen=True, slots=True)
class Timings:
    """How long each stage took, in seconds; for a list of queries, the stage's time for all of them together.

    :param embed: making the query vectors; about 0 where there are none to make.
    :param search: the first stage, the way to Milvus and back included.
    :param rerank: reading, scoring and ordering the candidates, or trying to.
    """

    embed: float
    search: float
    rerank: float

    @property
    def total(self) -> float:
        """The sum of the three."""
        return self.embed + self.search + self.rerank


@dataclass(frozen=True, slots=True)
class SearchAnswer(Sequence[RerankResult]):
    """The results of one query, best first; a sequence of them with what happened beside.

    :param query: the query.
    :param results: the results, best first.
    :param reranked: False if the reranker failed and this is the first stage's order, with ``score=None``.
    :param error: why the reranker failed; None if it did not.
    :param timings: seconds by stage.
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
        """Return the answer as JSON-safe Python values.

        :returns: ``query, results, reranked, error`` (its type and message, or None) and ``timings``.
        """
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
        """End a stage."""
        self._laps.append(self._clock())

    def timings(self) -> Timings:
        """End the last stage, and return the seconds of each."""
        self.lap()
        embed, search, rerank = (end - start for start, end in pairwise(self._laps))
        return Timings(embed, search, rerank)
