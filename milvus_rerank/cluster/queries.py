"""Read queries with their documents from Parquet and JSON lines; a row that cannot be read is kept as such."""

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import fsspec

from milvus_rerank.errors import InputError
from milvus_rerank.jsonl import parse_object
from milvus_rerank.validation import check_text

SUFFIXES = (".parquet", ".jsonl", ".ndjson")


@dataclass(frozen=True, slots=True)
class QueryFields:
    """The columns or keys of the input.

    :param query_id: the query's id, a string or an integer.
    :param query: the query's text.
    :param documents: a list of texts, or of objects with ``id`` and ``text``; None for queries without documents.
    :param document_id: the key of a document's id; a text without one has its position.
    :param text: the key of a document's text.
    """

    query_id: str = "query_id"
    query: str = "query"
    documents: str | None = "documents"
    document_id: str = "id"
    text: str = "text"

    @property
    def needed(self) -> tuple[str, ...]:
        """The columns that each row must have."""
        return (self.query_id, self.query, *([self.documents] if self.documents is not None else ()))


@dataclass(frozen=True, slots=True)
class QueryRow:
    """One row of the input.

    :param where: its place, such as ``a.jsonl:3``.
    :param query_id: the query's id; "" if it cannot be read.
    :param query: the query's text.
    :param ids: the ids of its documents, as strings.
    :param texts: their texts.
    :param error: why the row cannot be reranked; "" if it can.
    """

    where: str
    query_id: str = ""
    query: str = ""
    ids: tuple[str, ...] = ()
    texts: tuple[str, ...] = ()
    error: str = ""


def list_files(sources: Iterable[str]) -> list[str]:
    """Return the files that are meant by files and folders, local ones or addresses that fsspec knows.

    :param sources: paths or addresses; of a folder, its Parquet and JSONL files, also in folders below.
    :returns: the files, sorted within each source.
    :raises InputError: for a source that does not exist, a folder without such files, or a file with another suffix.
    """
    files: list[str] = []
    for source in sources:
        system, path = fsspec.core.url_to_fs(source)
        if not system.exists(path):
            raise InputError(f"{source} does not exist; give Parquet or JSONL files, or a folder of them")
        paths = sorted(system.find(path)) if system.isdir(path) else [path]
        chosen = [name for name in paths if name.endswith(SUFFIXES)]
        if not chosen:
            raise InputError(f"{source} holds no {' or '.join(SUFFIXES)} files")
        files += [system.unstrip_protocol(name) if "://" in source else name for name in chosen]
    twice = sorted({file for file in files if files.count(file) > 1}) if len(set(files)) < len(files) else []
    if twice:
        raise InputError(f"{twice[0]} is given twice")
    return files


def check_columns(file: str, fields: QueryFields, *, searched: bool = False) -> None:
    """Raise if a file cannot be opened, is empty, or has wrong columns; of JSON lines the first one decides.

    :param file: the file.
    :param fields: the columns.
    :param searched: whether Milvus is searched for the documents, so that the file must have none.
    :raises InputError: with the columns that are missing, and those that are there.
    """
    if file.endswith(".parquet"):
        names = list(_parquet(file).schema_arrow.names)
    else:
        line = next(iter(_lines(file)), None)
        if line is None:
            raise InputError(f"{file} is empty")
        names = list(parse_object(line[1], line[0]))
    if searched and fields.documents in names:
        raise InputError(
            f"{file} has documents, in {fields.documents!r}, and a Milvus to search for documents is given, too; leave "
            "out the column, or --uri and the [milvus] of the config file"
        )
    needed = (fields.query_id, fields.query) if searched else fields.needed
    absent = [name for name in needed if name not in names]
    if not absent:
        return
    advice = "Name the columns with --query-id-field and --query-field"
    if absent == [fields.documents]:
        advice = "Name it with --documents-field, or find the documents in a Milvus with --uri"
    elif not searched:
        advice = "Name the columns with --query-id-field, --query-field and --documents-field"
    raise InputError(
        f"{file} has no column {', '.join(map(repr, absent))}; it has {', '.join(map(repr, names)) or 'none'}. {advice}"
    )


def read_queries(file: str, fields: QueryFields) -> Iterator[QueryRow]:
    """Yield the rows of a file; one that cannot be read has an ``error``.

    :param file: a Parquet file, or JSON lines.
    :param fields: the columns.
    :yields: the rows in their order.
    :raises InputError: if the file itself cannot be read.
    """
    if file.endswith(".parquet"):
        for number, record in enumerate(_parquet_rows(file, fields.needed), 1):
            yield read_row(record, f"{file}, row {number}", fields)
        return
    for where, line in _lines(file):
        try:
            record = parse_object(line, where)
        except InputError as error:
            yield QueryRow(where, error=str(error))
            continue
        yield read_row(record, where, fields)


def _parquet(file: str) -> Any:
    import pyarrow
    import pyarrow.parquet

    try:
        return pyarrow.parquet.ParquetFile(fsspec.open(file, "rb").open())
    except (pyarrow.ArrowException, OSError) as error:
        raise InputError(f"{file} cannot be read as Parquet: {str(error).splitlines()[0]}") from error


def _parquet_rows(file: str, columns: Sequence[str]) -> Iterator[dict[str, Any]]:
    import pyarrow

    try:
        for batch in _parquet(file).iter_batches(batch_size=16, columns=list(columns)):
            yield from batch.to_pylist()
    except (pyarrow.ArrowException, OSError) as error:
        raise InputError(f"{file} cannot be read as Parquet: {str(error).splitlines()[0]}") from error


def _lines(file: str) -> Iterator[tuple[str, str]]:
    """Yield the place and the text of each line that is not blank; bytes that are not UTF-8 make it no JSON."""
    try:
        with fsspec.open(file, "rb") as lines:
            for number, line in enumerate(lines, 1):
                if line.strip():
                    yield (
                        f"{file}:{number}",
                        line.strip().decode("utf-8-sig" if number == 1 else "utf-8", "backslashreplace"),
                    )
    except OSError as error:
        raise InputError(f"{file} cannot be read: {error.strerror or error}") from error


def read_row(record: dict[str, Any], where: str, fields: QueryFields) -> QueryRow:
    """Return a record as a row; one that cannot be read has an ``error``."""
    query_id = ""
    try:
        query_id = _identifier(record.get(fields.query_id), fields.query_id)
        query = check_text(record.get(fields.query), f"{fields.query!r}")
        documents = record.get(fields.documents) if fields.documents is not None else []
        if not isinstance(documents, list):
            raise InputError(f"{fields.documents!r} must be a list, got {type(documents).__name__}")
        ids, texts = [], []
        for position, document in enumerate(documents):
            name = f"{fields.documents!r}[{position}]"
            key: Any = position
            if isinstance(document, dict):
                key, document = document.get(fields.document_id, position), document.get(fields.text)
            ids.append(_identifier(key, f"{name}, {fields.document_id}"))
            texts.append(check_text(document, name))
        return QueryRow(where, query_id, query, tuple(ids), tuple(texts))
    except InputError as error:
        return QueryRow(where, query_id, error=str(error))


def _identifier(value: object, name: str) -> str:
    if isinstance(value, bool) or not isinstance(value, (str, int)) or value == "":
        raise InputError(f"{name} must be a string or an integer, got {json.dumps(value, default=str)[:60]}")
    return check_text(value, name) if isinstance(value, str) else str(value)
