"""EvaluationReport: the measured systems of an evaluation, and their comparisons."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from html import escape
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from milvus_rerank.errors import InputError, write_errors
from milvus_rerank.evaluation.agreement import overlap, rank_biased_overlap
from milvus_rerank.evaluation.judged import Judgments
from milvus_rerank.evaluation.significance import Interval, adjust, interval, paired_test
from milvus_rerank.results import json_safe
from milvus_rerank.search import Timings

if TYPE_CHECKING:
    from pandas import DataFrame

FEW_QUERIES = 25
"""Judged queries below which a report says that they are too few."""


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


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two systems on the same judged queries.

    :param system: the name of a system.
    :param baseline: the name of the system that it is compared with.
    :param gain: the mean difference of nDCG, system minus baseline.
    :param interval: its 95% bootstrap interval.
    :param p_value: the p-value of the paired randomisation test, adjusted for all comparisons of the report.
    :param wins: queries with a higher nDCG.
    :param ties: queries with the same nDCG.
    :param losses: queries with a lower nDCG.
    """

    system: str
    baseline: str
    gain: float
    interval: Interval | None
    p_value: float
    wins: int
    ties: int
    losses: int


@dataclass(frozen=True, slots=True)
class Agreement:
    """Two systems' rankings without judgments, as means over all queries.

    :param system: the name of a system.
    :param other: the name of another system.
    :param overlap: the share of the top ``k`` documents that both have.
    :param rbo: the extrapolated rank-biased overlap with p = 0.9.
    :param same_first: the share of queries with the same first document.
    """

    system: str
    other: str
    overlap: float
    rbo: float
    same_first: float


