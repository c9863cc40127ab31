"""A Ray cluster, or Ray on this machine for the time of one job, with room for the workers of the job."""

import logging
import math
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

from milvus_rerank.errors import InputError, RerankError
from milvus_rerank.validation import check_count

BLOCKS = 10_000
"""The most blocks of a data set; with fewer than workers, some workers would have nothing to do."""


class Before(NamedTuple):
    """Workers that get each item before those of :meth:`Pool.run_workers`; they wait more than they compute.

    :param worker: the class of the workers; a worker is called with an item and returns a count.
    :param arguments: the arguments of the class.
    :param workers: the most workers.
    """

    worker: type
    arguments: dict[str, Any]
    workers: int


class Pool:
    """Run functions and workers on a cluster.

    :param workers: the number of workers.
    :param cpus: the CPUs of each.
    :param gpus: the GPUs of each.
    """

    def __init__(self, workers: int, cpus: int, gpus: float) -> None:
        self.workers, self.cpus, self.gpus = workers, cpus, gpus

    def run(self, function: Callable[[Any], Any], items: Iterable[Any]) -> list[Any]:
        """Return the function's value for each item, in their order."""
        import ray.data

        numbered = [{"number": number, "item": item} for number, item in enumerate(items)]
        if not numbered:
            return []
        dataset: ray.data.Dataset = ray.data.from_items(numbered, override_num_blocks=min(BLOCKS, len(numbered)))
        dataset = dataset.map(_Call(function))
        with explained():
            rows = list(dataset.iter_rows())
        return [row["value"] for row in sorted(rows, key=lambda row: row["number"])]

    def run_workers(
        self,
        worker: type,
        arguments: dict[str, Any],
        items: Sequence[str],
        total: int,
        progress: Callable[[int, int], object] | None,
        before: Before | None = None,
    ) -> list[tuple[int, int]]:
        """Give items to workers, one at a time, and return the count that each item gave.

        :param worker: the class of the workers; a worker is called with an item and returns a count.
        :param arguments: the arguments of the class.
        :param items: the items.
        :param total: the sum of all counts of the job; what is missing from it has been done before.
        :param progress: called about twice a second with the sum of the counts so far, and ``total``.
        :param before: workers that get each item first, at the same time as others work on earlier items.
        :returns: for each item its count, and that of the workers before.
        """
        import ray.data

        if not items:
            return []
        dataset: ray.data.Dataset = ray.data.from_items(
            [{"item": item} for item in items], override_num_blocks=min(BLOCKS, len(items))
        )
        if before is not None:
            dataset = dataset.map_batches(
                _BeforeWorker,
                fn_constructor_kwargs={"worker": before.worker, "arguments": before.arguments},
                batch_size=1,
                compute=ray.data.ActorPoolStrategy(size=min(before.workers, len(items))),
                num_cpus=0,  # the CPUs are those of the workers that compute
            )
        dataset = dataset.map_batches(
            _ItemWorker,
            fn_constructor_kwargs={"worker": worker, "arguments": arguments},
            batch_size=1,
            compute=ray.data.ActorPoolStrategy(size=min(self.workers, len(items)), max_tasks_in_flight_per_actor=2),
            num_cpus=self.cpus,
            num_gpus=self.gpus or None,
        )
        counts: list[tuple[int, int]] = []
        ended = threading.Event()

        def report() -> None:
            while not ended.wait(0.5):
                progress(sum(count for count, _ in counts), total) if progress else None

        reporter = threading.Thread(target=report, daemon=True)
        reporter.start()
        try:
            with explained():
                for row in dataset.iter_rows():
                    counts.append((int(row["count"]), int(row.get("before", 0))))
        finally:
            ended.set()
            reporter.join()
        if progress:
            progress(total, total)
        return counts


@contextmanager
def connected(address: str | None, workers: int | None, cpus: int, gpus: float) -> Iterator[Pool]:
    """Connect to a cluster, or start Ray on this machine, and check that it has room for the workers.

    :param address: the cluster's address, or ``auto``; None starts Ray, and stops it at the end.
    :param workers: the number of workers; None for as many as there is room for.
    :param cpus: the CPUs of a worker.
    :param gpus: the GPUs of a worker.
    :yields: the pool.
    :raises InputError: if the cluster is too small; the message says what is missing.
    :raises RerankError: if the cluster cannot be reached.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing reports its use
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # errors are raised, too
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # a worker without a GPU keeps the variables
    import ray
    import ray.data

    begun = not ray.is_initialized()
    if begun:
        options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
        if address is None:
            options |= {"address": "local", "include_dashboard": False, "num_cpus": _cpus()}
        else:
            options |= {"address": address}
        try:
            ray.init(**options)
        except Exception as error:  # Ray raises bare ones, too
            raise RerankError(
                f"the Ray cluster {address or 'on this machine'} cannot be used: {str(error).strip().splitlines()[0]}"
            ) from error
    try:
        context = ray.data.DataContext.get_current()
        context.enable_progress_bars = False
        context.print_on_execution_start = False
        context.execution_options.preserve_order = False
        logging.getLogger("ray.data").setLevel(logging.ERROR)
        resources: Any = ray.cluster_resources  # untyped in Ray
        yield Pool(_room(resources(), workers, cpus, gpus), cpus, gpus)
    finally:
        if begun:
            ray.shutdown()


def _room(resources: dict[str, float], workers: int | None, cpus: int, gpus: float) -> int:
    """Return the number of workers; raise if the cluster is too small for them."""
    most = int(resources.get("CPU", 0) // cpus)
    if gpus:
        most = min(most, math.floor(resources.get("GPU", 0) / gpus + 1e-9))
    wanted = most if workers is None else check_count(workers, "workers")
    if most < max(1, wanted):
        needs = f"{max(1, wanted)} workers with {cpus} CPUs" + (f" and {gpus:g} GPUs" if gpus else "")
        raise InputError(
            f"the cluster has {resources.get('CPU', 0):g} CPUs and {resources.get('GPU', 0):g} GPUs, too few for "
            f"{needs} each; use fewer workers, or a smaller share"
        )
    return wanted


def _cpus() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextmanager
def explained() -> Iterator[None]:
    """Turn Ray's errors into one line: that of the error in a worker, if there was one."""
    import ray.exceptions

    try:
        yield
    except ray.exceptions.RayError as error:
        cause: BaseException = error
        while isinstance(cause, ray.exceptions.RayError) or not isinstance(cause, RerankError):
            deeper = getattr(cause, "cause", None) or cause.__cause__
            if not isinstance(deeper, BaseException):
                break
            cause = deeper
        if isinstance(cause, RerankError):
            raise type(cause)(*cause.args) from None
        last = [line for line in str(cause).strip().splitlines() if line.strip()][-1:]
        raise RerankError(f"a worker failed: {last[0] if last else type(cause).__name__}") from error


class _Call:
    """A function of an item as one of a row; picklable."""

    def __init__(self, function: Callable[[Any], Any]) -> None:
        self.function = function

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        return {"number": row["number"], "value": self.function(row["item"])}


class _ItemWorker:
    """A worker of a job as one of Ray Data."""

    def __init__(self, worker: type, arguments: dict[str, Any]) -> None:
        self.worker = worker(**arguments)

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        counts = [self.worker(str(item)) for item in batch["item"]]
        return {**{name: batch[name] for name in ("before",) if name in batch}, "count": counts}


class _BeforeWorker(_ItemWorker):
    """A worker that passes its items on."""

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        return {"item": batch["item"], "before": [self.worker(str(item)) for item in batch["item"]]}
