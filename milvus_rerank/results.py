"""RerankResult, the one value that every reranker returns, and the one ordering of scores."""

import base64
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
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
    """

    text: str
    score: float | None
    index: int
    id: int | str | None = None
    distance: float | None = None
    entity: Mapping[str, Any] | None = field(default=None, hash=False)
    extra: Mapping[str, Any] | None = field(default=None, hash=False)

    def to_dict(self) -> dict[str, Any]:
        """Return the result as JSON-safe Python values.

        :returns: ``text, score, index``, and for a hit also ``id, distance, entity`` and ``extra`` where there is any;
            numpy values become Python numbers and lists, bytes become base64 text.
        """
        values: dict[str, Any] = {"text": self.text, "score": self.score, "index": self.index}
        if self.entity is not None:
            values |= {name: json_safe(getattr(self, name)) for name in ("id", "distance", "entity")}
        if self.extra is not None:
            values["extra"] = json_safe(self.extra)
        return values


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
