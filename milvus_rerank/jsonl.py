"""Read JSON lines and text lines; every error names the file and the line."""

import json
import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from milvus_rerank.errors import InputError


@contextmanager
def open_input(path: Path) -> Iterator[BinaryIO]:
    """Open a file for reading bytes; raise an ``InputError`` if that fails."""
    try:
        file = path.open("rb")
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}") from error
    with file:
        yield file


def read_lines(lines: Iterable[bytes], name: str) -> Iterator[tuple[int, str]]:
    """Yield the number, from 1, and the stripped text of each line that is not blank; ``name`` is for errors."""
    for number, line in enumerate(lines, 1):
        try:
            text = line.decode("utf-8-sig" if number == 1 else "utf-8").strip()
        except UnicodeDecodeError as error:
            raise InputError(f"{name}:{number}: is not UTF-8 text: {error.reason} at byte {error.start}") from error
        if text:
            yield number, text


def parse_object(text: str, where: str) -> dict[str, Any]:
    """Return the JSON object of a line; ``where`` is ``file:line``, for an error."""
    try:
        value = json.loads(text, parse_constant=_no_constant, parse_float=_finite)
    except json.JSONDecodeError as error:
        shown = text if len(text) <= 60 else text[:57] + "..."
        raise InputError(f"{where}: is not JSON ({error.msg} at column {error.colno}): {shown}") from error
    except ValueError as error:  # a constant such as NaN, or a number that is too large
        raise InputError(f"{where}: cannot be read as JSON ({error})") from error
    except RecursionError as error:
        raise InputError(f"{where}: is nested too deeply to be read as JSON") from error
    if not isinstance(value, dict):
        raise InputError(f"{where}: expected a JSON object, one a line, got {type(value).__name__}")
    if "\\ud" in text.lower() and not _is_unicode(value):
        raise InputError(f"{where}: holds half of a surrogate pair (\\ud800 to \\udfff), which is no character")
    return value


def read_objects(lines: Iterable[bytes], name: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield the number, from 1, and the JSON object of each line that is not blank; ``name`` is for errors."""
    for number, text in read_lines(lines, name):
        yield number, parse_object(text, f"{name}:{number}")


def read_records(lines: Iterable[bytes], name: str, text_field: str, form: str = "auto") -> list[dict[str, Any]]:
    """Read texts as objects, each with its text under ``text_field``.

    :param lines: the lines as bytes.
    :param name: the name of the input in an error.
    :param text_field: the key of the text.
    :param form: ``text`` for a text per line, ``jsonl`` for an object per line; ``auto`` for objects if the first line
        starts like an object.
    :returns: one object per line that is not blank.
    :raises InputError: for an invalid line, or an object without a text; the message names the line.
    """
    numbered = list(read_lines(lines, name))
    if form == "text" or (form == "auto" and not (numbered and numbered[0][1].startswith("{"))):
        return [{text_field: text} for _, text in numbered]
    records = []
    for number, text in numbered:
        record = parse_object(text, f"{name}:{number}")
        if not isinstance(record.get(text_field), str):
            state = f"is {record[text_field]!r:.40}, no string" if text_field in record else "is missing"
            raise InputError(
                f"{name}:{number}: {text_field!r} {state}; the object has the keys {sorted(record)}. "
                f"Name the text's key with --text-field"
            )
        records.append(record)
    return records


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON number")


def _finite(digits: str) -> float:
    value = float(digits)
    if not math.isfinite(value):
        raise ValueError(f"{digits:.40} is more than a number of 64 bits holds")
    return value


def _is_unicode(value: object) -> bool:
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return False
    return True
