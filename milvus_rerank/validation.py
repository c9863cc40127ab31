"""Checks of user input: each error says what was given and what was expected."""

import ipaddress
import math
from collections.abc import Iterable, Mapping, Sequence, Set
from typing import Any

from milvus_rerank.errors import InputError

_TEXT_NAMES = ("text", "content", "page_content", "body", "passage")  # of documents in Milvus examples and frameworks


def check_text(text: object, name: str) -> str:
    """Return a text if it is a string of whole Unicode characters; an empty string is allowed.

    :param text: the caller's value.
    :param name: the name of the argument in an error.
    :returns: the same text.
    :raises InputError: if the value is not a string, or holds half of a surrogate pair, as JSON can.
    """
    if not isinstance(text, str):
        raise InputError(f"{name} must be a string, got {describe(text)}{_where_the_text_is(text)}")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InputError(
            f"{name} holds half of a surrogate pair at position {error.start}, which is no Unicode text; "
            "decode it with errors='replace'"
        ) from error
    return text if type(text) is str else str(text)  # numpy strings are of a subclass of str


def check_documents(documents: object, name: str = "documents") -> list[str]:
    """Return the documents as a list if each is a string.

    :param documents: any iterable of strings except a string.
    :param name: the name of the argument in an error.
    :returns: the documents in their order; an empty list is allowed.
    :raises InputError: for a single string, a value that is not iterable, or an item that is not a string.
    """
    return [check_text(item, f"{name}[{index}]") for index, item in enumerate(check_list(documents, name, "strings"))]


def check_list(items: object, name: str, of: str) -> list[object]:
    """Return any iterable as a list, but refuse containers that hold something else than what the caller means.

    Iterating over a table gives names of columns, over a mapping its keys, and over a set an order by chance.

    :param items: the caller's value.
    :param name: the name of the argument in an error.
    :param of: the expected items, in plural.
    :returns: the items.
    :raises InputError: if the value is a string, bytes, a mapping, a set, a table or one of its columns, or not
        iterable; the message says what to pass.
    """
    if isinstance(items, (list, tuple)):
        return list(items)
    if isinstance(items, str):
        raise InputError(f"{name} must be a list of {of}, got a single string; write [{items[:40]!r}]")
    advice = _what_to_pass(items, name)
    if advice or isinstance(items, (bytes, bytearray, memoryview)) or not isinstance(items, Iterable):
        raise InputError(f"{name} must be a list of {of}, got {describe(items)}{advice}")
    return list(items)


def _what_to_pass(items: object, name: str) -> str:
    """Return advice for a container whose iteration does not give its items in their order; "" for any other value."""
    columns = getattr(items, "columns", None)
    if columns is not None and hasattr(items, "shape"):  # a table of pandas, polars or pyarrow
        return f"; pass one of its columns as a list, such as {name}[{_column(columns)!r}].tolist()"
    if hasattr(items, "to_frame"):  # a column of pandas or polars: its labels need not be positions
        return f"; pass {name}.{'tolist' if hasattr(items, 'tolist') else 'to_list'}()"
    if isinstance(items, Mapping):
        return f"; pass its values in the order that result.index shall count: list({name}.values())"
    if isinstance(items, Set):
        return f"; a set has no order for result.index to count: pass sorted({name})"
    return ""


def _column(columns: Any) -> str:
    names = [str(getattr(column, "_name", column)) for column in columns]
    return next(
        (name for name in names if name in ("text", "content", "body", "passage")), names[0] if names else "text"
    )


def _where_the_text_is(item: object) -> str:
    """Return advice for a document that is an object with a text, such as a dict or a framework's document."""
    if isinstance(item, Mapping):
        key = next((name for name in _TEXT_NAMES if isinstance(item.get(name), str)), None)
        return f"; pass its text, such as document[{key!r}]" if key else "; pass its text"
    if hasattr(item, "ravel"):  # a row of an array
        return "; pass a flat list, such as array.ravel().tolist()"
    name = next((name for name in _TEXT_NAMES if isinstance(getattr(item, name, None), str)), None)
    return f"; pass its text, such as document.{name}" if name else ""


def check_top_k(top_k: object) -> int | None:
    """Return the number of results to keep as a positive integer; None for 0 and None, which both mean all.

    :param top_k: the caller's value.
    :returns: the number, or None.
    :raises InputError: for a negative number or a value that is not an integer.
    """
    if top_k is None:
        return None
    number = as_int(top_k)
    if number is None:
        raise InputError(f"top_k must be an integer, 0 or None for all results, got {describe(top_k)}")
    if number < 0:
        raise InputError(f"top_k must not be negative, got {number}; 0 or None returns all results")
    return number or None


def check_count(value: object, name: str, *, least: int = 1) -> int:
    """Return an integer of at least 1, or of 0 for none; raise InputError, which names the option, for other values."""
    number = as_int(value)
    if number is None or number < least:
        expected = "a positive integer" if least else "an integer, 0 for none"
        raise InputError(f"{name} must be {expected}, got {describe(value)}")
    return number


def check_threshold(threshold: object) -> float | None:
    """Return the least score to keep as a float, None for no limit; raise InputError for NaN and what is no number."""
    if threshold is None:
        return None
    try:
        number = math.nan if isinstance(threshold, (bool, str, bytes)) else float(threshold)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if math.isnan(number):
        raise InputError(f"threshold must be a number or None, got {describe(threshold)}")
    return number


def check_choice(value: object, name: str, choices: Sequence[str]) -> str:
    """Return a value that is one of the allowed words; raise InputError, which lists them, for any other value."""
    if not isinstance(value, str) or value not in choices:
        raise InputError(f"{name} must be one of {', '.join(map(repr, choices))}, got {value!r}")
    return value


def is_loopback(host: str) -> bool:
    """Return True if only this machine can reach an address."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def as_int(value: object) -> int | None:
    """Return an int or numpy integer as an int; None for any other value, including a bool."""
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        return None
    return int(value.__index__())


def describe(value: object) -> str:
    """Return the type and the beginning of the ``repr`` of a value, for an error."""
    text = repr(value)
    return f"{type(value).__name__}: {text if len(text) <= 60 else text[:57] + '...'}"
