"""Measured systems: first stages, and first stages with a reranker."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from statistics import fmean

from milvus_rerank.errors import InputError
from milvus_rerank.evaluation.significance import Interval, interval
from milvus_rerank.search import Timings


@dataclass(frozen=True, slots=True)
class Ranking:
    """The ranking of a query.

    :param ids: document ids, best first.
    :param scores: the reranker's scores, or the first stage's distances.
    """

    ids: tuple[str, ...]
    scores: tuple[float, ...]


@dataclass(frozen=True)
class System:
    """A first stage, or a first stage with a reranker, over all queries.

    :param name: its name in the report.
    :param first_stage: the name of the first stage.
    :param reranker: the name of the reranker; None for the first stage alone.
    :param rankings: the ranking of each query.
    :param timings: the seconds of each query, by stage; those of a first stage alone have 0 for ``rerank``.
    :param pairs: the pairs that the reranker scored.
    :param tokens: the tokens that its model read; None if unknown.
    :param measures: for each metric the value of each judged query.
    :param cost: the money for 1,000 queries, in the currency of the given prices; None without a price.
    """

    name: str
    first_stage: str
    reranker: str | None
    rankings: Mapping[str, Ranking]
    timings: Mapping[str, Timings]
    pairs: int = 0
    tokens: int | None = None
    measures: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    cost: float | None = None

    def mean(self, metric: str) -> float:
        """Return the mean of a metric, such as ``nDCG@10``, over the judged queries with a relevant document."""
        if metric not in self.measures:
            raise InputError(f"{metric!r} was not measured; there are: {', '.join(self.measures) or 'none'}")
        return fmean(self.measures[metric].values())

    @property
    def ndcg10(self) -> float:
        """Mean nDCG@10."""
        return self.mean("nDCG@10")

    def interval(self, metric: str) -> Interval | None:
        """Return the 95% bootstrap interval of the mean of a metric."""
        return interval(list(self.measures[metric].values()))

    def seconds(self, percent: float, stage: str = "total") -> float:
        """Return a percentile of a query's seconds in ``embed``, ``search``, ``rerank`` or ``total``."""
        import numpy

        values = [float(getattr(timings, stage)) for timings in self.timings.values()]
        return float(numpy.percentile(values, percent)) if values else 0.0

    @property
    def pairs_per_second(self) -> float | None:
        """Pairs scored in a second of reranking; None for a first stage alone."""
        total = sum(timings.rerank for timings in self.timings.values())
        return self.pairs / total if self.reranker is not None and total else None


def duration(seconds: float) -> str:
    """Return a duration in a readable form, such as ``4.8 ms``, ``271 ms`` or ``1.3 s``."""
    if seconds >= 1:
        return f"{seconds:.1f} s"
    return f"{seconds * 1000:.1f} ms" if seconds < 0.1 else f"{seconds * 1000:.0f} ms"
