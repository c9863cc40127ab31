"""Cut the input of a job into parts of about the same number of pairs, which workers then take one by one.

A part is a Parquet file of pieces: a query with some of its documents. A query with very many documents is spread over
many parts, so that it keeps all workers busy. The pieces of a query lie in consecutive parts of one input file.
"""

import hashlib
import json
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from milvus_rerank.cluster.queries import QueryFields, QueryRow, read_queries

PART_PAIRS = 2000
"""The most pairs of a part: half a minute of work for a small model on a CPU, which a killed worker repeats."""
PART_CHARACTERS = 32_000_000
"""The most characters of a part's documents, unless one document alone has more."""


@dataclass(frozen=True, slots=True)
class StagedFile:
    """Summary of one input file.

    :param parts: the names of its parts, in order.
    :param groups: lists of consecutive parts; no query reaches from one group into another.
    :param rows: the rows of the file.
    :param failed: those that cannot be reranked.
    :param pairs: the pairs of the others.
    """

    parts: Sequence[str]
    groups: Sequence[Sequence[str]]
    rows: int
    failed: int
    pairs: int


def stage_file(number: int, file: str, fields: QueryFields, folder: Path, *, split: bool) -> StagedFile:
    """Write the parts of an input file, unless they are there.

    :param number: the file's number in the job.
    :param file: the file.
    :param fields: its columns.
    :param folder: the folder for the folders of all files' parts; each appears there when it is complete.
    :param split: whether the documents of a query may be in several parts.
    :returns: the parts.
    :raises InputError: if the file cannot be read.
    """
    target = folder / f"{number:05d}"
    if not target.exists():
        new = folder / f"{number:05d}.new"
        shutil.rmtree(new, ignore_errors=True)
        new.mkdir(parents=True)
        summary = _write(number, read_queries(file, fields), new, split=split)
        (new / "summary.json").write_text(json.dumps(summary), "utf-8")
        new.rename(target)
    return StagedFile(**json.loads((target / "summary.json").read_text("utf-8")))


def _write(number: int, rows: Iterator[QueryRow], folder: Path, *, split: bool) -> dict[str, Any]:
    import numpy as np
    import pyarrow
    import pyarrow.parquet

    schema = pyarrow.schema(
        [
            ("where", pyarrow.string()),
            ("query_id", pyarrow.string()),
            ("query", pyarrow.string()),
            ("last", pyarrow.bool_()),
            ("ids", pyarrow.list_(pyarrow.string())),
            ("texts", pyarrow.list_(pyarrow.string())),
        ]
    )
    parts: list[str] = []
    groups: list[list[str]] = []
    count = failed = pairs = 0
    hashes: list[int] = []

    def counted() -> Iterator[QueryRow]:
        nonlocal count, failed, pairs
        with (folder / "failed.jsonl").open("w", encoding="utf-8") as file:
            for row in rows:
                count += 1
                if row.error:
                    failed += 1
                    file.write(json.dumps({"query_id": row.query_id, "where": row.where, "error": row.error}) + "\n")
                    continue
                pairs += len(row.texts)
                hashes.append(int.from_bytes(hashlib.blake2b(row.query_id.encode(), digest_size=8).digest(), "little"))
                yield row

    open_query = False
    for pieces in cut_parts(counted(), split=split):
        name = f"{number:05d}/{len(parts):06d}.parquet"
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(pieces, schema), folder / name.partition("/")[2])
        if open_query:
            groups[-1].append(name)
        else:
            groups.append([name])
        open_query = not pieces[-1]["last"]
        parts.append(name)
    np.save(folder / "ids.npy", np.array(hashes, np.uint64))
    return {"parts": parts, "groups": groups, "rows": count, "failed": failed, "pairs": pairs}


def cut_parts(rows: Iterator[QueryRow], *, split: bool) -> Iterator[list[dict[str, Any]]]:
    """Yield the pieces of each part."""
    part: list[dict[str, Any]] = []
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
                part.append(
                    {
                        "where": row.where, "query_id": row.query_id, "query": row.query, "last": last,
                        "ids": row.ids[start:end], "texts": row.texts[start:end],
                    }
                )  # fmt: skip
                pairs, characters, start = pairs + end - start, characters + size, end
            if part and (not last or pairs >= PART_PAIRS or characters >= PART_CHARACTERS):
                yield part
                part, pairs, characters = [], 0, 0
            if last:
                break
    if part:
        yield part
