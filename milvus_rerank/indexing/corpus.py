"""Read a corpus: the passages of a file, a folder or a pipe, checked before anything is written."""

import json
import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

from milvus_rerank.errors import InputError, write_errors
from milvus_rerank.indexing.fields import Fields
from milvus_rerank.indexing.source import MORE_SPACE, CorpusSource, open_source, temporary_file
from milvus_rerank.records import TABLES, Form, Record, text_of

MAX_TEXT_BYTES = 65535
"""The most bytes of UTF-8 that a VARCHAR field of Milvus holds."""
MAX_ID_BYTES = 512
TAKEN = frozenset({"id", "vector", "sparse", "$meta", "title", "text"})
"""Fields that the index fills; a passage's other keys cannot have these names."""
PART_FIELDS = ("document", "part", "parts")
"""Fields of a part of a split document: the id of the document, the part's number from 1, and their number."""
ROW = "@row"
"""The ``id_field`` that numbers the records."""

logger = logging.getLogger(__name__)

Split = Callable[[str, str], list[str]]
"""A function from the title and the text of a document to its parts."""


@dataclass(frozen=True, slots=True)
class Passage:
    """A document, or a part of one, to index.

    :param id: the primary key.
    :param title: the title; "" without a title.
    :param body: the text as it is in the file.
    :param fields: the other keys, which become dynamic fields.
    :param document: the id of the document of which this is a part; "" for a whole document.
    """

    id: str
    title: str
    body: str
    fields: Mapping[str, Any] = field(default_factory=dict, hash=False)
    document: str = ""

    @property
    def text(self) -> str:
        """The text to embed, search and rerank: the title, a space and the body, as in BEIR's evaluations."""
        return f"{self.title} {self.body}".strip()


@dataclass(frozen=True, slots=True)
class CorpusOptions:
    """How the records of a source become passages.

    :param form: the form of a file, as :func:`~milvus_rerank.records.read_records` takes it.
    :param text_field: the key or column of the text.
    :param id_field: the key or column of the id; ``@row`` numbers the records from 1; None for ``_id`` or ``id``.
    :param fields: the other keys or columns to store; None for all.
    :param split: splits long texts into parts; None for none.
    """

    form: Form = "auto"
    text_field: str = "text"
    id_field: str | None = None
    fields: tuple[str, ...] | None = None
    split: Split | None = None


@dataclass(frozen=True, slots=True)
class Corpus:
    """A corpus that was read once, and is valid; iterating reads it again.

    :param total: the number of passages.
    :param read: starts to read the passages.
    """

    total: int
    read: Callable[[], Iterator[Passage]]

    def __iter__(self) -> Iterator[Passage]:
        return self.read()


@contextmanager
def open_corpus(
    source: Path, options: CorpusOptions = CorpusOptions(), stdin: BinaryIO | None = None
) -> Iterator[Corpus]:
    """Read a corpus, check all of it, and yield it for another reading.

    :param source: a JSONL file, a JSON array, a CSV or TSV table, a Parquet file, a folder in BEIR's layout, or a
        folder of text, Markdown, HTML and PDF files; ``-`` for ``stdin``.
    :param options: how records become passages.
    :param stdin: the file that ``-`` names.
    :yields: the corpus.
    :raises InputError: for a source without passages, an invalid record, a repeated id, a text that is too long for
        Milvus, or a field whose values have different types; it names the file and the line.
    :raises MissingDependencyError: if the reader of a form is not installed.
    """
    with open_source(source, stdin if str(source) == "-" else None) as opened:
        read = partial(_passages, opened, options)
        fields = Fields(opened.form(options.form) in TABLES, () if options.split is None else PART_FIELDS)
        with _spool(opened, options) as spool:
            ids: dict[str, str] = {}
            for where, passage in read():
                first = ids.setdefault(passage.id, where)
                if first != where:
                    raise InputError(f"{where}: the id {passage.id!r} is also at {first}; each must be unique")
                fields.add(where, passage.fields)
                if spool is not None:
                    _write(spool, passage)
            if not ids:
                raise InputError(f"{opened.name} holds no documents; expected JSON objects, a table, or files of text")
            fields.warn()
            again = read if spool is None else partial(_unspool, spool)
            yield Corpus(len(ids), lambda: _convert(again(), fields))


def corpus_file(source: Path) -> Path:
    """Return the ``corpus.jsonl`` of a folder in BEIR's layout."""
    if not source.exists():
        raise InputError(f"{source} does not exist; give a folder in BEIR's layout")
    if not (source / "corpus.jsonl").is_file():
        raise InputError(f"folder {source} has no corpus.jsonl; give a folder in BEIR's layout")
    return source / "corpus.jsonl"


def is_folder_of_documents(source: Path) -> bool:
    """Return whether a source is a folder of files, one document each."""
    return source.is_dir() and not (source / "corpus.jsonl").is_file()


