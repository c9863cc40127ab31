"""Open the source of a corpus so that it can be read twice: a file, a folder or a pipe."""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import IO, BinaryIO

from milvus_rerank.errors import InputError, write_errors
from milvus_rerank.indexing.documents import SUFFIXES, read_documents
from milvus_rerank.jsonl import open_input
from milvus_rerank.records import Form, Record, form_of, read_records

MORE_SPACE = "set TMPDIR to a folder with space"


@dataclass(frozen=True, slots=True)
class CorpusSource:
    """A source that can be read twice.

    :param path: the file, or the folder of documents.
    :param name: the name in errors.
    :param file: the open file; None for a folder of documents.
    """

    path: Path
    name: str
    file: BinaryIO | None

    def is_documents(self, form: Form) -> bool:
        """Return whether each file is one document."""
        return self.file is None or (form == "auto" and self.path.suffix.lower() in SUFFIXES)

    def form(self, form: Form) -> Form | None:
        """Return the form of the file; None for documents."""
        return None if self.file is None or self.is_documents(form) else form_of(self.file, self.name, form)

    def records(self, form: Form, text_field: str) -> Iterator[tuple[str, Record]]:
        """Return the places and records, read from the beginning."""
        if self.file is None or self.is_documents(form):
            return read_documents(self.path)
        self.file.seek(0)
        return read_records(self.file, self.name, form, text_field)


@contextmanager
def open_source(path: Path, stdin: BinaryIO | None) -> Iterator[CorpusSource]:
    """Open a file, a folder in BEIR's layout, a folder of documents, or ``stdin`` if it is given."""
    if stdin is None and not path.exists():
        raise InputError(f"{path} does not exist; give a file, a folder, or - for stdin")
    if stdin is None and path.is_dir():
        if not (path / "corpus.jsonl").is_file():
            yield CorpusSource(path, str(path), None)
            return
        path = path / "corpus.jsonl"
    name = str(path) if stdin is None else "stdin"
    with open_input(path) if stdin is None else nullcontext(stdin) as file:
        if stdin is None and file.seekable():
            yield CorpusSource(path, name, file)
            return
        with temporary_file() as copy:  # a pipe can be read only once
            with write_errors("a temporary file", MORE_SPACE):
                shutil.copyfileobj(file, copy)
            copy.seek(0)
            yield CorpusSource(path, name, copy)


@contextmanager
def temporary_file() -> Iterator[BinaryIO]:
    """Yield a file that is removed at the end."""
    with write_errors("a temporary file", MORE_SPACE):
        file: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115  not within write_errors
    with file as opened:
        yield opened  # type: ignore[misc]
