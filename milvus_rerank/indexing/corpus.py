"""Read passages from JSON lines, JSON arrays, tables, Parquet, folders of documents, or a folder in BEIR's layout."""

import io
import sys
from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from milvus_rerank.errors import InputError
from milvus_rerank.indexing.documents import SUFFIXES, read_document
from milvus_rerank.jsonl import open_input, read_objects, read_records
from milvus_rerank.requirements import require

MAX_TEXT_BYTES = 65535
"""The most bytes of UTF-8 that a VARCHAR field of Milvus holds."""
MAX_ID_BYTES = 512
TAKEN = frozenset({"id", "vector", "sparse", "$meta"})
"""Fields that the index fills; a passage's other keys cannot have these names."""


@dataclass(frozen=True, slots=True)
class Passage:
    """A document to index.

    :param id: the primary key.
    :param title: the title; "" without a title.
    :param body: the text as it is in the file.
    :param fields: the other keys, which become dynamic fields.
    """

    id: str
    title: str
    body: str
    fields: Mapping[str, Any] = field(default_factory=dict, hash=False)

    @property
    def text(self) -> str:
        """The text to embed, search and rerank: the title, a space and the body, as in BEIR's evaluations."""
        return f"{self.title} {self.body}".strip()


@dataclass(frozen=True, slots=True)
class CorpusOptions:
    """Names of the keys or columns of a corpus.

    :param text_field: the key of the text.
    :param id_field: the key of the id; None for ``_id`` or ``id``.
    :param title_field: the key of the title; documents need not have it.
    :param fields: the other keys to keep; None for all.
    """

    text_field: str = "text"
    id_field: str | None = None
    title_field: str = "title"
    fields: tuple[str, ...] | None = None


