"""Two ways to do the same work: on the spot, or without blocking the event loop."""

import asyncio
import inspect
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeAlias, TypeVar

from milvus_rerank.errors import InputError

T = TypeVar("T")
Run: TypeAlias = Callable[[Callable[[], Any]], Awaitable[Any]]


async def here(work: Callable[[], Any]) -> Any:
    """Do the work on the spot; awaiting this never suspends.

    :param work: a function of the client, the embedder or the reranker.
    :returns: what it returns.
    :raises InputError: if it has to be awaited.
    """
    result = work()
    if inspect.isawaitable(result):
        if inspect.iscoroutine(result):
            result.close()
        raise InputError("the client or the embedder is asynchronous; write: await search.asearch(...)")
    return result


async def off_loop(work: Callable[[], Any]) -> Any:
    """Await asynchronous work, do any other in a thread.

    :param work: a function or a coroutine function.
    :returns: what it returns.
    """
    if inspect.iscoroutinefunction(work):
        return await work()
    result = await asyncio.to_thread(work)
    return await result if inspect.isawaitable(result) else result


def run_here(work: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine that never suspends, as all of its work is done by :func:`here`; no event loop takes part.

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
