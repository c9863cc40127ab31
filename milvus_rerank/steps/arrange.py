"""Steps that choose and arrange results without a change of scores."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from milvus_rerank.errors import InputError
from milvus_rerank.postprocess.diversify import check_trade_off, diversify
from milvus_rerank.postprocess.read import label, read_results
from milvus_rerank.result_list import RerankResults
from milvus_rerank.results import RerankResult
from milvus_rerank.steps.step import (
    MissingField,
    MissingFieldError,
    Order,
    Step,
    check_field,
    check_missing,
    lacking,
    read_field,
)
from milvus_rerank.validation import check_count, describe


@dataclass(frozen=True, slots=True)
class GroupBy(Step):
    """Keep at most ``size`` results for each value of a field; the order stays.

    :param field: the field, such as the id of the document that a passage belongs to.
    :param size: the most results of a group.
    :param missing: for a result without the field: ``error``, ``keep`` it outside of all groups, or ``drop`` it.
    :raises InputError: for an invalid option.
    """

    name: ClassVar[str] = "group_by"
    field: str
    size: int = 1
    missing: MissingField = "error"

    def __post_init__(self) -> None:
        check_field(self.field)
        check_count(self.size, "size")
        check_missing(self.missing)

    @property
    def fields(self) -> tuple[str, ...]:
        """The field of the groups."""
        return (self.field,)

    def __call__(self, results: Sequence[RerankResult[Any]]) -> RerankResults[Any]:
        """Return the first results of each group."""
        checked, _ = read_results(results)
        kept: list[RerankResult[Any]] = []
        sizes: Counter[tuple[type, Any]] = Counter()
        for index, result in enumerate(checked):
            try:
                value = read_field(result, self.field)
            except MissingFieldError:
                if self.missing == "error":
                    raise lacking(result, index, self.field) from None
                kept += [result] if self.missing == "keep" else []
                continue
            if not isinstance(value, (str, int, float)) or (isinstance(value, float) and not math.isfinite(value)):
                raise InputError(
                    f"field {self.field!r} of {label(result, index)} must hold a string, a number or a boolean to "
                    f"group by, got {describe(value)}"
                )
            group = (bool if isinstance(value, bool) else object, value)  # True equals 1, but they are two groups
            sizes[group] += 1
            kept += [result] if sizes[group] <= self.size else []
        return RerankResults(kept)


@dataclass(frozen=True, slots=True)
class Diversify(Step):
    """Put results that repeat each other further down: maximal marginal relevance.

    :param field: the field with the dense vector of each hit.
    :param trade_off: a number from 0, the most variety, to 1, which keeps the order.
    :raises InputError: for an invalid option.
    """

    name: ClassVar[str] = "diversify"
    order: ClassVar[Order] = "varied"
    field: str
    trade_off: float = 0.5

    def __post_init__(self) -> None:
        check_field(self.field)
        check_trade_off(self.trade_off)

    @property
    def fields(self) -> tuple[str, ...]:
        """The field of the vectors."""
        return (self.field,)

    def __call__(self, results: Sequence[RerankResult[Any]]) -> RerankResults[Any]:
        """Return the results in a varied order, as :func:`~milvus_rerank.diversify` does."""
        return diversify(results, self.field, trade_off=self.trade_off)


@dataclass(frozen=True, slots=True)
class LostInTheMiddle(Step):
    """Put the best results at both ends: language models read the middle of a long prompt least (Liu et al., 2023).

    The results 1, 2, 3, 4, 5 come as 1, 3, 5, 4, 2. A pipeline has it last, and cuts to ``top_k`` before it.
    """

    name: ClassVar[str] = "lost_in_the_middle"
    order: ClassVar[Order] = "from both ends"

    def __call__(self, results: Sequence[RerankResult[Any]]) -> RerankResults[Any]:
        """Return the results with the best at both ends."""
        checked, _ = read_results(results)
        return RerankResults([*checked[::2], *checked[1::2][::-1]])
