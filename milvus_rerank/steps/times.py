"""Dates and durations: of options, and of the fields of hits."""

import re
from datetime import date, datetime, timedelta, timezone
from typing import Any, Literal, get_args

from milvus_rerank.errors import InputError
from milvus_rerank.validation import describe

Unit = Literal["s", "ms", "us"]
"""Units of fields with times as numbers since 1970: seconds, milliseconds or microseconds."""

UNITS: tuple[Unit, ...] = get_args(Unit)
_PER_SECOND = {"s": 1, "ms": 1_000, "us": 1_000_000}
_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*(s|min|h|d|w)")
_SECONDS = {"s": 1, "min": 60, "h": 3_600, "d": 86_400, "w": 604_800}


def is_time(value: object) -> bool:
    """Return True if an origin is a date, not a number: a ``datetime``, a ``date``, or any text."""
    return isinstance(value, (str, date))


def read_time(value: object, name: str, unit: Unit | None = None) -> float:
    """Return a time as seconds since 1970; a time without a zone is UTC.

    :param value: a ``datetime``, a ``date``, a text in the form of ISO 8601, or with a unit a number.
    :param name: its name in an error.
    :param unit: the unit of a number; None if numbers are not times.
    :returns: the seconds.
    :raises InputError: for any other value.
    """
    if isinstance(value, (int, float)) and not isinstance(value, bool) and unit is not None:
        return value / _PER_SECOND[unit]
    if isinstance(value, str):
        value = _parse(value, name)
    if isinstance(value, date) and not isinstance(value, datetime):
        value = datetime(value.year, value.month, value.day)
    if not isinstance(value, datetime):
        advice = ""
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            advice = "; say with unit='s', 'ms' or 'us' what its numbers since 1970 count"
        raise InputError(f"{name} must be a date such as '2026-05-01' or '2026-05-01T12:00:00Z', got {value!r}{advice}")
    return (value if value.tzinfo else value.replace(tzinfo=timezone.utc)).timestamp()


def read_duration(value: Any, name: str) -> float:
    """Return a duration in seconds.

    :param value: a ``timedelta``, or a text such as ``30d``, ``12h``, ``15min``, ``90s`` or ``2w``.
    :param name: its name in an error.
    :returns: the seconds.
    :raises InputError: for any other value.
    """
    if isinstance(value, timedelta):
        return value.total_seconds()
    match = _DURATION.fullmatch(value.strip()) if isinstance(value, str) else None
    if match is None:
        raise InputError(
            f"{name} must be a duration such as '30d' (s, min, h, d, w), as origin is a date, got {describe(value)}"
        )
    return float(match[1]) * _SECONDS[match[2]]


def _parse(text: str, name: str) -> datetime:
    try:
        return datetime.fromisoformat(re.sub(r"[zZ]$", "+00:00", text.strip()))  # Python 3.10 reads no Z
    except ValueError:
        raise InputError(
            f"{name} must be a date such as '2026-05-01' or '2026-05-01T12:00:00Z', got {text[:60]!r}"
        ) from None
