"""Run work in the calling thread, or without blocking the event loop."""

import asyncio
import concurrent.futures
import contextvars
import inspect
import threading
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

from milvus_rerank.errors import InputError

_GRACE = 0.25  # seconds: a client that keeps its timeout raises first, and its error says more


def here(work: Callable[[], Any]) -> Any:
    """Run the work in the calling thread.

    :param work: a function of the client, the embedder or the reranker.
    :returns: the result of the work.
    :raises InputError: if the result has to be awaited.
    """
    result = work()
    if inspect.isawaitable(result):
        if inspect.iscoroutine(result):
            result.close()
        raise InputError("the client or the embedder is asynchronous; write: await search.asearch(...)")
    return result


async def off_loop(work: Callable[[], Any]) -> Any:
    """Await asynchronous work; run other work in a thread.

    :param work: a function or a coroutine function.
    :returns: the result of the work.
    """
    if inspect.iscoroutinefunction(work):
        return await work()
    result = await asyncio.to_thread(work)
    return await result if inspect.isawaitable(result) else result


def bounded(work: Callable[[], Any], timeout: float | None) -> Callable[[], Any]:
    """Return work with a time limit that does not depend on the client.

    pymilvus applies its timeout to each attempt. Between two attempts it reconnects for up to the client's timeout,
    10 s by default: while a server restarted, searches with a timeout of 3 s took 6 to 8 s.

    :param work: a function or a coroutine function.
    :param timeout: seconds to wait; None for no limit.
    :returns: the same kind of function; it raises ``TimeoutError`` after the timeout. A blocking call then continues in
        a daemon thread until its client gives up.
    """
    if timeout is None:
        return work
    if inspect.iscoroutinefunction(work):
        return partial(_awaited, work, timeout + _GRACE)
    return partial(_in_thread, work, timeout + _GRACE)


async def _awaited(work: Callable[[], Awaitable[Any]], seconds: float) -> Any:
    try:
        return await asyncio.wait_for(work(), seconds)
    except asyncio.TimeoutError:  # not the builtin TimeoutError in Python 3.10
        raise TimeoutError("the call was given up") from None


def _in_thread(work: Callable[[], Any], seconds: float) -> Any:
    answer: concurrent.futures.Future[Any] = concurrent.futures.Future()

    def run() -> None:
        try:
            answer.set_result(work())
        except BaseException as error:  # noqa: BLE001  the waiting thread must get any exception
            answer.set_exception(error)

    context = contextvars.copy_context()  # for example, a trace's span must reach the client
    threading.Thread(target=context.run, args=(run,), name="milvus-rerank-search", daemon=True).start()
    done, _ = concurrent.futures.wait([answer], seconds)
    if not done:
        raise TimeoutError("the call was given up")
    return answer.result()
