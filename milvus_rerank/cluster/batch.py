"""rerank_files: rerank files of queries with Ray, in parts that survive the end of any process.

The unit of work is a part, a file. A worker writes the scores of a part under another name and renames it, so that a
part is scored wholly or not at all. A job that was killed and is started again takes the parts that have no scores.
With Milvus as the first stage, the parts hold queries alone; workers that search write each part again, with documents.
"""

import os
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

from milvus_rerank.cluster import runtime
from milvus_rerank.cluster.dataset import with_threads
from milvus_rerank.cluster.first_stage import MilvusFirstStage, RetrieveWorker
from milvus_rerank.cluster.job import (
    FORMAT,
    JOB,
    BatchReport,
    check_ids,
    collect_failed,
    count_results,
    file_identity,
    open_job,
    write_json,
)
from milvus_rerank.cluster.merge import OutputFormat, merge_group, write_lines
from milvus_rerank.cluster.queries import QueryFields, check_columns, list_files, read_queries
from milvus_rerank.cluster.reranker import RerankerSpec
from milvus_rerank.cluster.score_parts import PartWorker
from milvus_rerank.cluster.stage import StagedFile, stage_file
from milvus_rerank.errors import RerankError
from milvus_rerank.requirements import require
from milvus_rerank.validation import check_choice, check_count


def rerank_files(
    sources: Sequence[str | os.PathLike[str]],
    output: str | os.PathLike[str],
    reranker: RerankerSpec | None = None,
    *,
    fields: QueryFields | None = None,
    first_stage: MilvusFirstStage | None = None,
    workers: int | None = None,
    cpus: int = 1,
    gpus: float = 0,
    address: str | None = None,
    output_format: OutputFormat = "parquet",
    progress: Callable[[int, int], object] | None = None,
) -> BatchReport:
    """Rerank files of queries, and write each query's ranked ids and scores.

    :param sources: Parquet or JSONL files, or folders of them; local paths or addresses that fsspec knows.
    :param output: a folder that all machines of the cluster share. It gets ``results/``, ``failed.jsonl`` and
        ``job.json``. If it holds a job of the same settings that was cut off, that job goes on.
    :param reranker: the reranker, which each worker loads once; None for ``builtin/rerank``.
    :param fields: the columns of the input.
    :param first_stage: finds the documents of each query in Milvus; None if the input has them.
    :param workers: the number of workers; None for as many as the cluster has room for.
    :param cpus: the CPUs of a worker, and the threads of its model.
    :param gpus: the GPUs of a worker.
    :param address: the address of a Ray cluster, or ``auto``; None starts Ray on this machine and stops it at the end.
    :param output_format: the format of the results.
    :param progress: called about twice a second with the pairs that are scored and those of the whole job; with a first
        stage, the latter are the most that it may find.
    :returns: the counts.
    :raises InputError: for an input, option or output folder that cannot be used.
    :raises MissingDependencyError: if Ray is not installed.
    :raises SearchError: if Milvus cannot be reached.
    :raises RerankError: if the cluster cannot be reached or used, or the counts do not add up.
    """
    require("reranking in bulk", "ray", "pyarrow")
    began = time.perf_counter()
    spec, names = with_threads(reranker or RerankerSpec(), check_count(cpus, "cpus")), fields or QueryFields()
    check_choice(output_format, "output_format", ("parquet", "jsonl"))
    files = list_files([os.fspath(source) for source in sources])
    check_columns(files[0], names, searched=first_stage is not None)
    if first_stage is not None:
        names = replace(names, documents=None)
    folder = Path(output)
    settings = {
        "format": FORMAT,
        "milvus_rerank": version("milvus-rerank"),
        "reranker": spec.to_dict(),
        "fields": asdict(names),
        "first_stage": first_stage.to_dict() if first_stage else None,
        "output_format": output_format,
        "files": [[file, file_identity(file)] for file in files],
    }
    finished = open_job(folder, settings)
    if finished is not None:
        return finished
    # Loading it here shows a wrong name or option at once; this machine may lack the GPU of the workers.
    split = (gpus > 0 or spec.load().pointwise) and first_stage is None
    if first_stage is not None:
        first_stage.check_address()
    job = _Job(folder / ".work", files, names, spec, first_stage, split)
    with runtime.connected(address, workers, cpus, gpus) as pool:
        if first_stage is not None:  # after Ray has started: a process that has used gRPC may not fork
            _check_first_stage(first_stage, files, names)
        summaries = job.stage(pool)
        scoring = time.perf_counter()
        scored, searched = job.score(pool, summaries, progress)
        score_seconds = time.perf_counter() - scoring
        pairs = job.merge(pool, summaries, folder / "results.new", output_format)
    failed = collect_failed(job.staged, folder / "results.new")
    rows = sum(summary.rows for summary in summaries)
    results = count_results(folder / "results.new", output_format)
    if results + len(failed) != rows:
        raise RerankError(
            f"{rows} rows were read, but {results} have results and {len(failed)} failed: {folder / '.work'} is kept"
        )
    write_lines(folder / "failed.jsonl", failed)
    shutil.rmtree(folder / "results", ignore_errors=True)
    (folder / "results.new").rename(folder / "results")
    seconds = time.perf_counter() - began
    report = BatchReport(rows, results, len(failed), pairs, seconds, scored, score_seconds, searched)
    write_json(folder / JOB, {"settings": settings, "report": asdict(report)})
    shutil.rmtree(folder / ".work")
    return report


