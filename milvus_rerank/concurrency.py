"""Two ways to do the same work: on the spot, or without blocking the event loop."""

import asyncio
import concurrent.futures
import contextvars
import inspect
import threading
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

from milvus_rerank.errors import InputError

_GRACE = 0.25  # seconds: a client that keeps to its timeout gives its own error first, which says more


def here(work: Callable[[], Any]) -> Any:
    """Do the work on the spot.

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


def bounded(work: Callable[[], Any], timeout: float | None) -> Callable[[], Any]:
    """Return work that ends in time, whatever its client does.

    pymilvus gives its timeout to each attempt alone, and reconnects between two for as long as the client's own
    timeout, 10 s if not given: while a server came up again, searches with 3 s took 6 to 8.

    :param work: a function, or a coroutine function.
    :param timeout: seconds to wait; None for as long as it takes.
    :returns: the same kind of function; it raises ``TimeoutError`` when the time is up. A blocking call that is given
        up goes on in a daemon thread until its client gives up, too.
    """
    if timeout is None:
        return work
    if inspect.iscoroutinefunction(work):
        return partial(_awaited, work, timeout + _GRACE)
    return partial(_in_thread, work, timeout + _GRACE)


async def _awaited(work: Callable[[], Awaitable[Any]], seconds: float) -> Any:
    try:
        return await asyncio.wait_for(work(), seconds)
    except asyncio.TimeoutError:  # another class than the builtin in Python 3.10
        raise TimeoutError("the call was given up") from None


def _in_thread(work: Callable[[], Any], seconds: float) -> Any:
    answer: concurrent.futures.Future[Any] = concurrent.futures.Future()

    def run() -> None:
        try:
            answer.set_result(work())
        except BaseException as error:  # whatever it is, it belongs to the thread that waits
            answer.set_exception(error)

    context = contextvars.copy_context()  # a trace's span, for instance, must reach the client
    threading.Thread(target=context.run, args=(run,), name="milvus-rerank-search", daemon=True).start()
    done, _ = concurrent.futures.wait([answer], seconds)
    if not done:
        raise TimeoutError("the call was given up")
    return answer.result()
