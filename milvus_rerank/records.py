"""Read records from text lines, JSON lines, JSON arrays, tables and Parquet; errors name the file and the line."""

import csv
import datetime
import decimal
import io
import json
import math
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any, BinaryIO, Literal, TypeAlias

from milvus_rerank.errors import InputError
from milvus_rerank.jsonl import bad_line, finite, is_unicode, no_constant, parse_object, read_lines
from milvus_rerank.requirements import require

Form: TypeAlias = Literal["auto", "text", "jsonl", "json", "csv", "tsv", "parquet"]
Record: TypeAlias = dict[str, Any]
TABLES = ("csv", "tsv")
"""Forms whose values are all strings."""

_SUFFIXES: dict[str, Form] = {
    ".csv": "csv", ".tsv": "tsv", ".tab": "tsv", ".jsonl": "jsonl", ".ndjson": "jsonl", ".parquet": "parquet",
}  # fmt: skip
_MAGIC = {
    b"\x1f\x8b": ("compressed with gzip", "zcat"),
    b"BZh": ("compressed with bzip2", "bzcat"),
    b"\xfd7zXZ": ("compressed with xz", "xzcat"),
    b"\x28\xb5\x2f\xfd": ("compressed with zstd", "zstdcat"),
    b"PK\x03\x04": ("a zip archive or an office document", ""),
    b"%PDF": ("a PDF document", ""),
}
"""First bytes of files that hold no records: what they are, and the command that prints what they hold."""
_UTF16_MARKS = (b"\xff\xfe", b"\xfe\xff")
_UTF32_MARKS = (b"\xff\xfe\x00\x00", b"\x00\x00\xfe\xff")
_PARQUET = b"PAR1"
_LOOK = 4096  # bytes that decide the form
_LONGEST_CELL = 2**27  # characters; the csv module allows 131,072, and long texts are split later


def read_records(
    file: BinaryIO, name: str, form: Form = "auto", text_field: str = "text"
) -> Iterator[tuple[str, Record]]:
    """Return the records of a file, read one by one.

    :param file: the file. Text is UTF-8, or UTF-16 or UTF-32 with a mark at the beginning.
    :param name: the name of the file in errors; its suffix helps to tell the form.
    :param form: ``text`` for a text a line, ``jsonl`` for an object a line, ``json`` for an array of texts or objects,
        ``csv`` and ``tsv`` for a table with a line of names, ``parquet``; ``auto`` looks at the name and the beginning.
    :param text_field: the key of a text that is not in an object; a table must have a column of this name.
    :returns: for each record its place, such as ``a.csv:3``, and its values. Blank lines are skipped.
    :raises InputError: for another form, or a record that cannot be read; the message names the place.
    :raises MissingDependencyError: for Parquet without pyarrow.
    """
    file = _utf8(file if file.seekable() else io.BytesIO(file.read()), name, form)
    form = form_of(file, name, form)
    if form == "parquet":
        return _read_parquet(file, name, text_field)
    if form in TABLES:
        return _read_table(file, name, text_field, "\t" if form == "tsv" else ",")
    if form == "json":
        return _read_array(file, name, text_field)
    if form == "text":
        return ((f"{name}:{number}", {text_field: text}) for number, text in read_lines(file, name))
    return ((f"{name}:{number}", parse_object(text, f"{name}:{number}")) for number, text in read_lines(file, name))


def text_of(record: Record, where: str, text_field: str) -> str:
    """Return the text of a record; raise an ``InputError`` if it is missing or no string."""
    text = record.get(text_field)
    if not isinstance(text, str):
        state = f"is {text!r:.40}, no string" if text_field in record else "is missing"
        raise InputError(
            f"{where}: {text_field!r} {state}; the object has the keys {sorted(record)}. "
            f"Name the text's key with --text-field"
        )
    return text


