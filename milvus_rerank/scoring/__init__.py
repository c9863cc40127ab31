"""Scoring: pairs of query and document -> token ids -> batches sorted by length -> scores in input order."""

import threading
from collections.abc import Sequence

from milvus_rerank.errors import StoppedError

Request = tuple[str, Sequence[str]]
"""Query with its documents."""


def check_stop(stop: threading.Event) -> None:
    """Raise if the caller no longer waits.

    :param stop: the event that a caller sets when it gives up.
    :raises StoppedError: if it is set.
    """
    if stop.is_set():
        raise StoppedError("scoring was stopped before its end")
