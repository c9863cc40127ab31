"""TuneOptions: the grid of a tuning, and how it is searched."""

from dataclasses import dataclass

from milvus_rerank.choices import MAX_CANDIDATES
from milvus_rerank.errors import InputError
from milvus_rerank.validation import check_count

LEAST_QUERIES = 20
"""Judged queries below which nothing is chosen."""
FEW_QUERIES = 50
"""Judged queries below which a report says that they are few."""


@dataclass(frozen=True, slots=True)
class TuneOptions:
    """Options of a tuning.

    :param candidates: the numbers of hits of the first stage to try.
    :param k: the ranks that count for nDCG.
    :param timed: the most queries of the choosing half that a setting's latency is measured on.
    :param measured: the most settings whose latency is measured.
    :param memory: measure the memory of a process for each setting that is reported.
    :param seed: the seed of the division of the queries.
    :raises InputError: for a value that cannot be used.
    """

    candidates: tuple[int, ...] = (10, 20, 30, 50, 100)
    k: int = 10
    timed: int = 20
    measured: int = 6
    memory: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.candidates:
            raise InputError("candidates must hold at least one number, such as 50")
        for count in self.candidates:
            if check_count(count, "candidates") > MAX_CANDIDATES:
                raise InputError(f"Milvus returns at most {MAX_CANDIDATES} hits of a search, got {count}")
        object.__setattr__(self, "candidates", tuple(sorted(set(self.candidates))))
        for name in ("k", "timed", "measured"):
            check_count(getattr(self, name), name)
        if self.candidates[0] < self.k:
            raise InputError(f"candidates={self.candidates[0]} is less than k={self.k}: the ranks that count")


DEFAULT_OPTIONS = TuneOptions()
