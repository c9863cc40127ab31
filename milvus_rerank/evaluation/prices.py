"""Prices of rerankers, for the cost of 1,000 queries."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from statistics import fmean

from milvus_rerank.evaluation.systems import System


@dataclass(frozen=True, slots=True)
class Prices:
    """Prices, in any one currency.

    :param per_1000_queries: by the name of a reranker the price of 1,000 queries, such as a service's.
    :param machine_hour: the price of an hour of this machine, for all others; None to leave their cost out.
    """

    per_1000_queries: Mapping[str, float] = field(default_factory=dict, hash=False)
    machine_hour: float | None = None

    def cost(self, system: System) -> float | None:
        """Return the price of 1,000 queries of a system, one query at a time."""
        if system.reranker is not None and system.reranker in self.per_1000_queries:
            return self.per_1000_queries[system.reranker]
        if self.machine_hour is None:
            return None
        return self.machine_hour / 3600 * 1000 * fmean(timings.total for timings in system.timings.values())
