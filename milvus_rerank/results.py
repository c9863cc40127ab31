"""RerankResult, the result of every reranker, and the ordering of scores."""

import base64
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Generic

from typing_extensions import TypeVar

from milvus_rerank.errors import ScoreError

Score_co = TypeVar("Score_co", bound="float | None", default=float, covariant=True)


@dataclass(frozen=True, slots=True, repr=False)
class RerankResult(Generic[Score_co]):
    """A document or Milvus hit with its position in the input and its score.

    To a type checker, ``RerankResult`` has a score that is a ``float``. Only calls that may return hits without a score
    (``missing="last"``, ``on_rerank_error="first_stage"``) return ``RerankResult[float | None]``.

    :param text: the scored text; "" for a hit without text that was kept on purpose.
    :param score: the reranker's score, larger is better; None for a hit that was not scored
        (``missing="last"``, or the first-stage order after a failed rerank).
    :param index: the position in the input documents or hits.
    :param id: the hit's primary key; for a plain text, this and the following values are None.
    :param distance: the first stage's distance or score of the hit.
    :param entity: the hit's fields.
    :param extra: other values of the hit, such as ``highlight`` or ``offset``.
    :param span: the part of a long text that the score belongs to, as ``text[start:end]``; None for the whole text, and
        for a tokenizer in Python, which does not report positions.
    :param stage: the last stage of a cascade that scored the document, from 0; None outside a cascade. Scores are
        comparable only within a stage.
    :param id_field: the name of the primary key, as in the hit.
    """

    text: str
    score: Score_co
    index: int
    # None for plain texts; "| Any" spares callers that reranked hits a check for None.
    id: int | str | Any = None
    distance: float | Any = None
    entity: Mapping[str, Any] | Any = field(default=None, hash=False)
    extra: Mapping[str, Any] | None = field(default=None, hash=False)
    span: tuple[int, int] | None = None
    stage: int | None = None
    id_field: str = "id"

    def __repr__(self) -> str:
        values = ((item.name, getattr(self, item.name), item.default) for item in fields(self))
        shown = ", ".join(f"{name}={value!r}" for name, value, default in values if value != default)
        return f"{type(self).__name__}({shown})"

    def to_dict(self) -> dict[str, Any]:
        """Return the result as JSON-safe Python values.

        :returns: ``text, score, index``, for a hit also ``id, distance, entity``, and ``extra``, ``span`` and ``stage``
            if present; numpy values become Python numbers and lists, bytes become base64 text.
        """
        values: dict[str, Any] = {"text": self.text, "score": self.score, "index": self.index}
        if self.entity is not None:
            values |= {name: json_safe(getattr(self, name)) for name in ("id", "distance", "entity")}
        if self.extra is not None:
            values["extra"] = json_safe(self.extra)
        if self.span is not None:
            values["span"] = list(self.span)
        if self.stage is not None:
            values["stage"] = self.stage
        return values


@dataclass(frozen=True, slots=True)
class DocumentScores:
    """Scores of a query's documents, in input order.

    :param scores: a score for each document, larger is better.
    :param spans: the part of each document that its score belongs to, None for all of it; empty if no text was split.
    :param stages: the last stage that scored each document, from 0; empty if there is only one stage. Documents of a
        later stage come before those of an earlier stage, regardless of their scores.
    :param limit: the most results of a call; None for all.
    :param extra: values for ``extra`` of each result, such as the reranker that scored; None for none.
    """

    scores: Sequence[float]
    spans: Sequence[tuple[int, int] | None] = ()
    stages: Sequence[int] = ()
    limit: int | None = None
    extra: Mapping[str, Any] | None = None

    def rank(self, top_k: int | None = None, threshold: float | None = None) -> list[int]:
        """Return positions, best first: later stages first, larger scores first within a stage, ties by position.

        :param top_k: the most positions to return, None for all; never more than ``limit``.
        :param threshold: the least score to keep; in a cascade it is on the last stage's scale and drops other stages.
        :returns: positions.
        """
        scores, stages = self.scores, self.stages
        order = sorted(range(len(scores)), key=scores.__getitem__, reverse=True)  # stable: ties stay in input order
        if stages:
            order.sort(key=stages.__getitem__, reverse=True)
        if threshold is not None:
            last = max(stages, default=0)
            order = [index for index in order if scores[index] >= threshold and (not stages or stages[index] == last)]
        return order[:top_k][: self.limit]

    def flat(self) -> list[float]:
        """Return scores that order all documents as :meth:`rank` does, for callers that get only numbers.

        The scores of the last stage are unchanged. The scores of each earlier stage are shifted down together if
        necessary, so that the best is at least 1 below the worst of the next stage: differences within a stage stay.

        :returns: a score for each document.
        """
        scores = list(self.scores)
        ceiling = None
        for stage in sorted(set(self.stages), reverse=True):
            members = [index for index, reached in enumerate(self.stages) if reached == stage]
            if ceiling is not None:
                shift = min(0.0, ceiling - max(scores[index] for index in members))
                for index in members:
                    scores[index] += shift
            ceiling = min(scores[index] for index in members) - 1.0
        return scores


def rank(scores: Sequence[float], top_k: int | None = None, threshold: float | None = None) -> list[int]:
    """Return the input positions of the best scores: score descending, ties by input position.

    :param scores: one finite score per document, larger is better.
    :param top_k: the most positions to return, None for all.
    :param threshold: the least score to keep, None for all.
    :returns: positions, best first.
    :raises ScoreError: if a score is NaN or infinite; the message names the document.
    """
    return DocumentScores(check_scores(scores, len(scores), "document {}".format)).rank(top_k, threshold)


def check_scores(scores: Sequence[float], count: int, name: Callable[[int], str]) -> list[float]:
    """Return the scores as Python floats if there is a finite score for every document.

    :param scores: a reranker's scores.
    :param count: the number of documents.
    :param name: returns a document's name in an error from its position.
    :returns: the same scores.
    :raises ScoreError: for a wrong number of scores, or one that is NaN or infinite; the message names the document.
    """
    numbers = [float(score) for score in scores]
    if len(numbers) != count:
        raise ScoreError(f"the reranker returned {len(numbers)} scores for {count} documents")
    for index, number in enumerate(numbers):
        if not math.isfinite(number):
            raise ScoreError(f"the score of {name(index)} is {number}, expected a finite number")
    return numbers


def json_safe(value: Any) -> Any:
    """Return any value of a Milvus field as dicts, lists, strings, finite numbers, booleans and None."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)  # JSON has neither NaN nor infinity
    if value is None or isinstance(value, (str, bool, int, float)):
        return value
    if isinstance(value, Mapping):
        return {str(key): json_safe(item) for key, item in value.items()}
    if isinstance(value, (bytes, bytearray)):
        return base64.b64encode(value).decode("ascii")
    if hasattr(value, "tolist"):  # numpy arrays and scalars, without importing numpy
        return json_safe(value.tolist())
    if isinstance(value, (list, tuple, set, frozenset)):
        return [json_safe(item) for item in value]
    return str(value)
