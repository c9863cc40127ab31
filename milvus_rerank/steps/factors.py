"""Steps that multiply scores by a factor: a decay, a boost by a filter, a boost by a field."""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, timedelta
from typing import Any, ClassVar, Literal, get_args

from milvus_rerank.errors import InputError
from milvus_rerank.postprocess.read import label
from milvus_rerank.result_list import RerankResults
from milvus_rerank.results import RerankResult
from milvus_rerank.steps.expression import Expression, parse
from milvus_rerank.steps.step import (
    MissingField,
    Order,
    Step,
    check_field,
    check_finite,
    check_missing,
    multiply,
    read_field,
)
from milvus_rerank.steps.times import UNITS, Unit, is_time, read_duration, read_time
from milvus_rerank.validation import check_choice, describe

Curve = Literal["gauss", "exp", "linear"]
Modifier = Literal["none", "log1p", "sqrt"]


@dataclass(frozen=True, slots=True)
class Decay(Step):
    r"""Lower the scores of hits whose field is far from an origin, by the decay functions of Milvus.

    With d = max(0, \|value - origin\| - offset), the score is multiplied by

    - ``gauss``: exp(ln(decay) * d² / scale²)
    - ``exp``: exp(ln(decay) * d / scale)
    - ``linear``: max(0, 1 - (1 - decay) * d / scale)

    or by ``least`` if that is larger. The factor is 1 up to ``offset`` and ``decay`` at ``offset + scale``.

    :param field: the field: numbers, or dates.
    :param function: ``gauss``, ``exp`` or ``linear``.
    :param origin: the best value: a number; or a date as a text in the form of ISO 8601, a ``datetime``, or ``now``.
    :param scale: the distance at which the factor is ``decay``: a number; for dates a duration such as ``30d``.
    :param offset: the distance without decay, in the form of ``scale``; None for none.
    :param decay: the factor at the distance ``scale``, between 0 and 1.
    :param least: the least factor. A Milvus server's ``linear`` never falls below ``decay``: ``least=0.5`` does that.
    :param unit: for dates in a field of numbers, what they count since 1970: ``s``, ``ms`` or ``us``.
    :param missing: for a hit without the field: ``error``, ``keep`` its score, or ``drop`` it.
    :raises InputError: for an invalid option.
    """

    name: ClassVar[str] = "decay"
    order: ClassVar[Order] = "by score"
    field: str
    function: Curve
    origin: float | str | date
    scale: float | str | timedelta
    offset: float | str | timedelta | None = None
    decay: float = 0.5
    least: float = 0.0
    unit: Unit | None = None
    missing: MissingField = "error"

    def __post_init__(self) -> None:
        check_field(self.field)
        check_choice(self.function, "function", get_args(Curve))
        check_missing(self.missing)
        if not 0 < check_finite(self.decay, "decay") < 1:
            raise InputError(f"decay must be a number between 0 and 1, got {self.decay!r}")
        if not 0 <= check_finite(self.least, "least") < 1:
            raise InputError(f"least must be a number from 0 to below 1, got {self.least!r}")
        if self.unit is not None:
            check_choice(self.unit, "unit", UNITS)
            if not is_time(self.origin):
                raise InputError(f"unit is for dates; origin must be a date or 'now', got {describe(self.origin)}")
        self._origin()
        check_finite(self._distance(self.scale, "scale"), "scale", above=0)
        check_finite(self._offset(), "offset", least=0)

    @property
    def fields(self) -> tuple[str, ...]:
        """The field of the values."""
        return (self.field,)

    def __call__(self, results: Sequence[RerankResult[Any]]) -> RerankResults[Any]:
        """Return the results with lowered scores, best first."""
        origin, scale, offset = self._origin(), self._distance(self.scale, "scale"), self._offset()

        def factor(result: RerankResult[Any], index: int) -> float:
            distance = max(0.0, abs(self._value(result, index) - origin) - offset)
            return max(self.least, _CURVES[self.function](distance / scale, self.decay))

        return multiply(results, factor, self.missing)

    def _origin(self) -> float:
        if not is_time(self.origin):
            return check_finite(self.origin, "origin")
        return time.time() if self.origin == "now" else read_time(self.origin, "origin")

    def _distance(self, value: object, name: str) -> float:
        return read_duration(value, name) if is_time(self.origin) else check_finite(value, name)

    def _offset(self) -> float:
        return 0.0 if self.offset is None else self._distance(self.offset, "offset")

    def _value(self, result: RerankResult[Any], index: int) -> float:
        value, place = read_field(result, self.field), f"field {self.field!r} of {label(result, index)}"
        if is_time(self.origin):
            return read_time(value, place, self.unit)
        return check_finite(value, place)


