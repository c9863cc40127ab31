"""Cut the input of a job into parts of about the same number of pairs, which workers then take one by one.

A part is a Parquet file of pieces: a query with some of its documents. A query with very many documents is spread over
many parts, so that it keeps all workers busy. The pieces of a query lie in consecutive parts of one input file.
"""

import hashlib
import json
import shutil
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any, TypeAlias

from milvus_rerank.cluster.queries import QueryFields, QueryRow, read_queries

PART_PAIRS = 2000
"""The most pairs of a part: half a minute of work for a small model on a CPU, which a killed worker repeats."""
PART_CHARACTERS = 32_000_000
"""The most characters of a part's documents, unless one document alone has more."""

Piece: TypeAlias = tuple[QueryRow, bool]
"""A query with some of its documents, and whether they are its last."""


@dataclass(frozen=True, slots=True)
class StagedFile:
    """Summary of one input file.

    :param parts: the names of its parts, in order.
    :param groups: lists of consecutive parts; no query reaches from one group into another.
    :param rows: the rows of the file.
    :param failed: those that cannot be reranked.
    :param pairs: the pairs of the others; for queries without documents, the most that a first stage finds.
    """

    parts: Sequence[str]
    groups: Sequence[Sequence[str]]
    rows: int
    failed: int
    pairs: int


def stage_file(
    number: int, file: str, fields: QueryFields, folder: Path, *, split: bool, candidates: int | None = None
) -> StagedFile:
    """Write the parts of an input file, unless they are there.

    :param number: the file's number in the job.
    :param file: the file.
    :param fields: its columns.
    :param folder: the folder for the folders of all files' parts; each appears there when it is complete.
    :param split: whether the documents of a query may be in several parts.
    :param candidates: for queries without documents, the most documents that a first stage finds for each.
    :returns: the parts.
    :raises InputError: if the file cannot be read.
    """
    target = folder / f"{number:05d}"
    if not target.exists():
        new = folder / f"{number:05d}.new"
        shutil.rmtree(new, ignore_errors=True)
        new.mkdir(parents=True)
        tally = _Tally(new, candidates)
        rows = tally.keep(read_queries(file, fields))
        pieces = cut_parts(rows, split=split) if candidates is None else cut_queries(rows, candidates)
        summary = {**_write(number, pieces, new), **tally.write()}
        (new / "summary.json").write_text(json.dumps(summary), "utf-8")
        new.rename(target)
    return StagedFile(**json.loads((target / "summary.json").read_text("utf-8")))


class _Tally:
    """Count the rows of a file, write those that failed apart, and keep a hash of each other's id."""

    def __init__(self, folder: Path, candidates: int | None) -> None:
        self._folder, self._candidates = folder, candidates
        self._rows = self._failed = self._pairs = 0
        self._hashes: list[int] = []

    def keep(self, rows: Iterable[QueryRow]) -> Iterator[QueryRow]:
        """Yield the rows that can be reranked."""
        with (self._folder / "failed.jsonl").open("w", encoding="utf-8") as file:
            for row in rows:
                self._rows += 1
                if row.error:
                    self._failed += 1
                    file.write(json.dumps({"query_id": row.query_id, "where": row.where, "error": row.error}) + "\n")
                    continue
                self._pairs += len(row.texts) if self._candidates is None else self._candidates
                digest = hashlib.blake2b(row.query_id.encode(), digest_size=8).digest()
                self._hashes.append(int.from_bytes(digest, "little"))
                yield row

    def write(self) -> dict[str, int]:
        """Write the hashes, and return the counts."""
        import numpy as np

        np.save(self._folder / "ids.npy", np.array(self._hashes, np.uint64))
        return {"rows": self._rows, "failed": self._failed, "pairs": self._pairs}


def _write(number: int, pieces_of_parts: Iterable[Sequence[Piece]], folder: Path) -> dict[str, Any]:
    """Write the parts, and return their names and groups."""
    parts: list[str] = []
    groups: list[list[str]] = []
    open_query = False
    for pieces in pieces_of_parts:
        name = f"{number:05d}/{len(parts):06d}.parquet"
        write_pieces(folder / name.partition("/")[2], pieces)
        if open_query:
            groups[-1].append(name)
        else:
            groups.append([name])
        open_query = not pieces[-1][1]
        parts.append(name)
    return {"parts": parts, "groups": groups}


def write_pieces(path: Path, pieces: Sequence[Piece]) -> None:
    """Write a part."""
    import pyarrow
    import pyarrow.parquet

    schema = pyarrow.schema(
        [
            ("where", pyarrow.string()),
            ("query_id", pyarrow.string()),
            ("query", pyarrow.string()),
            ("ids", pyarrow.list_(pyarrow.string())),
            ("texts", pyarrow.list_(pyarrow.string())),
            ("error", pyarrow.string()),
            ("last", pyarrow.bool_()),
        ]
    )
    rows = [{**asdict(row), "last": last} for row, last in pieces]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows, schema), path)


def read_pieces(path: Path, texts: bool = True) -> list[Piece]:
    """Read a part.

    :param path: the file.
    :param texts: whether to read the texts of the documents.
    :returns: the pieces in their order.
    """
    import pyarrow.parquet

    columns = None if texts else ["where", "query_id", "ids", "error", "last"]
    rows = pyarrow.parquet.read_table(path, columns=columns).to_pylist()
    return [(QueryRow(**row), last) for row in rows for last in [row.pop("last")]]


def cut_queries(rows: Iterator[QueryRow], candidates: int) -> Iterator[list[Piece]]:
    """Yield the pieces of each part, for queries whose documents are not known yet."""
    most = max(1, PART_PAIRS // candidates)
    while part := [(row, True) for row in islice(rows, most)]:
        yield part


def cut_parts(rows: Iterator[QueryRow], *, split: bool) -> Iterator[list[Piece]]:
    """Yield the pieces of each part."""
    part: list[Piece] = []
    pairs = characters = 0
    for row in rows:
        start = 0
        while True:
            end = start if split else len(row.texts)
            size = sum(map(len, row.texts)) if not split else 0
            while split and end < len(row.texts) and pairs + end - start < PART_PAIRS:
                longer = size + len(row.texts[end])
                if characters + longer > PART_CHARACTERS and (part or end > start):
                    break
                size, end = longer, end + 1
            last = end == len(row.texts)
            if end > start or not row.texts:
                part.append((replace(row, ids=row.ids[start:end], texts=row.texts[start:end]), last))
                pairs, characters, start = pairs + end - start, characters + size, end
            if part and (not last or pairs >= PART_PAIRS or characters >= PART_CHARACTERS):
                yield part
                part, pairs, characters = [], 0, 0
            if last:
                break
    if part:
        yield part
