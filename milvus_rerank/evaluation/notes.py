"""Sentences of a report about what to know before trusting its figures."""

from collections.abc import Iterable, Mapping, Sequence

from milvus_rerank.evaluation.judged import Judgments
from milvus_rerank.evaluation.systems import System

FEW_QUERIES = 25
"""Judged queries below which a report says that they are too few."""


def make_notes(
    queries: Mapping[str, str],
    judgments: Judgments,
    relevant: Judgments,
    unknown: Sequence[str],
    systems: Iterable[System],
) -> list[str]:
    """Return the notes of a report.

    :param queries: the texts of all queries.
    :param judgments: the judgments as they were read.
    :param relevant: the judgments of the queries that have a relevant document.
    :param unknown: the judged documents that the collection does not hold.
    :param systems: the measured systems.
    :returns: sentences.
    """
    notes = []
    if relevant and len(relevant) < FEW_QUERIES:
        notes.append(
            f"{len(relevant)} judged queries are too few to tell systems apart unless they differ much; judge at least "
            f"{FEW_QUERIES}, better 50."
        )
    without = [name for name in queries if name not in judgments]
    if judgments and without:
        notes.append(f"{_count(without)} no judgment and count in no metric.")
    useless = [name for name in queries if name in judgments and name not in relevant]
    if useless:
        notes.append(f"{_count(useless)} judgments, but none of a relevant document, and count in no metric.")
    if unknown:
        absent = set(unknown)
        lines = sum(len(judged.keys() & absent) for judged in judgments.values())
        notes.append(
            f"The collection does not hold {len(unknown)} judged document{'s' if len(unknown) > 1 else ''} "
            f"({_names(unknown)}), of {lines} judgment{'s' if lines > 1 else ''}; relevant ones count as not found."
        )
    empty = [name for name in queries if any(not system.rankings[name].ids for system in systems)]
    if empty:
        notes.append(f"{_count(empty)} no hits in some first stage.")
    return notes


def _count(names: Sequence[str]) -> str:
    return f"{len(names)} {'query has' if len(names) == 1 else 'queries have'} ({_names(names)})"


def _names(names: Sequence[str]) -> str:
    return ", ".join(map(repr, names[:3])) + (", ..." if len(names) > 3 else "")
