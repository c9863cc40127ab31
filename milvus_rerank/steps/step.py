"""Step: the base class of all steps, and the reading of fields."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, get_args

from milvus_rerank.errors import InputError
from milvus_rerank.postprocess.read import label, read_results, rescored, unscored
from milvus_rerank.result_list import RerankResults
from milvus_rerank.results import RerankResult, rank
from milvus_rerank.validation import check_choice, describe

MissingField = Literal["error", "keep", "drop"]
"""The treatment of a result whose field is absent or null: an ``error``, ``keep`` it, or ``drop`` it."""

Order = Literal["kept", "by score", "varied", "from both ends"]
"""The order of a step's results: that of its input, by score, varied, or with the best at both ends."""


@dataclass(frozen=True, slots=True)
class Step(ABC):
    """A step after the reranker. A subclass is a frozen dataclass of options that implements :meth:`__call__`.

    Steps are values without state: threads may share them. They return new results and do not change those they get.
    """

    name: ClassVar[str]
    """The step's ``type`` in a config file."""
    order: ClassVar[Order] = "kept"

    @property
    def fields(self) -> tuple[str, ...]:
        """The fields of a hit that the step reads."""
        return ()

    @abstractmethod
    def __call__(self, results: Sequence[RerankResult[Any]]) -> RerankResults[Any]:
        """Return the results of one query after this step.

        :param results: the results of one query.
        :returns: new results.
        :raises InputError: for a result that the step cannot handle; the message names it.
        """


class MissingFieldError(Exception):
    """A result lacks a field; ``missing`` of the step decides what follows."""


def check_field(field: object, name: str = "field") -> str:
    """Return the name of a field; raise InputError for any other value."""
    if not isinstance(field, str) or not field.strip():
        raise InputError(f"{name} must be the name of a field, got {describe(field)}")
    return field


def check_missing(missing: object) -> str:
    """Return a word of :data:`MissingField`; raise InputError for any other value."""
    return check_choice(missing, "missing", get_args(MissingField))


def check_finite(value: object, name: str, *, least: float = -math.inf, above: float = -math.inf) -> float:
    """Return a finite number as a float if it is at least ``least`` and larger than ``above``; else raise InputError.

    :param value: the caller's value.
    :param name: the name of the option in an error.
    :param least: the least number allowed.
    :param above: the number that it must exceed.
    :returns: the number.
    :raises InputError: for any other value.
    """
    number = float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else math.nan
    if not math.isfinite(number) or number < least or number <= above:
        bound = f" of at least {least:g}" if least > -math.inf else f" above {above:g}" if above > -math.inf else ""
        raise InputError(f"{name} must be a number{bound}, got {describe(value)}")
    return number


def read_field(result: RerankResult[Any], field: str) -> Any:
    """Return the value of a field of a result's hit, with numpy scalars as Python values.

    :param result: the result.
    :param field: a field of its entity, or its primary key.
    :returns: the value.
    :raises MissingFieldError: if the field is absent or null.
    """
    value = (result.entity or {}).get(field)
    if value is None and field == result.id_field:
        value = result.id
    if value is None:
        raise MissingFieldError(field)
    return value.item() if getattr(value, "shape", None) == () else value


def lacking(result: RerankResult[Any], index: int, field: object) -> InputError:
    """Return the error for a result that lacks a field."""
    entity = result.entity or {}
    if str(field) in entity:
        return InputError(f"field {str(field)!r} of {label(result, index)} is null. Pass missing='keep' or 'drop'")
    names = sorted(map(str, entity))
    return InputError(
        f"{label(result, index)} has no field {str(field)!r}; it has {names or 'none'}. Ask Milvus for it with "
        f"output_fields=[{str(field)!r}], or pass missing='keep' or 'drop'"
    )


def multiply(
    results: Sequence[RerankResult[Any]],
    factor: Callable[[RerankResult[Any], int], float],
    missing: str,
) -> RerankResults[Any]:
    """Return results with each score multiplied by a factor, best first, ties in input order.

    :param results: the results of one query.
    :param factor: returns the factor of a result, given its position; it may raise :class:`MissingFieldError`.
    :param missing: the treatment of a result without the field; ``keep`` leaves its score unchanged.
    :returns: the results with new scores, and the reranker's in ``extra["rerank_score"]``; those without a score last.
    :raises InputError: for a score below 0, as a factor would turn the order of such scores round, or a missing field.
    """
    checked, scores = read_results(results)
    changed: dict[int, float] = {}
    for index, score in scores.items():
        if score < 0:
            raise InputError(
                f"the score of {label(checked[index], index)} is {score:g}; a factor needs scores of at least 0, as it "
                "would raise a negative score where it should lower it. Put a normalize step before, such as "
                "Normalize('sigmoid')"
            )
        try:
            changed[index] = score * factor(checked[index], index)
        except MissingFieldError as error:
            if missing == "error":
                raise lacking(checked[index], index, error) from None
            if missing == "keep":
                changed[index] = score
    order = [list(changed)[position] for position in rank(list(changed.values()))]
    return RerankResults([rescored(checked[index], changed[index]) for index in order] + unscored(checked))