def check_text_file(start: bytes, name: str) -> None:
    """Raise an ``InputError`` if the first bytes of a file are not those of UTF-8 text; it says what to type."""
    kind, command = next((kind for magic, kind in _MAGIC.items() if start.startswith(magic)), ("", ""))
    if command:
        raise InputError(f"{name} is {kind}; unpack it and read it from a pipe: {command} {name} | milvus-rerank ... -")
    if not kind and start.startswith(_PARQUET):
        kind = "a Parquet file"
    if not kind and b"\0" in start:
        halves = start[: len(start) // 2 * 2]
        blank = max(halves[0::2].count(0), halves[1::2].count(0))
        if blank > len(halves) // 4:
            raise InputError(f"{name} looks like UTF-16 without its mark; {_convert(name, 'UTF-16LE')}")
        kind = "binary data"
    if kind:
        raise InputError(
            f"{name} is {kind}; expected text lines, JSON lines, a JSON array, a CSV or TSV table, or Parquet"
        )


def decode_text(content: bytes, name: str) -> str:
    """Return the text of a file in UTF-8, or in UTF-16 or UTF-32 with its mark.

    :param content: the bytes of the file.
    :param name: the name of the file in errors.
    :returns: the text, without a mark.
    :raises InputError: for bytes in another encoding; it names the line.
    """
    encoding = _marked(content)
    if encoding:
        try:
            return content.decode(encoding)
        except UnicodeError as error:
            raise InputError(f"{name} begins like {encoding.upper()} text but is none: {error}") from error
    check_text_file(content[:_LOOK], name)
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise bad_line(f"{name}:{line}", error, name) from error


def _marked(start: bytes) -> str:
    return "utf-32" if start.startswith(_UTF32_MARKS) else "utf-16" if start.startswith(_UTF16_MARKS) else ""


def _utf8(file: BinaryIO, name: str, form: Form) -> BinaryIO:
    """Return a file of text as UTF-8; raise an ``InputError`` for another file, unless it is Parquet."""
    start = _start(file)
    if form == "parquet" or (form == "auto" and start.startswith(_PARQUET)):
        return file
    if _marked(start):
        return io.BytesIO(decode_text(file.read(), name).encode("utf-8", "surrogatepass"))
    check_text_file(start, name)
    return file


def _start(file: BinaryIO) -> bytes:
    start = file.read(_LOOK)
    file.seek(0)
    return start


def _convert(name: str, encoding: str) -> str:
    return f"convert it: iconv -f {encoding} -t UTF-8 {name} > NEW"


def form_of(file: BinaryIO, name: str, form: Form = "auto") -> Form:
    """Return the form of a file by its name and its beginning; a form that is not ``auto`` stays."""
    suffix, start = Path(name).suffix.lower(), _start(file)
    if form != "auto":
        return form
    if start.startswith(_PARQUET):
        return "parquet"
    if suffix in _SUFFIXES:
        return _SUFFIXES[suffix]
    first = start.decode("utf-16" if _marked(start) == "utf-16" else "utf-8-sig", "replace").lstrip()[:1]
    if first == "[" and (suffix == ".json" or isinstance(_loads(file), list)):
        return "json"
    if first == "{" and suffix == ".json" and isinstance(value := _loads(file), dict) and _has_lines(file):
        raise InputError(
            f"{name} is one JSON object with the keys {sorted(value)}; expected an array of objects, or one a line"
        )
    return "jsonl" if first == "{" or suffix == ".json" else "text"


def _loads(file: BinaryIO) -> Any:
    try:
        return json.loads(file.read())
    except (ValueError, RecursionError):
        return None
    finally:
        file.seek(0)


def _has_lines(file: BinaryIO) -> bool:
    try:
        return b"\n" in file.read().strip()
    finally:
        file.seek(0)


def _read_array(file: BinaryIO, name: str, text_field: str) -> Iterator[tuple[str, Record]]:
    try:
        values = json.loads(decode_text(file.read(), name), parse_constant=no_constant, parse_float=finite)
    except InputError:
        raise
    except (ValueError, RecursionError) as error:
        raise InputError(f"{name} cannot be read as a JSON array: {error}") from error
    if not isinstance(values, list):
        raise InputError(f"{name}: expected a JSON array of texts or objects, got {type(values).__name__}")
    for index, value in enumerate(values):
        where = f"{name}: item {index}"
        if not isinstance(value, (str, dict)):
            raise InputError(f"{where} must be a text or an object, got {type(value).__name__}")
        record = {text_field: value} if isinstance(value, str) else value
        if not is_unicode(record):
            raise InputError(f"{where} holds half of a surrogate pair, which is no character")
        yield where, record


def _read_table(file: BinaryIO, name: str, text_field: str, delimiter: str) -> Iterator[tuple[str, Record]]:
    csv.field_size_limit(max(csv.field_size_limit(), _LONGEST_CELL))
    lines = io.TextIOWrapper(file, "utf-8-sig", newline="")
    line = 1
    try:
        first = next(lines, "")
        if delimiter == "," and "," not in first:  # as spreadsheets of some countries write them
            delimiter = next((other for other in ";\t" if other in first), delimiter)
        rows = csv.reader(chain([first], lines), delimiter=delimiter, strict=True)
        names = next(rows, [])
        if names:
            _check_header(names, f"{name}:1", text_field)
        line = rows.line_num + 1
        for row in rows:
            where, line = f"{name}:{line}", rows.line_num + 1
            if not row:
                continue
            if len(row) != len(names):
                raise InputError(f"{where}: expected {len(names)} columns, as the first line has, got {len(row)}")
            yield where, dict(zip(names, row, strict=True))
    except csv.Error as error:
        raise InputError(f"{name}:{line}: cannot be read as a table: {error}") from error
    except UnicodeDecodeError:
        lines.seek(0)
        for _ in read_lines(lines.buffer, name):  # raises the error with its line
            pass
        raise
    finally:
        lines.detach()


def _check_header(names: list[str], where: str, text_field: str) -> None:
    double = next((name for index, name in enumerate(names) if name in names[:index]), None)
    if double is not None:
        raise InputError(f"{where}: two columns are called {double!r}; rename one of them")
    if text_field not in names:
        raise InputError(
            f"{where}: the table has no column {text_field!r}; its columns are {names}. "
            f"Name the text's column with --text-field"
        )


def _read_parquet(file: BinaryIO, name: str, text_field: str) -> Iterator[tuple[str, Record]]:
    require(f"reading {name}", "pyarrow")
    from pyarrow import ArrowException
    from pyarrow.parquet import ParquetFile

    try:
        table = ParquetFile(file)
        _check_header(table.schema_arrow.names, name, text_field)
        number = 0
        for batch in table.iter_batches(batch_size=1024):
            for row in batch.to_pylist():
                number += 1
                where = f"{name}: row {number}"
                yield where, {key: _json_value(value, f"{where}: {key!r}") for key, value in row.items()}
    except (ArrowException, OSError) as error:
        raise InputError(f"{name} cannot be read as Parquet: {error}") from error


def _json_value(value: Any, what: str) -> Any:
    """Return a value of a Parquet file as JSON can hold it, without loss."""
    if isinstance(value, dict):
        return {key: _json_value(item, what) for key, item in value.items()}
    if isinstance(value, list):
        return [_json_value(item, what) for item in value]
    if isinstance(value, (datetime.date, datetime.time)):
        return value.isoformat()
    if isinstance(value, float):
        if math.isinf(value):
            raise InputError(f"{what} is infinite, which Milvus cannot store")
        return None if math.isnan(value) else value  # pandas writes missing numbers as NaN
    if isinstance(value, decimal.Decimal):
        if value.is_finite() and decimal.Decimal(repr(float(value))) == value:
            return float(value)
        raise InputError(f"{what} has more digits than a number of 64 bits holds; store it as a string")
    if value is None or isinstance(value, (str, bool, int)):
        return value
    raise InputError(
        f"{what} is of the type {type(value).__name__}, which Milvus' JSON cannot hold; store it as a string, or "
        f"leave the column out with --fields"
    )
