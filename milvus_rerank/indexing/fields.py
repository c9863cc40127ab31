"""Types of a corpus' fields: numbers of a table, and fields whose values have different types."""

import logging
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from milvus_rerank.errors import InputError

logger = logging.getLogger(__name__)

_INTEGER = re.compile(r"-?(?:0|[1-9]\d*)")
_NUMBER = re.compile(r"-?(?:0|[1-9]\d*)(?:\.(\d+))?(?:[eE][+-]?\d+)?")


class Fields:
    """Types of the fields of a corpus, which every record adds to.

    :param is_table: the values are the strings of a CSV table. A column whose filled cells are all numbers, or all
        ``true`` and ``false``, then has that type, and its empty cells are null.
    :param whole: names of fields that are not from the corpus, and stay as they are.
    """

    def __init__(self, is_table: bool, whole: Sequence[str] = ()) -> None:
        self._whole = whole
        self._kind = _cell_kind if is_table else _kind
        self._is_table = is_table
        self._seen: dict[str, dict[str, tuple[str, Any]]] = {}  # by field and kind: the first place and value
        self._decimals: dict[str, set[int]] = {}  # the numbers of decimals in a column
        self._padded: set[str] = set()  # columns with cells such as 1.10, whose last zero a number would lose

    def add(self, where: str, fields: Mapping[str, Any]) -> None:
        """Add the fields of a record; raise an ``InputError`` for a value of another type than before."""
        for name, value in fields.items():
            if name in self._whole:
                continue
            kind = self._kind(value)
            if kind is None:
                continue
            kinds = self._seen.setdefault(name, {})
            first = kinds.setdefault(kind, (where, value))
            if self._is_table:
                self._add_decimals(name, value, kind)
            elif len(kinds) > 1 and first[0] == where:
                other, (place, old) = next(iter(kinds.items()))
                raise InputError(
                    f"{where}: {name!r} is {kind} ({value!r:.40}), but {other} at {place} ({old!r:.40}): a filter "
                    f"would miss one of them. Give it one type everywhere, or leave it out with --fields"
                )

    def convert(self, fields: Mapping[str, Any]) -> dict[str, Any]:
        """Return the fields of a record with the types of their columns."""
        if not self._is_table:
            return dict(fields)
        return {name: value if name in self._whole else self._convert(name, value) for name, value in fields.items()}

    def warn(self) -> None:
        """Log a line for each column that holds numbers and other texts: it is stored as text."""
        for name, kinds in self._seen.items() if self._is_table else ():
            numbers = [kinds[kind] for kind in ("integer", "number") if kind in kinds]
            if numbers and len(kinds) > len(numbers):
                (place, number), (other, text) = numbers[0], kinds.get("text") or kinds["bool"]
                logger.warning(
                    f"the column {name!r} is stored as text: {place} has {number!r}, {other} has {text!r:.40}. Filters "
                    f"compare it as text"
                )
            elif numbers and self._type(name) == "text":
                logger.warning(f"the column {name!r} is stored as text: as numbers, 1.10 and 1.1 would be the same")

    def _type(self, name: str) -> str:
        kinds = self._seen.get(name, {}).keys()
        if kinds and kinds <= {"integer", "number"}:
            is_lossy = name in self._padded and len(self._decimals[name]) > 1  # versions, not amounts of money
            return "text" if is_lossy else "number" if "number" in kinds else "integer"
        return "bool" if kinds == {"bool"} else "text"

    def _add_decimals(self, name: str, value: str, kind: str) -> None:
        if kind == "number" and (match := _NUMBER.fullmatch(value)):
            decimals = match[1] or ""
            self._decimals.setdefault(name, set()).add(len(decimals))
            if len(decimals) > 1 and decimals.endswith("0"):
                self._padded.add(name)

    def _convert(self, name: str, value: str) -> Any:
        kind = self._type(name)
        if kind == "text":
            return value
        if value == "":
            return None
        return value.lower() == "true" if kind == "bool" else int(value) if kind == "integer" else float(value)


def _kind(value: object) -> str | None:
    if value is None:
        return None
    if isinstance(value, bool):
        return "true or false"
    if isinstance(value, (int, float)):
        return "a number"
    return "a string" if isinstance(value, str) else "a list" if isinstance(value, list) else "an object"


def _cell_kind(value: str) -> str | None:
    if value == "":
        return None
    if value.lower() in ("true", "false"):
        return "bool"
    if _INTEGER.fullmatch(value):
        return "integer" if -(2**63) <= int(value) < 2**63 else "text"
    return "number" if _NUMBER.fullmatch(value) and math.isfinite(float(value)) else "text"