@dataclass(frozen=True)
class EvaluationReport:
    """Systems on the same queries.

    :param name: the name of the queries.
    :param k: the number of ranks that count.
    :param candidates: the most hits of a first stage.
    :param queries: the texts of all queries.
    :param judgments: the judgments of the judged queries that have a relevant document.
    :param systems: the first stages, each followed by its rerankers.
    :param ceilings: by first stage the mean nDCG of the best order of its candidates; empty without judgments.
    :param texts: the beginning of the text of each document that a system has among its top ``k``.
    :param notes: sentences about what to know before trusting the figures.
    :param details: settings and versions.
    """

    name: str
    k: int
    candidates: int
    queries: Mapping[str, str]
    judgments: Judgments
    systems: tuple[System, ...]
    ceilings: Mapping[str, float] = field(default_factory=dict)
    texts: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    details: Mapping[str, Any] = field(default_factory=dict)

    @property
    def metric(self) -> str:
        """The main metric, such as ``nDCG@10``."""
        return f"nDCG@{self.k}"

    def __getitem__(self, name: str) -> System:
        for system in self.systems:
            if system.name == name:
                return system
        raise KeyError(f"no system is named {name!r}; there are: {', '.join(system.name for system in self.systems)}")

    @cached_property
    def comparisons(self) -> tuple[Comparison, ...]:
        """Each system with each earlier system, if there are judgments; a reranker's first stage comes first."""
        if not self.judgments:
            return ()
        pairs = [(later, earlier) for index, later in enumerate(self.systems) for earlier in self.systems[:index]]
        pairs.sort(key=lambda pair: not self._is_gain(*pair))
        differences = [_differences(later, earlier, self.metric) for later, earlier in pairs]
        p_values = adjust([paired_test(values) for values in differences])
        return tuple(
            Comparison(
                later.name,
                earlier.name,
                fmean(values),
                interval(values),
                p_value,
                sum(value > 0 for value in values),
                sum(value == 0 for value in values),
                sum(value < 0 for value in values),
            )
            for (later, earlier), values, p_value in zip(pairs, differences, p_values, strict=True)
        )

    def gain(self, name: str) -> Comparison | None:
        """Return the comparison of a reranked system with its first stage; None for a first stage."""
        system = self[name]
        return next(
            (item for item in self.comparisons if item.system == name and self._is_gain(system, self[item.baseline])),
            None,
        )

    @staticmethod
    def _is_gain(system: System, baseline: System) -> bool:
        return baseline.reranker is None and system.first_stage == baseline.first_stage and system != baseline

    @cached_property
    def agreements(self) -> tuple[Agreement, ...]:
        """Each system with each earlier system."""
        return tuple(
            self._agreement(later, earlier)
            for index, later in enumerate(self.systems)
            for earlier in self.systems[:index]
        )

    def _agreement(self, system: System, other: System) -> Agreement:
        pairs = [(system.rankings[name].ids, other.rankings[name].ids) for name in self.queries]
        return Agreement(
            system.name,
            other.name,
            fmean(overlap(*pair, self.k) for pair in pairs),
            fmean(rank_biased_overlap(*pair) for pair in pairs),
            fmean(float(first[:1] == second[:1]) for first, second in pairs),
        )

    def best(self) -> System:
        """Return the system with the highest mean nDCG; without judgments, the last one."""
        if not self.judgments:
            return self.systems[-1]
        return max(self.systems, key=lambda system: system.mean(self.metric))

    def moved(self, system: System, baseline: System, count: int = 10) -> list[str]:
        """Return the ids of the queries that differ most: by nDCG, without judgments by the top documents.

        :param system: a system.
        :param baseline: the system that it is compared with.
        :param count: the most queries.
        :returns: ids; those with the greatest difference come first.
        """
        metric = self.metric

        def distance(name: str) -> float:
            if self.judgments:
                return abs(system.measures[metric][name] - baseline.measures[metric][name])
            return 1 - rank_biased_overlap(system.rankings[name].ids, baseline.rankings[name].ids)

        moved = [(distance(name), name) for name in (self.judgments or self.queries)]
        return [name for far, name in sorted(moved, key=lambda item: -item[0])[:count] if far > 0]

    def to_dict(self) -> dict[str, Any]:
        """Return the report as JSON-safe Python values."""
        return {
            "name": self.name,
            "metric": self.metric,
            "candidates": self.candidates,
            "queries": len(self.queries),
            "judged": len(self.judgments),
            "systems": [self._system(system) for system in self.systems],
            "comparisons": [json_safe(_fields(item)) for item in self.comparisons],
            "agreements": [json_safe(_fields(item)) for item in self.agreements],
            "notes": list(self.notes),
            "details": json_safe(self.details),
        }

    def _system(self, system: System) -> dict[str, Any]:
        return {
            "name": system.name,
            "first_stage": system.first_stage,
            "reranker": system.reranker,
            "means": {metric: system.mean(metric) for metric in system.measures},
            "interval": json_safe(system.interval(self.metric)) if system.measures else None,
            "ceiling": self.ceilings.get(system.first_stage),
            "seconds": {
                stage: {f"p{percent}": system.seconds(percent, stage) for percent in (50, 95)}
                for stage in ("embed", "search", "rerank", "total")
            },
            "pairs": system.pairs,
            "pairs_per_second": system.pairs_per_second,
            "tokens": system.tokens,
            "cost_per_1000_queries": system.cost,
            "per_query": {metric: dict(values) for metric, values in system.measures.items()},
        }

    def to_pandas(self) -> "DataFrame":
        """Return a data frame with a row for each system."""
        import pandas

        rows = []
        for system in self.systems:
            gain = self.gain(system.name)
            rows.append(
                {
                    "system": system.name,
                    **{metric: system.mean(metric) for metric in system.measures},
                    "gain": gain and gain.gain,
                    "p": gain and gain.p_value,
                    "p50": system.seconds(50),
                    "p95": system.seconds(95),
                    "pairs/s": system.pairs_per_second,
                    "cost": system.cost,
                }
            )
        return pandas.DataFrame(rows).set_index("system")

    def _repr_html_(self) -> str:
        frame = self.to_pandas().dropna(axis="columns", how="all")
        notes = "".join(f"<p>{escape(note)}</p>" for note in self.notes)
        return f"<p>{escape(self.summary())}</p>{frame.to_html(float_format='%.4f', border=0)}{notes}"

    def summary(self) -> str:
        """Return the result in a sentence."""
        best = self.best()
        if not self.judgments:
            return f"{len(self.queries)} queries without judgments: the rankings can be compared, not graded."
        gain = self.gain(best.name)
        value = f"{best.name} is best: {self.metric} {best.mean(self.metric):.3f}"
        if gain is None:
            return f"{value}. No reranker improves on it." if len(self.systems) > 1 else f"{value}."
        low, high = gain.interval or (gain.gain, gain.gain)
        return (
            f"{value}, {gain.gain:+.3f} over {gain.baseline} (95% interval {low:+.3f} to {high:+.3f}, "
            f"p = {gain.p_value:.2g}), with {best.seconds(95) * 1000:.0f} ms for 95% of the queries."
        )

    def write_runs(self, folder: Path) -> list[Path]:
        """Write a file in TREC's format for each system; return the files.

        :param folder: the folder, which is created.
        :returns: the files.
        :raises InputError: if an id holds a space.
        :raises WriteError: if one cannot be written.
        """
        paths = []
        names = [
            *self.queries,
            *(name for system in self.systems for ids in system.rankings.values() for name in ids.ids),
        ]
        broken = next((name for name in names if len(name.split()) != 1), None)
        if broken is not None:
            raise InputError(f"TREC's format has no ids with spaces, got {broken!r}; use to_dict() or --json")
        for system in self.systems:
            tag = "".join(char if char.isalnum() or char in "-_." else "-" for char in system.name)
            path = folder / f"{tag}.run"
            with write_errors(path, "choose another folder"):
                folder.mkdir(parents=True, exist_ok=True)
                with path.open("w", encoding="utf-8") as file:
                    for name, ranking in system.rankings.items():
                        # Tools order a run by its scores, so they must fall: minus the rank.
                        for rank, document in enumerate(ranking.ids, 1):
                            file.write(f"{name} Q0 {document} {rank} {-rank} {tag}\n")
            paths.append(path)
        return paths


def _differences(system: System, baseline: System, metric: str) -> list[float]:
    values, others = system.measures[metric], baseline.measures[metric]
    return [round(values[name] - others[name], 12) for name in values]


def _fields(item: Any) -> dict[str, Any]:
    return {name: getattr(item, name) for name in item.__slots__}