def _check_first_stage(first_stage: MilvusFirstStage, files: Sequence[str], fields: QueryFields) -> None:
    """Search with the first query of the job."""
    row = next((row for file in files for row in read_queries(file, fields) if not row.error), None)
    if row is not None:
        first_stage.check(row.query)


class _Job:
    """The steps of a job.

    :param work: the folder of its files while it runs.
    :param files: the input.
    :param fields: its columns.
    :param spec: the reranker.
    :param first_stage: finds the documents; None if the input has them.
    :param split: whether the documents of a query may be in several parts.
    """

    def __init__(
        self,
        work: Path,
        files: Sequence[str],
        fields: QueryFields,
        spec: RerankerSpec,
        first_stage: MilvusFirstStage | None,
        split: bool,
    ) -> None:
        self.staged, self.retrieved, self.scored = work / "staged", work / "retrieved", work / "scored"
        self.files, self.fields, self.spec, self.first_stage, self.split = files, fields, spec, first_stage, split
        self.complete = self.staged if first_stage is None else self.retrieved
        """The folder of the parts with documents."""

    def stage(self, pool: runtime.Pool) -> list[StagedFile]:
        """Cut the files into parts."""
        candidates = self.first_stage.candidates if self.first_stage else None
        stage = partial(
            _stage, files=self.files, fields=self.fields, folder=self.staged, split=self.split, candidates=candidates
        )
        summaries = [StagedFile(**summary) for summary in pool.run(stage, range(len(self.files)))]
        check_ids(self.staged, len(self.files))
        return summaries

    def score(
        self,
        pool: runtime.Pool,
        summaries: Sequence[StagedFile],
        progress: Callable[[int, int], object] | None,
    ) -> tuple[int, int]:
        """Score the parts that have no scores; return the number of pairs scored, and that of queries searched for."""
        total = sum(summary.pairs for summary in summaries)
        left = [part for summary in summaries for part in summary.parts if not (self.scored / part).exists()]
        before = None
        if self.first_stage is not None:
            arguments = {
                "first_stage": self.first_stage, "staged": str(self.staged), "retrieved": str(self.retrieved)
            }  # fmt: skip
            before = runtime.Before(RetrieveWorker, arguments, self.first_stage.clients)
        arguments = {
            "spec": self.spec, "staged": str(self.complete), "scored": str(self.scored), "split": self.split
        }  # fmt: skip
        counts = pool.run_workers(PartWorker, arguments, left, total, progress, before)
        return sum(scored for scored, _ in counts), sum(searched for _, searched in counts)

    def merge(
        self, pool: runtime.Pool, summaries: Sequence[StagedFile], target: Path, output_format: OutputFormat
    ) -> int:
        """Write the results, and return the number of pairs."""
        groups = [list(group) for summary in summaries for group in summary.groups]
        shutil.rmtree(target, ignore_errors=True)
        target.mkdir()
        merge = partial(_merge, str(self.complete), str(self.scored), str(target), output_format)
        return sum(pool.run(merge, groups))


def _stage(
    number: int, *, files: Sequence[str], fields: QueryFields, folder: Path, split: bool, candidates: int | None
) -> dict[str, Any]:
    return asdict(stage_file(number, files[number], fields, folder, split=split, candidates=candidates))


def _merge(staged: str, scored: str, target: str, output_format: OutputFormat, group: Sequence[str]) -> int:
    name = group[0].replace("/", "-").removesuffix(".parquet")
    return merge_group(Path(staged), Path(scored), group, Path(target) / name, output_format)
