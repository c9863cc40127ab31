"""Score the rows that one worker holds; a row that fails does not fail the others."""

import time
from collections.abc import Sequence
from dataclasses import dataclass

from milvus_rerank.cluster.queries import QueryRow
from milvus_rerank.errors import MissingDependencyError, ModelError
from milvus_rerank.reranker.base import BaseRerankFunction

PAIRS_AT_ONCE = 4096
"""The most pairs of one call of the reranker, beyond its first query's."""


@dataclass(frozen=True, slots=True)
class RowScores:
    """The scores of one row.

    :param scores: one score per document, in their order; None for a document that a cascade left out.
    :param seconds: the time of its call, divided among the rows of the call by their documents.
    :param error: why there are no scores; "" if there are.
    """

    scores: Sequence[float | None] = ()
    seconds: float = 0.0
    error: str = ""


def score_rows(reranker: BaseRerankFunction, rows: Sequence[QueryRow]) -> list[RowScores]:
    """Return the scores of rows.

    :param reranker: the reranker.
    :param rows: queries with their documents; those with an ``error`` get it back.
    :returns: one value per row.
    """
    answers: list[RowScores] = [RowScores(error=row.error) for row in rows]
    waiting = [index for index, row in enumerate(rows) if not row.error]
    while waiting:
        count, pairs = 0, 0
        while count < len(waiting) and (not count or pairs + len(rows[waiting[count]].texts) <= PAIRS_AT_ONCE):
            pairs += len(rows[waiting[count]].texts)
            count += 1
        taken, waiting = waiting[:count], waiting[count:]
        try:
            scored = _score(reranker, [rows[index] for index in taken])
        except (ModelError, MissingDependencyError):
            raise  # every other row would fail like this one
        except Exception:  # noqa: BLE001  a custom reranker may raise anything; the row at fault is looked for
            scored = [_score_alone(reranker, rows[index]) for index in taken]
        for index, scores in zip(taken, scored, strict=True):
            answers[index] = scores
    return answers


def _score(reranker: BaseRerankFunction, rows: Sequence[QueryRow]) -> list[RowScores]:
    began = time.perf_counter()
    ranked = reranker.rerank_many([row.query for row in rows], [row.texts for row in rows], top_k=None)
    each = (time.perf_counter() - began) / max(1, sum(len(row.texts) for row in rows))
    answers = []
    for row, results in zip(rows, ranked, strict=True):
        scores: list[float | None] = [None] * len(row.texts)
        for result in results:
            scores[result.index] = result.score
        answers.append(RowScores(scores, each * len(row.texts)))
    return answers


def _score_alone(reranker: BaseRerankFunction, row: QueryRow) -> RowScores:
    try:
        return _score(reranker, [row])[0]
    except (ModelError, MissingDependencyError):
        raise
    except Exception as error:  # noqa: BLE001  it becomes the row's error
        return RowScores(error=f"{type(error).__name__}: {' '.join(str(error).split())[:500]}")


def order(scores: Sequence[float | None]) -> list[int]:
    """Return the positions of the documents that have scores, best first, ties by position."""
    scored = [(-score, position) for position, score in enumerate(scores) if score is not None]
    return [position for _, position in sorted(scored)]
