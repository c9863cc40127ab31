"""Read text lines and JSON lines; every error names the file and the line."""

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
            raise bad_line(f"{name}:{number}", error, name) from error
        if text:
            yield number, text


def bad_line(where: str, error: UnicodeDecodeError, name: str) -> InputError:
    """Return the error for a line that is not UTF-8; it says how to convert the file."""
    return InputError(
        f"{where}: is not UTF-8 text: {error.reason} at byte {error.start}. Convert the file from its encoding, for "
        f"example: iconv -f WINDOWS-1252 -t UTF-8 {name} > NEW"
    )


def parse_object(text: str, where: str) -> dict[str, Any]:
    """Return the JSON object of a line; ``where`` is ``file:line``, for an error."""
    try:
        value = json.loads(text, parse_constant=no_constant, parse_float=finite)
    except json.JSONDecodeError as error:
        shown = text if len(text) <= 60 else text[:57] + "..."
        raise InputError(f"{where}: is not JSON ({error.msg} at column {error.colno}): {shown}") from error
    except ValueError as error:  # a constant such as NaN, or a number that is too large
        raise InputError(f"{where}: cannot be read as JSON ({error})") from error
    except RecursionError as error:
        raise InputError(f"{where}: is nested too deeply to be read as JSON") from error
    if not isinstance(value, dict):
        raise InputError(f"{where}: expected a JSON object, one a line, got {type(value).__name__}")
    if "\\ud" in text.lower() and not is_unicode(value):
        raise InputError(f"{where}: holds half of a surrogate pair (\\ud800 to \\udfff), which is no character")
    return value


def read_objects(lines: Iterable[bytes], name: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield the number, from 1, and the JSON object of each line that is not blank; ``name`` is for errors."""
    for number, text in read_lines(lines, name):
        yield number, parse_object(text, f"{name}:{number}")


def no_constant(name: str) -> None:
    """Refuse NaN and Infinity in JSON."""
    raise ValueError(f"{name} is no JSON number")


def finite(digits: str) -> float:
    """Return a number of JSON; raise a ``ValueError`` if it is too large."""
    value = float(digits)
    if not math.isfinite(value):
        raise ValueError(f"{digits:.40} is more than a number of 64 bits holds")
    return value


def is_unicode(value: object) -> bool:
    """Return False if a text in a JSON value holds half of a surrogate pair."""
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return False
    return True