@dataclass(frozen=True, slots=True)
class Boost(Step):
    """Multiply the scores of the hits that a filter matches by a weight, as the boost ranker of Milvus does.

    :param filter: a filter such as ``year > 2020 and lang in ["en", "de"]``; see :mod:`milvus_rerank.steps.expression`.
    :param weight: the factor: above 1 raises a score, below 1 lowers it.
    :param missing: for a hit without a field that the filter compares: ``error``, ``keep`` its score, or ``drop`` it.
    :raises InputError: for an invalid option, or a filter with more than comparisons of fields with values.
    """

    name: ClassVar[str] = "boost"
    order: ClassVar[Order] = "by score"
    filter: str
    weight: float
    missing: MissingField = "error"
    _expression: Expression = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_expression", parse(self.filter))
        check_finite(self.weight, "weight", least=0)
        check_missing(self.missing)

    @property
    def fields(self) -> tuple[str, ...]:
        """The fields of the filter."""
        return self._expression.fields

    def __call__(self, results: Sequence[RerankResult[Any]]) -> RerankResults[Any]:
        """Return the results with boosted scores, best first."""

        def factor(result: RerankResult[Any], index: int) -> float:
            try:
                return self.weight if self._expression.matches(lambda name: read_field(result, name)) else 1.0
            except InputError as error:
                raise InputError(f"{label(result, index)}: {error}") from None

        return multiply(results, factor, self.missing)


@dataclass(frozen=True, slots=True)
class FieldBoost(Step):
    """Raise the scores of hits by a number that they hold, such as votes: multiply by 1 + weight * f(value).

    :param field: the field, with numbers of at least 0.
    :param weight: the weight of the number, at least 0.
    :param modifier: f: ``none`` for the number itself, ``log1p`` for ln(1 + value), ``sqrt`` for its square root.
    :param missing: for a hit without the field: ``error``, ``keep`` its score, or ``drop`` it.
    :raises InputError: for an invalid option.
    """

    name: ClassVar[str] = "field_boost"
    order: ClassVar[Order] = "by score"
    field: str
    weight: float = 1.0
    modifier: Modifier = "log1p"
    missing: MissingField = "error"

    def __post_init__(self) -> None:
        check_field(self.field)
        check_finite(self.weight, "weight", least=0)
        check_choice(self.modifier, "modifier", get_args(Modifier))
        check_missing(self.missing)

    @property
    def fields(self) -> tuple[str, ...]:
        """The field of the numbers."""
        return (self.field,)

    def __call__(self, results: Sequence[RerankResult[Any]]) -> RerankResults[Any]:
        """Return the results with raised scores, best first."""

        def factor(result: RerankResult[Any], index: int) -> float:
            place = f"field {self.field!r} of {label(result, index)}"
            value = check_finite(read_field(result, self.field), place, least=0)
            return 1.0 + self.weight * _MODIFIERS[self.modifier](value)

        return multiply(results, factor, self.missing)


def _gauss(distance: float, decay: float) -> float:
    return math.exp(math.log(decay) * distance * distance)


def _exp(distance: float, decay: float) -> float:
    return math.exp(math.log(decay) * distance)


def _linear(distance: float, decay: float) -> float:
    return max(0.0, 1.0 - (1.0 - decay) * distance)


_CURVES: Mapping[str, Callable[[float, float], float]] = {"gauss": _gauss, "exp": _exp, "linear": _linear}
"""Factors by the distance in scales, and the factor at a distance of one."""

_MODIFIERS: Mapping[str, Callable[[float], float]] = {"none": float, "log1p": math.log1p, "sqrt": math.sqrt}
