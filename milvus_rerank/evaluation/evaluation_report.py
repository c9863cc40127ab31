"""EvaluationReport: the measured systems of an evaluation, and their comparisons."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from milvus_rerank.errors import write_errors
from milvus_rerank.evaluation.agreement import rank_biased_overlap
from milvus_rerank.evaluation.comparisons import Agreement, Comparison, compare_rankings, compare_systems, is_gain
from milvus_rerank.evaluation.judged import Judgments
from milvus_rerank.evaluation.systems import System, duration
from milvus_rerank.evaluation.trec import write_runs
from milvus_rerank.results import json_safe

if TYPE_CHECKING:
    from pandas import DataFrame

MOVED = 10
"""Queries that a report shows side by side."""


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
    :param reference: the name of the system that counts as right where there are no judgments; None for the last one.
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
    reference: str | None = None

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
        return compare_systems(self.systems, self.metric) if self.judgments else ()

    def gain(self, name: str) -> Comparison | None:
        """Return the comparison of a reranked system with its first stage; None for a first stage."""
        system = self[name]
        return next(
            (item for item in self.comparisons if item.system == name and is_gain(system, self[item.baseline])), None
        )

    @cached_property
    def agreements(self) -> tuple[Agreement, ...]:
        """Each system with each earlier system."""
        return compare_rankings(self.systems, self.queries, self.k)

    def agreement(self, name: str) -> Agreement | None:
        """Return the agreement of a system with the reference; None for the reference itself."""
        pair = {name, self.referred.name}
        return next((item for item in self.agreements if {item.system, item.other} == pair), None)

    @property
    def referred(self) -> System:
        """The system that counts as right where there are no judgments."""
        return self.systems[-1] if self.reference is None else self[self.reference]

    def best(self) -> System:
        """Return the system with the highest mean nDCG; without judgments, the reference."""
        if not self.judgments:
            return self.referred
        return max(self.systems, key=lambda system: system.mean(self.metric))

    def headline(self) -> tuple[System, System] | None:
        """Return the two systems that a reader compares first.

        :returns: the best reranked system and its first stage; without judgments, the reference and the reranker
            before it, or its first stage. None if there is only one system.
        """
        reranked = [system for system in self.systems if system.reranker is not None]
        if self.judgments and reranked:
            system = max(reranked, key=lambda system: system.mean(self.metric))
            return system, self[system.first_stage]
        best = self.best()
        others = [system for system in self.systems if system != best]
        near = [system for system in others if system.first_stage == best.first_stage]
        return (best, (near or others)[-1]) if others else None

    def moved(self, system: System, baseline: System, count: int = MOVED) -> list[str]:
        """Return the ids of the queries that differ most: by nDCG, without judgments by the top documents.

        :param system: a system.
        :param baseline: the system that it is compared with.
        :param count: the most queries.
        :returns: ids; those with the greatest difference come first.
        """
        moved = [(abs(self.change(name, system, baseline)), name) for name in (self.judgments or self.queries)]
        return [name for far, name in sorted(moved, key=lambda item: -item[0])[:count] if far > 0]

    def change(self, query: str, system: System, baseline: System) -> float:
        """Return the gain of nDCG for a query; without judgments, 1 minus the rank-biased overlap."""
        if self.judgments:
            return system.measures[self.metric][query] - baseline.measures[self.metric][query]
        return 1 - rank_biased_overlap(system.rankings[query].ids, baseline.rankings[query].ids)

    def to_dict(self) -> dict[str, Any]:
        """Return the report as JSON-safe Python values."""
        pair = self.headline()
        return {
            "name": self.name,
            "summary": self.summary(),
            "metric": self.metric,
            "candidates": self.candidates,
            "queries": len(self.queries),
            "judged": len(self.judgments),
            "reference": None if self.judgments else self.referred.name,
            "systems": [self._system(system) for system in self.systems],
            "comparisons": [json_safe(asdict(item)) for item in self.comparisons],
            "agreements": [json_safe(asdict(item)) for item in self.agreements],
            "moved": pair
            and {
                "system": pair[0].name,
                "baseline": pair[1].name,
                "queries": [
                    {"id": name, "query": self.queries[name], "change": self.change(name, *pair)}
                    for name in self.moved(*pair)
                ],
            },
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
        """Return a data frame with a row for each system; columns that no system has a value for are left out.

        pandas cuts a wide frame when it prints it; ``print(report)`` shows all columns.
        """
        import pandas

        rows = []
        for system in self.systems:
            gain, agreement = self.gain(system.name), None if self.judgments else self.agreement(system.name)
            rows.append(
                {
                    "system": system.name,
                    **{metric: system.mean(metric) for metric in system.measures},
                    "gain": gain and gain.gain,
                    "p": gain and gain.p_value,
                    "overlap": agreement and agreement.overlap,
                    "rbo": agreement and agreement.rbo,
                    "p50": system.seconds(50),
                    "p95": system.seconds(95),
                    "pairs/s": system.pairs_per_second,
                    "cost": system.cost,
                }
            )
        return pandas.DataFrame(rows).set_index("system").dropna(axis="columns", how="all")

    def __str__(self) -> str:
        table = self.to_pandas().to_string(float_format="{:.4g}".format, na_rep="")
        return "\n".join([self.summary(), table, *self.notes])

    def _repr_html_(self) -> str:
        notes = "".join(f"<p>{escape(note)}</p>" for note in self.notes)
        table = self.to_pandas().to_html(float_format="{:.4g}".format, na_rep="", border=0)
        return f"<p>{escape(self.summary())}</p>{table}{notes}"

    def summary(self) -> str:
        """Return the result in two sentences."""
        best = self.best()
        times = f"{duration(best.seconds(50))} at the median and {duration(best.seconds(95))} at p95"
        if not self.judgments:
            asked = "1 query" if len(self.queries) == 1 else f"{len(self.queries)} queries"
            return (
                f"{asked} without judgments: the rankings can be compared, not graded. "
                f"{best.name}, the reference, takes {times}."
            )
        gain = self.gain(best.name)
        value = f"{best.name} is best: {self.metric} {best.mean(self.metric):.3f}"
        if gain is None:
            value += "; no reranker improves on it" if len(self.systems) > 1 else ""
        else:
            value += f", {gain.gain:+.3f} over {gain.baseline} ({self._certainty(gain)})"
        return f"{value}. A query takes {times}."

    def _certainty(self, gain: Comparison) -> str:
        if gain.interval is None:
            text = f"p = {gain.p_value:.2g}; too few queries for an interval"
        else:
            text = f"95% interval {gain.interval[0]:+.3f} to {gain.interval[1]:+.3f}, p = {gain.p_value:.2g}"
        several = len(self.comparisons)
        text += f", both adjusted for {several} comparisons" if several > 1 and gain.interval else ""
        return text if gain.p_value <= 0.05 else f"{text}: it may be chance"

    def write_runs(self, folder: Path) -> list[Path]:
        """Write a file in TREC's format for each system; return the files.

        :param folder: the folder, which is created.
        :returns: the files.
        :raises InputError: if an id holds a space.
        :raises WriteError: if one cannot be written.
        """
        return write_runs(self.systems, folder)

    def to_html(self, path: Path | None = None) -> str:
        """Return the report as one HTML page, which needs no network and runs no script.

        :param path: the file to write; None to write none.
        :returns: the page.
        :raises MissingDependencyError: without jinja2 and matplotlib, which the extra ``eval`` installs.
        :raises WriteError: if the file cannot be written.
        """
        from milvus_rerank.evaluation.page import render

        page = render(self)
        if path is not None:
            with write_errors(path, "choose another file"):
                Path(path).write_text(page, "utf-8")
        return page
