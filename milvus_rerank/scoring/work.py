"""Batches of one call, which one or several devices take from."""

import contextvars
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from milvus_rerank.errors import DeviceError, RerankError
from milvus_rerank.progress import Bar
from milvus_rerank.scoring.encoder import Pair
from milvus_rerank.scoring.prepared import Logits, Prepared


@dataclass(slots=True)
class Part:
    """Prepared pairs while they are scored.

    :param number: the place among the parts of a call.
    :param prepared: the pairs.
    :param row_logits: one for each row, filled as batches finish.
    :param left: the rows that have no logit yet.
    """

    number: int
    prepared: Prepared
    row_logits: NDArray[np.float32]
    left: int


@dataclass(slots=True)
class Work:
    """The work of one call.

    :param batches: batches with their parts, as positions of rows, the longest first; none for a part without rows.
    :param finished: the logits of finished parts, by number.
    :param lock: held to take a batch and to count finished rows.
    """

    batches: Iterator[tuple[Part, list[int]]]
    finished: dict[int, Logits] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)


def run_together(work: Work, tasks: Sequence[Callable[[], None]], devices: Sequence[str]) -> None:
    """Run one task for each device at the same time. After an error no task begins another batch.

    :param work: the work that the tasks share.
    :param tasks: they take batches until there are none.
    :param devices: the tasks' devices.
    :raises DeviceError: if a device failed; names it.
    :raises RerankError: whatever error of this package a task raised.
    """
    with ThreadPoolExecutor(len(tasks), thread_name_prefix="device") as pool:
        futures = [pool.submit(contextvars.copy_context().run, task) for task in tasks]
        try:
            wait(futures, return_when=FIRST_EXCEPTION)
        finally:
            with work.lock:
                work.batches = iter(())
    for device, future in zip(devices, futures, strict=True):
        try:
            future.result()
        except RerankError:
            raise
        except Exception as error:
            raise DeviceError(f"the model failed on {device}: {type(error).__name__}: {error}") from error


def count_rows(bar: Bar, parts: Iterator[Prepared]) -> Iterator[Prepared]:
    """Yield parts; add the rows that they have beyond their pairs to a progress bar."""
    for prepared in parts:
        bar.extend(len(prepared.rows) - len(prepared.pairs))
        yield prepared


def ahead(prepare: Callable[[list[Pair]], Prepared], parts: Sequence[list[Pair]]) -> Iterator[Prepared]:
    """Yield prepared parts; each is prepared in a thread while the part before it is scored."""
    with ThreadPoolExecutor(1, thread_name_prefix="tokenize") as pool:
        run = contextvars.copy_context().run
        coming = pool.submit(run, prepare, parts[0])
        for following in parts[1:]:
            prepared, coming = coming.result(), pool.submit(run, prepare, following)
            yield prepared
        yield coming.result()