def read_passages(source: Path, options: CorpusOptions = CorpusOptions()) -> Iterator[Passage]:
    """Yield the passages of a corpus, as :func:`open_corpus` reads it."""
    with open_corpus(source, options) as corpus:
        yield from corpus


@contextmanager
def _spool(opened: CorpusSource, options: CorpusOptions) -> Iterator[BinaryIO | None]:
    """Yield a temporary file for passages that take long to make; None for those that are quickly read again."""
    if options.split is None and not opened.is_documents(options.form):
        yield None
        return
    with temporary_file() as spool:
        yield spool


def _write(spool: BinaryIO, passage: Passage) -> None:
    values = [passage.id, passage.title, passage.body, dict(passage.fields), passage.document]
    line = json.dumps(values) + "\n"
    with write_errors("a temporary file", MORE_SPACE):
        spool.write(line.encode())


def _unspool(spool: BinaryIO) -> Iterator[tuple[str, Passage]]:
    spool.seek(0)
    for line in spool:
        yield "", Passage(*json.loads(line))


def _convert(passages: Iterator[tuple[str, Passage]], fields: Fields) -> Iterator[Passage]:
    for _, passage in passages:
        yield replace(passage, fields=fields.convert(passage.fields))


def _passages(opened: CorpusSource, options: CorpusOptions) -> Iterator[tuple[str, Passage]]:
    for row, (where, record) in enumerate(opened.records(options.form, options.text_field), 1):
        whole = _passage(record, where, options, row)
        if opened.is_documents(options.form) and not whole.text:
            logger.warning(f"{where} holds no text and is left out; if it is a scan, recognise its text first")
            continue
        for passage in (whole,) if options.split is None else _parts(whole, where, options.split):
            _check_size(passage, where)
            yield where, passage


def _parts(passage: Passage, where: str, split: Split) -> Iterator[Passage]:
    taken = [name for name in PART_FIELDS if name in passage.fields]
    if taken:
        raise InputError(f"{where}: split documents need the key {taken[0]!r} themselves; rename it")
    texts = split(passage.title, passage.body) or [passage.body]
    for number, text in enumerate(texts, 1):
        values = dict(zip(PART_FIELDS, (passage.id, number, len(texts)), strict=True))
        yield Passage(f"{passage.id}#{number}", passage.title, text, {**passage.fields, **values}, passage.id)


def _passage(record: Record, where: str, options: CorpusOptions, row: int) -> Passage:
    fields = dict(record)
    name = _take_id(fields, where, options, row)
    body = text_of(record, where, options.text_field)
    fields.pop(options.text_field, None)
    title = fields.pop("title", None)
    if title is not None and not isinstance(title, str):
        raise InputError(f"{where}: 'title' of the document {name!r} must be a string, got {title!r:.60}")
    return Passage(name, title or "", body, _chosen(fields, record, where, options.fields))


def _take_id(fields: Record, where: str, options: CorpusOptions, row: int) -> str:
    """Remove the id from a record's fields, and return it as a string."""
    if options.id_field == ROW:
        return str(row)
    key = options.id_field or ("_id" if "_id" in fields else "id")
    if key not in fields:
        expected = repr(options.id_field) if options.id_field else "'_id' or 'id'"
        raise InputError(
            f"{where}: there is no {expected}; the keys are {sorted(fields)}. Name the id's key with --id-field, or "
            f"number the records with --id-field {ROW}"
        )
    return _id(fields.pop(key), key, where)


def _chosen(fields: Record, record: Record, where: str, names: tuple[str, ...] | None) -> Record:
    """Return the fields to store, by these names or all."""
    if names is not None:
        unknown = [name for name in names if name not in record]
        if unknown:
            raise InputError(
                f"{where}: there is no {unknown[0]!r}, which --fields names; the keys are {sorted(record)}"
            )
        fields = {name: fields[name] for name in names if name in fields}
    taken = sorted(TAKEN & fields.keys())
    if taken:
        raise InputError(
            f"{where}: the index needs the key {taken[0]!r} itself; rename it, or leave it out with --fields"
        )
    if "" in fields:
        raise InputError(f"{where}: a column has no name; name it, or choose the others with --fields")
    large = [key for key, value in fields.items() if not _fits(value)]
    if large:
        raise InputError(
            f"{where}: {large[0]!r} holds an integer of more than 64 bits, Milvus' limit; store it as a string"
        )
    return fields


def _check_size(passage: Passage, where: str) -> None:
    size = len(passage.text.encode())
    if size > MAX_TEXT_BYTES:
        raise InputError(
            f"{where}: title and text of the document {passage.id!r} have {size} bytes, but a field of Milvus holds at "
            f"most {MAX_TEXT_BYTES}; split long texts, for example with --split-tokens 256"
        )
    if len(passage.id.encode()) > MAX_ID_BYTES:
        raise InputError(f"{where}: the id {passage.id[:40]!r}... must have at most {MAX_ID_BYTES} bytes")


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
    return str(value)
