"""RerankResult, the one value that every reranker returns, and the one ordering of scores."""

import base64
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from milvus_rerank.errors import ScoreError


@dataclass(frozen=True, slots=True)
class RerankResult:
    """One document or Milvus hit with its place in the input and its score.

    :param text: the text that was scored; "" for a hit without text that was kept on purpose.
    :param score: the reranker's score, larger is better; None for a hit that was not scored
        (``missing="last"``, or the first-stage order after a failed rerank).
    :param index: position in the documents or hits that were passed in.
    :param id: the hit's primary key; None for a plain text, as all that follow.
    :param distance: the first stage's distance or score of the hit.
    :param entity: the hit's fields.
    :param extra: what else the hit carried, such as ``highlight`` or ``offset``.
    :param span: the part of a long text that its score is of, as ``text[start:end]``; None for the whole of it, and
        where the tokenizer, one in Python, does not tell.
    :param stage: the last stage of a cascade that scored it, from 0; None outside a cascade. Scores compare within a
        stage only.
    """

    text: str
    score: float | None
    index: int
    id: int | str | None = None
    distance: float | None = None
    entity: Mapping[str, Any] | None = field(default=None, hash=False)
    extra: Mapping[str, Any] | None = field(default=None, hash=False)
    span: tuple[int, int] | None = None
    stage: int | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return the result as JSON-safe Python values.

        :returns: ``text, score, index``, for a hit also ``id, distance, entity``, and ``extra``, ``span`` and ``stage``
            where there is any; numpy values become Python numbers and lists, bytes become base64 text.
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
    """Scores of one query's documents, in input order.

    :param scores: one for each, larger is better.
    :param spans: the part of each that its score is of, None for all of it; empty where nobody cut texts.
    :param stages: how far each came in a cascade, from 0; empty where there is but one stage. A later stage goes before
        an earlier one, whatever the scores.
    :param limit: how many of them a call returns at most; None for all.
    """

    scores: Sequence[float]
    spans: Sequence[tuple[int, int] | None] = ()
    stages: Sequence[int] = ()
    limit: int | None = None

    def most(self, top_k: int | None) -> int | None:
        """Return how many results there may be, None for all.

        :param top_k: how many the caller wants, None for all.
        :returns: the smaller one of that and the limit.
        """
        return min((count for count in (top_k, self.limit) if count is not None), default=None)

    def rank(self, top_k: int | None = None, threshold: float | None = None) -> list[int]:
        """Return positions, best first, as :func:`rank` does.

        :param top_k: how many positions to return, None for all; never more than ``limit``.
        :param threshold: keep only scores of at least this, and in a cascade only of the last stage, whose scale it is.
        :returns: positions: later stages first, within one the larger score, ties by position.
        """
        if not self.stages:
            return rank(self.scores, self.most(top_k), threshold)
        order = sorted(rank(self.scores), key=lambda index: -self.stages[index])  # stable: scores order each stage
        if threshold is not None:
            last = max(self.stages)
            order = [index for index in order if self.stages[index] == last and self.scores[index] >= threshold]
        return order[: self.most(top_k)]

    def flat(self) -> list[float]:
        """Return scores that order all documents as :meth:`rank` does, for callers that get nothing but numbers.

        The last stage's are as they are. Those of each earlier one are moved down as a whole, to end 1 below:
        differences within a stage stay.

        :returns: one score for each document.
        """
        scores = list(self.scores)
        least = None
        for stage in sorted(set(self.stages), reverse=True):
            own = [place for place, reached in enumerate(self.stages) if reached == stage]
            if least is not None:
                shift = min(0.0, least - 1.0 - max(scores[place] for place in own))
                for place in own:
                    scores[place] += shift
            least = min(scores[place] for place in own)
        return scores

    def result(self, place: int, result: RerankResult) -> RerankResult:
        """Return a document's result with what is known of it: score, span and stage."""
        return replace(
            result,
            score=self.scores[place],
            span=self.spans[place] if self.spans else None,
            stage=self.stages[place] if self.stages else None,
        )


def rank(scores: Sequence[float], top_k: int | None = None, threshold: float | None = None) -> list[int]:
    """Return the input positions of the best scores: score descending, ties by input position.

    :param scores: one finite score per document, larger is better.
    :param top_k: how many positions to return, None for all.
    :param threshold: keep only scores of at least this, None for all.
    :returns: positions, best first.
    :raises ScoreError: if a score is NaN or infinite; the message names the document.
    """
    numbers = check_scores(scores, len(scores), "document {}".format)
    positions = sorted(range(len(numbers)), key=lambda index: (-numbers[index], index))
    if threshold is not None:
        positions = [index for index in positions if numbers[index] >= threshold]
    return positions[:top_k]


def check_scores(scores: Sequence[float], count: int, name: Callable[[int], str]) -> list[float]:
    """Return the scores as Python floats if there is a finite one for every document.

    :param scores: what a reranker returned.
    :param count: how many documents it was given.
    :param name: from a document's position to what to call it in an error.
    :returns: the same numbers.
    :raises ScoreError: if there are too few or too many, or one is NaN or infinite; the message names the document.
    """
    numbers = [float(score) for score in scores]
    if len(numbers) != count:
        raise ScoreError(f"the reranker returned {len(numbers)} scores for {count} documents")
    for index, number in enumerate(numbers):
        if not math.isfinite(number):
            raise ScoreError(f"the score of {name(index)} is {number}, expected a finite number")
    return numbers


def json_safe(value: Any) -> Any:
    """Return a value made of JSON's types only.

    :param value: anything a Milvus field can hold.
    :returns: dicts, lists, strings, finite numbers, booleans and None.
    """
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)  # JSON has no NaN and no infinity
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
