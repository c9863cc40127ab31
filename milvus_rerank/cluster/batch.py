"""rerank_files: rerank files of queries with Ray, in parts that survive the end of any process.

The unit of work is a part, a file. A worker writes the scores of a part under another name and renames it, so that a
part is scored wholly or not at all. A job that was killed and is started again takes the parts that have no scores.
"""

import json
import os
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import fsspec

from milvus_rerank.cluster import runtime
from milvus_rerank.cluster.dataset import with_threads
from milvus_rerank.cluster.merge import OutputFormat, merge_group, write_lines
from milvus_rerank.cluster.queries import QueryFields, QueryRow, check_columns, list_files
from milvus_rerank.cluster.reranker import RerankerSpec
from milvus_rerank.cluster.scores import score_rows
from milvus_rerank.cluster.stage import StagedFile, stage_file
from milvus_rerank.errors import InputError, RerankError
from milvus_rerank.requirements import require
from milvus_rerank.validation import check_choice, check_count

JOB = "job.json"
FORMAT = 1
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
    :param score_seconds: the time of scoring, without that of reading and merging.
    """

    queries: int
    results: int
    failed: int
    pairs: int
    seconds: float
    scored: int
    score_seconds: float

    @property
    def pairs_per_second(self) -> float:
        """Pairs scored in a second of scoring."""
        return self.scored / self.score_seconds if self.score_seconds else 0.0


def rerank_files(
    sources: Sequence[str | os.PathLike[str]],
    output: str | os.PathLike[str],
    reranker: RerankerSpec | None = None,
    *,
    fields: QueryFields | None = None,
    workers: int | None = None,
    cpus: int = 1,
    gpus: float = 0,
    address: str | None = None,
    output_format: OutputFormat = "parquet",
    progress: Callable[[int, int], object] | None = None,
) -> BatchReport:
    """Rerank files of queries with their documents, and write each query's ranked ids and scores.

    :param sources: Parquet or JSONL files, or folders of them; local paths or addresses that fsspec knows.
    :param output: a folder that all machines of the cluster share. It gets ``results/``, ``failed.jsonl`` and
        ``job.json``. If it holds a job of the same settings that was cut off, that job goes on.
    :param reranker: the reranker, which each worker loads once; None for ``builtin/rerank``.
    :param fields: the columns of the input.
    :param workers: the number of workers; None for as many as the cluster has room for.
    :param cpus: the CPUs of a worker, and the threads of its model.
    :param gpus: the GPUs of a worker.
    :param address: the address of a Ray cluster, or ``auto``; None starts Ray on this machine and stops it at the end.
    :param output_format: the format of the results.
    :param progress: called about twice a second with the pairs that are scored and those of the whole job.
    :returns: the counts.
    :raises InputError: for an input, option or output folder that cannot be used.
    :raises MissingDependencyError: if Ray is not installed.
    :raises RerankError: if the cluster cannot be reached or used, or the counts do not add up.
    """
    require("reranking in bulk", "ray", "pyarrow")
    began = time.perf_counter()
    spec, names = with_threads(reranker or RerankerSpec(), check_count(cpus, "cpus")), fields or QueryFields()
    check_choice(output_format, "output_format", ("parquet", "jsonl"))
    files = list_files([os.fspath(source) for source in sources])
    check_columns(files[0], names)
    folder = Path(output)
    settings = {
        "format": FORMAT,
        "milvus_rerank": version("milvus-rerank"),
        "reranker": spec.to_dict(),
        "fields": asdict(names),
        "output_format": output_format,
        "files": [[file, _identity(file)] for file in files],
    }
    finished = _open_job(folder, settings)
    if finished is not None:
        return finished
    # Loading it here shows a wrong name or option at once; this machine may lack the GPU of the workers.
    split = gpus > 0 or spec.load().pointwise
    staged, scored = folder / ".work" / "staged", folder / ".work" / "scored"
    with runtime.connected(address, workers, cpus, gpus) as pool:
        stage = partial(_stage, files=files, fields=names, folder=str(staged), split=split)
        summaries = [StagedFile(**summary) for summary in pool.run(stage, range(len(files)))]
        _check_ids(staged, len(files))
        total = sum(summary.pairs for summary in summaries)
        parts = [part for summary in summaries for part in summary.parts]
        left = [part for part in parts if not (scored / part).exists()]
        scoring = time.perf_counter()
        arguments = {"spec": spec, "staged": str(staged), "scored": str(scored), "split": split}
        done = pool.run_workers(PartWorker, arguments, left, total, progress)
        score_seconds = time.perf_counter() - scoring
        groups = [list(group) for summary in summaries for group in summary.groups]
        new = folder / "results.new"
        shutil.rmtree(new, ignore_errors=True)
        new.mkdir()
        list(pool.run(partial(_merge, str(staged), str(scored), str(new), output_format), groups))
    failed = _collect_failed(staged, new)
    rows = sum(summary.rows for summary in summaries)
    results = _count_results(new, output_format)
    if results + len(failed) != rows:
        raise RerankError(
            f"{rows} rows were read, but {results} have results and {len(failed)} failed: {folder / '.work'} is kept"
        )
    write_lines(folder / "failed.jsonl", failed)
    shutil.rmtree(folder / "results", ignore_errors=True)
    new.rename(folder / "results")
    seconds = time.perf_counter() - began
    report = BatchReport(rows, results, len(failed), total, seconds, sum(done), score_seconds)
    _write_json(folder / JOB, {"settings": settings, "report": asdict(report)})
    shutil.rmtree(folder / ".work")
    return report


def _open_job(folder: Path, settings: dict[str, Any]) -> BatchReport | None:
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
    _write_json(path, {"settings": settings})
    return None


def _write_json(path: Path, value: dict[str, Any]) -> None:
    new = path.with_suffix(".new")
    new.write_text(json.dumps(value, indent=1) + "\n", "utf-8")
    new.replace(path)


def _identity(file: str) -> list[Any]:
    """Return what changes when a file does: its size, and the time of its last change where that is known."""
    system, path = fsspec.core.url_to_fs(file)
    info = system.info(path)
    changed = info.get("mtime") or info.get("LastModified") or info.get("etag") or info.get("ETag")
    return [info.get("size"), changed if isinstance(changed, (int, float)) else str(changed)]


def _stage(number: int, *, files: Sequence[str], fields: QueryFields, folder: str, split: bool) -> dict[str, Any]:
    return asdict(stage_file(number, files[number], fields, Path(folder), split=split))


def _merge(staged: str, scored: str, target: str, output_format: OutputFormat, group: Sequence[str]) -> None:
    name = group[0].replace("/", "-").removesuffix(".parquet")
    merge_group(Path(staged), Path(scored), group, Path(target) / name, output_format)


def _check_ids(staged: Path, files: int) -> None:
    """Raise if two rows have the same query id; the hashes of all ids are compared first, 8 bytes for each."""
    import numpy as np
    import pyarrow.parquet

    hashes = np.concatenate([np.load(staged / f"{number:05d}" / "ids.npy") for number in range(files)])
    values, counts = np.unique(hashes, return_counts=True)
    if len(values) == len(hashes):
        return
    places: dict[str, list[str]] = {}
    for part in sorted(staged.glob("*/*.parquet")):
        for row in pyarrow.parquet.read_table(part, columns=["query_id", "where", "last"]).to_pylist():
            if row["last"]:
                places.setdefault(row["query_id"], []).append(row["where"])
    twice = next((query_id, found) for query_id, found in places.items() if len(found) > 1)
    raise InputError(
        f"{int((counts - 1).sum())} query ids repeat; {twice[0]!r} is in {twice[1][0]} and {twice[1][1]}. Give each "
        "row an id of its own"
    )


def _collect_failed(staged: Path, results: Path) -> list[dict[str, Any]]:
    """Return the rows that failed, and delete the files that hold them among the results."""
    failed = []
    for path in [*sorted(staged.glob("*/failed.jsonl")), *sorted(results.glob("*.failed"))]:
        failed += [json.loads(line) for line in path.read_text("utf-8").splitlines()]
        if path.suffix == ".failed":
            path.unlink()
    return failed


def _count_results(folder: Path, output_format: OutputFormat) -> int:
    import pyarrow.parquet

    if output_format == "parquet":
        return sum(pyarrow.parquet.read_metadata(path).num_rows for path in folder.glob("*.parquet"))
    count = 0
    for path in folder.glob("*.jsonl"):
        with path.open("rb") as lines:
            count += sum(1 for _ in lines)
    return count


class PartWorker:
    """Score parts with a reranker that is loaded once.

    :param spec: the reranker.
    :param staged: the folder of the parts.
    :param scored: the folder for their scores.
    :param split: whether the documents of a query may be in several parts.
    :raises InputError: if the reranker needs all documents of a query together, and ``split`` does not keep them so.
    """

    def __init__(self, spec: RerankerSpec, staged: str, scored: str, *, split: bool) -> None:
        self.reranker = spec.load()
        if split and not self.reranker.pointwise:
            raise InputError(
                f"{self.reranker!r} scores the documents of a query together, which workers with GPUs do not keep "
                "together; run it without gpus"
            )
        self.staged, self.scored = Path(staged), Path(scored)

    def __call__(self, part: str) -> int:
        """Score a part, and return the number of its pairs."""
        import pyarrow
        import pyarrow.parquet

        pieces = pyarrow.parquet.read_table(self.staged / part).to_pylist()
        rows = [
            QueryRow(piece["where"], piece["query_id"], piece["query"], piece["ids"], piece["texts"])
            for piece in pieces
        ]
        scored = score_rows(self.reranker, rows)
        schema = pyarrow.schema(
            [
                ("scores", pyarrow.list_(pyarrow.float64())),
                ("seconds", pyarrow.float64()),
                ("error", pyarrow.string()),
            ]
        )
        target = self.scored / part
        target.parent.mkdir(parents=True, exist_ok=True)
        new = target.with_name(f"{target.name}.{os.getpid()}.new")
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist([asdict(row) for row in scored], schema), new)
        new.replace(target)
        return sum(len(row.texts) for row in rows)
