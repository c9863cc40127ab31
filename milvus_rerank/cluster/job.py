"""The folder of a bulk job: its record, its counts, and the checks of both."""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fsspec

from milvus_rerank.cluster.merge import OutputFormat
from milvus_rerank.cluster.stage import read_pieces
from milvus_rerank.errors import InputError

JOB = "job.json"
FORMAT = 2
"""Version of the files in an output folder."""


@dataclass(frozen=True, slots=True)
class BatchReport:
    """Counts of a finished job. ``queries`` is the sum of ``results`` and ``failed``.

    :param queries: the rows of the input.
    :param results: the queries with results.
    :param failed: the rows in ``failed.jsonl``.
    :param pairs: the pairs of query and document that were given to the reranker.
    :param seconds: the time of this run, from its start.
    :param scored: the pairs that this run scored; fewer than ``pairs`` if an earlier run was cut off.
    :param score_seconds: the time of searching and scoring, without that of reading and merging.
    :param searched: the queries that this run searched for in Milvus.
    """

    queries: int
    results: int
    failed: int
    pairs: int
    seconds: float
    scored: int
    score_seconds: float
    searched: int = 0

    @property
    def pairs_per_second(self) -> float:
        """Pairs scored in a second of scoring."""
        return self.scored / self.score_seconds if self.score_seconds else 0.0

    @property
    def queries_per_second(self) -> float:
        """Queries searched for in a second of searching and scoring."""
        return self.searched / self.score_seconds if self.score_seconds else 0.0


def open_job(folder: Path, settings: dict[str, Any]) -> BatchReport | None:
    """Begin a job in a folder, or go on with it; return the report of one that is finished."""
    path = folder / JOB
    if path.exists():
        job = json.loads(path.read_text("utf-8"))
        changed = [name for name, value in settings.items() if job["settings"].get(name) != value]
        started = "report" in job or (folder / ".work" / "scored").exists()
        if changed and started:
            raise InputError(
                f"{folder} holds another run, with other {', '.join(changed)}; choose another folder, or delete it"
            )
        if not changed:
            return BatchReport(**job["report"]) if "report" in job else None
        shutil.rmtree(folder / ".work", ignore_errors=True)  # nothing was scored: the input was mended, for instance
    elif folder.exists() and any(folder.iterdir()):
        raise InputError(f"{folder} is not empty and holds no {JOB} of a run; choose another folder")
    folder.mkdir(parents=True, exist_ok=True)
    write_json(path, {"settings": settings})
    return None


def write_json(path: Path, value: dict[str, Any]) -> None:
    """Write a JSON file wholly or not at all."""
    new = path.with_suffix(".new")
    new.write_text(json.dumps(value, indent=1) + "\n", "utf-8")
    new.replace(path)


def file_identity(file: str) -> list[Any]:
    """Return what changes when a file does: its size, and the time of its last change where that is known."""
    system, path = fsspec.core.url_to_fs(file)
    info = system.info(path)
    changed = info.get("mtime") or info.get("LastModified") or info.get("etag") or info.get("ETag")
    return [info.get("size"), changed if isinstance(changed, (int, float)) else str(changed)]


def check_ids(staged: Path, files: int) -> None:
    """Raise if two rows have the same query id; the hashes of all ids are compared first, 8 bytes for each."""
    import numpy as np

    hashes = np.concatenate([np.load(staged / f"{number:05d}" / "ids.npy") for number in range(files)])
    values, counts = np.unique(hashes, return_counts=True)
    if len(values) == len(hashes):
        return
    places: dict[str, list[str]] = {}
    for part in sorted(staged.glob("*/*.parquet")):
        for row, last in read_pieces(part, texts=False):
            if last:
                places.setdefault(row.query_id, []).append(row.where)
    twice = next((query_id, found) for query_id, found in places.items() if len(found) > 1)
    raise InputError(
        f"{int((counts - 1).sum())} query ids repeat; {twice[0]!r} is in {twice[1][0]} and {twice[1][1]}. Give each "
        "row an id of its own"
    )


def collect_failed(staged: Path, results: Path) -> list[dict[str, Any]]:
    """Return the rows that failed, and delete the files that hold them among the results."""
    failed = []
    for path in [*sorted(staged.glob("*/failed.jsonl")), *sorted(results.glob("*.failed"))]:
        failed += [json.loads(line) for line in path.read_text("utf-8").splitlines()]
        if path.suffix == ".failed":
            path.unlink()
    return failed


def count_results(folder: Path, output_format: OutputFormat) -> int:
    """Return the number of queries in the files of a folder."""
    import pyarrow.parquet

    if output_format == "parquet":
        return sum(pyarrow.parquet.read_metadata(path).num_rows for path in folder.glob("*.parquet"))
    count = 0
    for path in folder.glob("*.jsonl"):
        with path.open("rb") as lines:
            count += sum(1 for _ in lines)
    return count
