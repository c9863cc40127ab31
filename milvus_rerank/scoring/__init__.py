"""Pairs of query and document -> token ids -> batches sorted by length -> scores in the caller's order."""

import threading
from collections.abc import Sequence

from milvus_rerank.errors import StoppedError

Request = tuple[str, Sequence[str]]
"""One query and its documents."""


def check_stop(stop: threading.Event) -> None:
    """Raise if the caller no longer waits.

    :param stop: set by whoever gave up.
    :raises StoppedError: if it is set.
    """
    if stop.is_set():
        raise StoppedError("scoring was stopped before its end")
