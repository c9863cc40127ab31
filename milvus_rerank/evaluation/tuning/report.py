"""TuneReport: the frontier of quality and latency on queries that chose nothing, and the chosen setting."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from milvus_rerank.config import Config
from milvus_rerank.evaluation.significance import Interval
from milvus_rerank.evaluation.tuning.settings import Setting
from milvus_rerank.evaluation.tuning.target import Target
from milvus_rerank.results import json_safe

_WIDTH, _HEIGHT = 56, 12


@dataclass(frozen=True, slots=True)
class FrontierRow:
    """A setting, measured on held-out queries.

    :param setting: the setting; None for the first stage alone.
    :param candidates: the number of hits of the first stage.
    :param ndcg: the mean nDCG.
    :param interval: its 95% bootstrap interval.
    :param p50: the median seconds of a query, first stage included.
    :param p95: the seconds of 95% of the queries.
    :param pairs_per_second: pairs scored in a second of reranking; None for the first stage and for cascades, whose
        stages read different numbers of documents.
    :param memory: the most bytes of a process with the reranker; None if unknown.
    :param choosing_ndcg: the mean nDCG on the queries that the setting was chosen by.
    """

    setting: Setting | None
    candidates: int
    ndcg: float
    interval: Interval | None
    p50: float
    p95: float
    pairs_per_second: float | None
    memory: int | None
    choosing_ndcg: float

    @property
    def name(self) -> str:
        """The name in tables."""
        return "first stage" if self.setting is None else str(self.setting)

    def to_dict(self) -> dict[str, Any]:
        """Return the row as JSON-safe Python values."""
        names = ("candidates", "ndcg", "interval", "p50", "p95", "pairs_per_second", "memory", "choosing_ndcg")
        return {"name": self.name} | {name: json_safe(getattr(self, name)) for name in names}


@dataclass(frozen=True, slots=True)
class TuneReport:
    """The outcome of a tuning.

    :param target: the target.
    :param k: the ranks that count for nDCG.
    :param chosen: the chosen row.
    :param rows: the first stage alone, then the frontier, the fastest first.
    :param choosing: the number of queries that settings were chosen by.
    :param held_out: the number of queries that the rows were measured on.
    :param settings: the number of settings of the full grid.
    :param pairs: the pairs that were scored to choose, timing included.
    :param grid_pairs: the pairs of the full grid on the same queries, without scoring a pair of a reranker twice.
    :param dropped: the rerankers that were dropped early, with the number of queries that they had scored.
    :param notes: sentences about what to know before trusting the figures.
    """

    target: Target
    k: int
    chosen: FrontierRow
    rows: tuple[FrontierRow, ...]
    choosing: int
    held_out: int
    settings: int
    pairs: int
    grid_pairs: int
    dropped: Mapping[str, int] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def to_config(self, base: Config | None = None) -> Config:
        """Return the chosen setting as a config; all other keys are those of another one."""
        assert self.chosen.setting is not None  # noqa: S101  the first stage is never chosen
        return self.chosen.setting.to_config(base or Config())

    def to_dict(self) -> dict[str, Any]:
        """Return the report as JSON-safe Python values."""
        return {
            "target": str(self.target),
            "metric": f"nDCG@{self.k}",
            "chosen": self.chosen.to_dict(),
            "frontier": [row.to_dict() for row in self.rows],
            "queries": {"choosing": self.choosing, "held_out": self.held_out},
            "settings": self.settings,
            "pairs": {"scored": self.pairs, "full_grid": self.grid_pairs},
            "dropped": dict(self.dropped),
            "notes": list(self.notes),
        }

    def plot(self) -> str:
        """Return a plot of quality against latency in characters; a row is a letter, in the order of the table."""
        low, high = min(row.ndcg for row in self.rows), max(row.ndcg for row in self.rows)
        slowest = max(row.p95 for row in self.rows) or 1.0
        grid = [[" "] * (_WIDTH + 1) for _ in range(_HEIGHT + 1)]
        for mark, row in zip(marks(len(self.rows)), self.rows, strict=True):
            height = round((row.ndcg - low) / (high - low) * _HEIGHT) if high > low else 0
            column = round(row.p95 / slowest * _WIDTH)
            free = next((place for place in range(column, _WIDTH + 1) if grid[height][place] == " "), column)
            grid[height][free] = mark
        lines = []
        for height in range(_HEIGHT, -1, -1):
            label = f"{high:.3f}" if height == _HEIGHT else f"{low:.3f}" if height == 0 else ""
            lines.append(f"{label:>6} |{''.join(grid[height])}".rstrip())
        axis = f"{slowest * 1000:.0f} ms"
        return "\n".join(
            [*lines, f"{'':>6} +{'-' * (_WIDTH + 1)}", f"{'':>7} 0{'p95':>{_WIDTH // 2}}{axis:>{_WIDTH // 2}}"]
        )


def marks(count: int) -> list[str]:
    """Return a letter for each row."""
    letters = "abcdefghijklmnopqrstuvwxyz"
    return [letters[index % len(letters)] for index in range(count)]
