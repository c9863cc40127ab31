"""One core for callers that block and for event loops: a coroutine that never suspends needs no loop."""

from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


def run_here(work: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine that never suspends, as all that it awaits blocks instead; no event loop takes part.

    :param work: the coroutine.
    :returns: what it returns.
    """
    try:
        work.send(None)
    except StopIteration as done:
        result: T = done.value
        return result
    work.close()
    raise RuntimeError("the coroutine waited for something, but nothing could wake it")
