"""Read texts from JSON lines, JSON arrays, tables and text lines; every error names the file and the line."""

import csv
import io
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


def read_records(
    content: bytes, name: str, text_field: str, form: str = "auto", *, missing_text: bool = False
) -> list[dict[str, Any]]:
    """Read texts as objects, each with its text under ``text_field``.

    :param content: the bytes of the input, as UTF-8, or as UTF-16 with its mark at the beginning.
    :param name: the name of the input in an error.
    :param text_field: the key or the column of the text.
    :param form: ``text`` for a text a line, ``jsonl`` for an object a line, ``json`` for an array of texts or objects,
        ``csv`` and ``tsv`` for a table with a line of names; ``auto`` looks at the name and the beginning.
    :param missing_text: return objects without a text, too: the caller has a better error for them.
    :returns: one object per text; blank lines are skipped.
    :raises InputError: for another form, an invalid line, or an object without a text; the message names the line.
    """
    content = _utf8(content, name)
    start = content.lstrip(b"\xef\xbb\xbf \t\r\n")[:1]
    if form == "auto":
        suffix = Path(name).suffix.lower().lstrip(".")
        form = suffix if suffix in ("csv", "tsv") else "jsonl" if start == b"{" else "text"
        if start == b"[" and (suffix == "json" or _is_json(content)):
            form = "json"
    if form in ("csv", "tsv"):
        return _read_table(content, name, "" if missing_text else text_field, "," if form == "csv" else "\t")
    if form == "json":
        return _read_array(content, name, text_field, missing_text)
    numbered = read_lines(content.splitlines(), name)
    if form == "text":
        return [{text_field: text} for _, text in numbered]
    objects = [(f"{name}:{number}", parse_object(text, f"{name}:{number}")) for number, text in numbered]
    return [record if missing_text else _with_text(record, where, text_field) for where, record in objects]


def _utf8(content: bytes, name: str) -> bytes:
    """Return the input as UTF-8; raise InputError, which names the form, for files that hold no text."""
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        try:
            return content.decode("utf-16").encode()
        except UnicodeError as error:
            raise InputError(f"{name}: begins like UTF-16 text but is none: {error}") from error
    kind = next((kind for magic, kind in _BINARY.items() if content.startswith(magic)), None)
    if kind is None and b"\0" in content[:4096]:
        kind = "binary data"
    if kind is not None:
        raise InputError(f"{name} is {kind}; expected text lines, JSON lines, a JSON array, or a CSV table")
    return content


_BINARY = {
    b"\x1f\x8b": "compressed with gzip",
    b"BZh": "compressed with bzip2",
    b"\xfd7zXZ": "compressed with xz",
    b"\x28\xb5\x2f\xfd": "compressed with zstd",
    b"PK\x03\x04": "a zip archive or an office document",
    b"%PDF": "a PDF document",
    b"PAR1": "a Parquet file",
}
"""First bytes of files that are no text."""


def _is_json(content: bytes) -> bool:
    try:
        return isinstance(json.loads(content), list)
    except (ValueError, RecursionError):
        return False


def _read_array(content: bytes, name: str, text_field: str, missing_text: bool) -> list[dict[str, Any]]:
    try:
        values = json.loads(content.decode("utf-8-sig"), parse_constant=_no_constant, parse_float=_finite)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{name} cannot be read as a JSON array: {error}") from error
    if not isinstance(values, list):
        raise InputError(f"{name}: expected a JSON array of texts or objects, got {type(values).__name__}")
    records = []
    for index, value in enumerate(values):
        if not isinstance(value, (str, dict)):
            raise InputError(f"{name}: item {index} must be a text or an object, got {type(value).__name__}")
        record = {text_field: value} if isinstance(value, str) else value
        if not _is_unicode(record):
            raise InputError(f"{name}: item {index} holds half of a surrogate pair, which is no character")
        records.append(record if missing_text else _with_text(record, f"{name}: item {index}", text_field))
    return records


def _read_table(content: bytes, name: str, text_field: str, delimiter: str) -> list[dict[str, Any]]:
    try:
        lines = io.StringIO(content.decode("utf-8-sig"), newline="")
    except UnicodeDecodeError as error:
        raise InputError(f"{name} is not UTF-8 text: {error.reason} at byte {error.start}") from error
    table = csv.DictReader(lines, delimiter=delimiter, strict=True)
    records = []
    try:
        for row in table:
            where = f"{name}:{table.line_num}"
            if None in row or None in row.values():
                raise InputError(f"{where}: expected {len(table.fieldnames or ())} columns, as the first line has")
            records.append(_with_text(row, where, text_field) if text_field else row)
    except csv.Error as error:
        raise InputError(f"{name}:{table.line_num}: cannot be read as a table: {error}") from error
    if not records and text_field and table.fieldnames and text_field not in table.fieldnames:
        _with_text(dict.fromkeys(table.fieldnames, ""), f"{name}:1", text_field)
    return records


def _with_text(record: dict[str, Any], where: str, text_field: str) -> dict[str, Any]:
    if not isinstance(record.get(text_field), str):
        state = f"is {record[text_field]!r:.40}, no string" if text_field in record else "is missing"
        raise InputError(
            f"{where}: {text_field!r} {state}; the object has the keys {sorted(record)}. "
            f"Name the text's key with --text-field"
        )
    return record


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