class Corpus:
    """Passages of a source, which can be read more than once.

    :param source: a file, a folder of documents or in BEIR's layout, or ``-`` for stdin.
    :param options: the names of its keys.
    :raises InputError: if the source does not exist, or has another form.
    """

    def __init__(self, source: Path, options: CorpusOptions | None = None) -> None:
        self.source = source
        self.options = options or CorpusOptions()
        self._content: bytes | None = None
        if str(source) == "-":
            if sys.stdin is None or sys.stdin.isatty():
                raise InputError("the source is -, but nothing comes from stdin; pipe a file in, or name one")
            self._content = sys.stdin.buffer.read()
        elif source.is_dir():
            if (source / "corpus.jsonl").is_file():
                self.source = source / "corpus.jsonl"
            elif not self._documents():
                raise InputError(
                    f"folder {source} has no corpus.jsonl, as BEIR's layout has, and no documents "
                    f"({', '.join(SUFFIXES)}); give such a folder, or a file"
                )
        elif not source.exists():
            raise InputError(f"{source} does not exist; give a file, or a folder of documents or in BEIR's layout")
        elif not source.is_file():
            raise InputError(f"{source} is a pipe or a device, which cannot be read twice; use - for stdin, or a file")

    def __iter__(self) -> Iterator[Passage]:
        """Yield the passages, in the source's order.

        :yields: the passages.
        :raises InputError: for an invalid record, a repeated id, a text too long for Milvus, or no passage at all; it
            names the file and the line.
        """
        seen: dict[str, str] = {}
        for where, record in self._records():
            passage = self._passage(record, where)
            place = where.rpartition(":")[2].strip()
            first = seen.setdefault(passage.id, place)
            if first is not place:
                shown = f"on line {first}" if first.isdigit() else f"that of {first}"
                raise InputError(f"{where}: the id {passage.id!r} is also {shown}; each must be unique")
            yield passage
        if not seen:
            raise InputError(f"{self.source} holds no passages")

    def _documents(self) -> list[Path]:
        return sorted(path for path in self.source.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file())

    def _records(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """Yield each record with its place, for errors."""
        source, name, suffix = self.source, str(self.source), self.source.suffix.lower()
        if self._content is None and source.is_dir():
            for path in self._documents():
                yield str(path), read_document(path, source)
        elif self._content is None and suffix in (".parquet", ".pq"):
            yield from _read_parquet(source)
        elif self._content is None and suffix in SUFFIXES:
            yield name, read_document(source, source.parent)
        elif self._content is None and suffix not in (".csv", ".tsv", ".json"):
            with open_input(source) as file:
                start = file.read(64)
                if start.lstrip(b"\xef\xbb\xbf \t\r\n")[:1] == b"{":
                    file.seek(0)
                    for number, record in read_objects(file, name):  # line by line: a corpus may be larger than memory
                        yield f"{name}:{number}", record
                    return
                content = start + file.read()
            yield from self._parsed(content, name)
        else:
            with open_input(source) if self._content is None else nullcontext(io.BytesIO(self._content)) as file:
                content = file.read()
            yield from self._parsed(content, "stdin" if self._content is not None else name)

    def _parsed(self, content: bytes, name: str) -> Iterator[tuple[str, dict[str, Any]]]:
        text_field = self.options.text_field
        records = read_records(content, name, text_field, missing_text=True)
        if records and all(set(record) == {text_field} for record in records) and self.options.id_field is None:
            raise InputError(f"{name} holds texts without ids; expected objects or a table with '_id' or --id-field")
        for number, record in enumerate(records, 1):
            yield f"{name}: record {number}", record

    def _passage(self, record: dict[str, Any], where: str) -> Passage:
        options, fields = self.options, dict(record)
        key = options.id_field or ("_id" if "_id" in fields else "id")
        if key not in fields:
            wanted = repr(key) if options.id_field else "'_id'"
            raise InputError(
                f"{where}: the object has no {wanted}; its keys are {sorted(record)}. Name the id's key with --id-field"
            )
        name = _id(fields.pop(key), key, where)
        if options.text_field not in fields:
            raise InputError(
                f"{where}: the document {name!r} has no {options.text_field!r}; its keys are {sorted(record)}. "
                "Name the text's key with --text-field"
            )
        body, title = fields.pop(options.text_field), fields.pop(options.title_field, None)
        for value, label in ((body, options.text_field), ("" if title is None else title, options.title_field)):
            if not isinstance(value, str):
                raise InputError(f"{where}: {label!r} of the document {name!r} must be a string, got {value!r:.60}")
        if options.fields is not None:
            absent = sorted(set(options.fields) - fields.keys())
            if absent:
                raise InputError(f"{where}: the document {name!r} has no {absent[0]!r}; its keys are {sorted(record)}")
            fields = {name: fields[name] for name in options.fields}
        taken = sorted((TAKEN | {"text", "title"}) & fields.keys())
        if taken:
            raise InputError(f"{where}: the index needs the key {taken[0]!r} itself; rename it")
        large = [key for key, value in fields.items() if not _fits(value)]
        if large:
            raise InputError(
                f"{where}: {large[0]!r} of the document {name!r} holds an integer of more than 64 bits, Milvus' limit; "
                f"store it as a string"
            )
        passage = Passage(name, title or "", body, fields)
        size = len(passage.text.encode())
        if size > MAX_TEXT_BYTES:
            raise InputError(
                f"{where}: title and text of the document {name!r} have {size} bytes, but a field of Milvus holds at "
                f"most {MAX_TEXT_BYTES}; split the document into passages"
            )
        return passage


def _read_parquet(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the rows of a Parquet file, a batch of them at a time."""
    require(f"reading {path}", "pyarrow")
    import pyarrow
    from pyarrow import parquet

    try:
        with parquet.ParquetFile(path) as file:
            number = 0
            for batch in file.iter_batches(1024):
                for row in batch.to_pylist():
                    number += 1
                    yield (
                        f"{path}: row {number}",
                        {name: _plain(value) for name, value in row.items() if value is not None},
                    )
    except (OSError, pyarrow.ArrowException) as error:
        raise InputError(f"{path} cannot be read as Parquet: {error}") from error


def _plain(value: Any) -> Any:
    """Return a value that Milvus' JSON can hold: times as text."""
    return value if isinstance(value, (str, bool, int, float, list, dict)) else str(value)


def _fits(value: object) -> bool:
    """Return True if Milvus' JSON can hold a value: its integers have 64 bits."""
    if isinstance(value, dict):
        return all(map(_fits, value.values()))
    if isinstance(value, list):
        return all(map(_fits, value))
    return not isinstance(value, int) or -(2**63) <= value < 2**63


def _id(value: object, key: str, where: str) -> str:
    if isinstance(value, bool) or not isinstance(value, (str, int)) or not str(value).strip():
        raise InputError(f"{where}: {key!r} must be a string or an integer, got {value!r:.60}")
    if any(char < " " and char not in "\n\r\t" for char in str(value)):
        # Stored passages are looked up with Milvus' filters, which cannot express other control characters.
        raise InputError(f"{where}: {key!r} must not hold a control character, got {value!r:.60}; remove it")
    if len(str(value).encode()) > MAX_ID_BYTES:
        raise InputError(f"{where}: {key!r} must have at most {MAX_ID_BYTES} bytes, got {str(value)[:40]}...")
    return str(value)
