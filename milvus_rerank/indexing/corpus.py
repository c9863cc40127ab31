"""Read passages from a JSONL file or a folder in BEIR's layout."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from milvus_rerank.errors import InputError
from milvus_rerank.jsonl import open_input, read_objects

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


def corpus_file(source: Path) -> Path:
    """Return a JSONL file as it is, and the ``corpus.jsonl`` of a folder in BEIR's layout."""
    if source.is_dir():
        if not (source / "corpus.jsonl").is_file():
            raise InputError(f"folder {source} has no corpus.jsonl; give a folder in BEIR's layout or a JSONL file")
        return source / "corpus.jsonl"
    if not source.exists():
        raise InputError(f"{source} does not exist; give a JSONL file or a folder in BEIR's layout")
    if not source.is_file():
        raise InputError(f"{source} is a pipe or a device, which cannot be read twice; save it as a file first")
    return source


def read_passages(path: Path) -> Iterator[Passage]:
    """Yield the passages of a JSONL file.

    :param path: a file with an object per line: ``_id`` (or ``id``), ``text``, perhaps ``title``, and any other keys.
    :yields: the passages, in the file's order.
    :raises InputError: for an invalid line, a repeated id, or a text too long for Milvus; it names the file and line.
    """
    seen: dict[str, int] = {}
    with open_input(path) as file:
        for number, record in read_objects(file, str(path)):
            passage = _passage(record, f"{path}:{number}")
            first = seen.setdefault(passage.id, number)
            if first != number:
                raise InputError(f"{path}:{number}: the id {passage.id!r} is also on line {first}; each must be unique")
            yield passage


def _passage(record: dict[str, Any], where: str) -> Passage:
    fields = dict(record)
    key = "_id" if "_id" in fields else "id"
    if key not in fields:
        raise InputError(f"{where}: the object has no '_id'; its keys are {sorted(record)}")
    name = _id(fields.pop(key), key, where)
    if "text" not in fields:
        raise InputError(f"{where}: the document {name!r} has no 'text'; its keys are {sorted(record)}")
    body, title = fields.pop("text"), fields.pop("title", None)
    for value, label in ((body, "text"), ("" if title is None else title, "title")):
        if not isinstance(value, str):
            raise InputError(f"{where}: {label!r} of the document {name!r} must be a string, got {value!r:.60}")
    taken = sorted(TAKEN & fields.keys())
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
            f"{where}: title and text of the document {name!r} have {size} bytes, but a field of Milvus holds at most "
            f"{MAX_TEXT_BYTES}; split the document into passages"
        )
    return passage


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
