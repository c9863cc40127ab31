"""HTTP requests over httpx, in the caller's event loop; sync calls have a loop in a thread."""

import asyncio
import concurrent.futures
import logging
import os
import threading
import weakref
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterator, Mapping, MutableMapping
from contextlib import aclosing, contextmanager, suppress
from contextvars import ContextVar, copy_context
from functools import partial
from typing import Any, TypeAlias

import anyio
import httpx

from milvus_rerank.errors import InputError
from milvus_rerank.forks import ForkLock, keep
from milvus_rerank.reranker.remote.failures import AttemptError, clean
from milvus_rerank.reranker.remote.providers import Endpoint
from milvus_rerank.scoring import check_stop

HttpxClient: TypeAlias = httpx.Client | httpx.AsyncClient
Scores: TypeAlias = list[list[float]]
_OpenClient: TypeAlias = tuple[httpx.AsyncClient, AsyncGenerator[httpx.AsyncClient, None]]

_SPARE_BYTES = 1024 * 1024  # of an answer, plus three per byte sent: vLLM repeats the documents, and JSON escapes them
_POLL = 0.1  # seconds between checks if a sync call was stopped
_LOGGERS = ("httpx", "httpcore.connection", "httpcore.http11", "httpcore.http2", "httpcore.proxy", "httpcore.socks")
_HPACK_LOGGERS = ("hpack.hpack", "hpack.table")  # of HTTP/2, which a user's client may speak
_endpoint: ContextVar[Endpoint | None] = ContextVar("milvus_rerank_endpoint", default=None)


class Answer:
    """The answer to a request, without a body that has an encoding, and without the end of a body that is too long."""

    def __init__(self, response: httpx.Response, content: bytes) -> None:
        self.status, self.headers, self.body = response.status_code, response.headers, bytearray()
        self.max_bytes = _SPARE_BYTES + 3 * len(content)
        names = self.headers.get("content-encoding", "").lower().replace(" ", "")
        self.encoding = "" if set(names.split(",")) <= {"", "identity"} else names
        if response.is_stream_consumed:  # an event hook of the user's client has read it
            self.body += response.content
        self.is_complete = response.is_stream_consumed or bool(self.encoding)

    def add(self, chunk: bytes | None) -> None:
        """Add a part of the body; None is its end."""
        self.body += chunk or b""
        self.is_complete = chunk is None or len(self.body) > self.max_bytes


class Connections:
    """Connections to an endpoint: the user's client, which stays open, or a client for each event loop."""

    def __init__(self, endpoint: Endpoint, client: HttpxClient | None) -> None:
        try:
            url = httpx.URL(endpoint.url)
        except httpx.InvalidURL as error:
            raise InputError(f"{endpoint.address!r} is no address: {error}") from error
        if client is not None and not isinstance(client, (httpx.Client, httpx.AsyncClient)):
            raise InputError(f"client must be an httpx.Client or httpx.AsyncClient, got {type(client).__name__}")
        self._user_client, self._endpoint = client, endpoint
        headers = {
            "accept": "application/json",
            "accept-encoding": "identity",  # answers are small, and uncompressed data cannot expand
            "content-type": "application/json",
            "user-agent": "milvus-rerank",
        }
        self._request: dict[str, Any] = {
            "method": "POST",
            # httpx logs addresses, and the query string may hold a secret: "target" sends it outside the address.
            "url": url.copy_with(query=None),
            "extensions": {"target": url.raw_path} if url.query else {},
            "headers": httpx.Headers(headers | ({"authorization": f"Bearer {endpoint.key}"} if endpoint.key else {})),
            "follow_redirects": False,  # the key and the texts go only to the configured address
        }
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=32)
        self._options = {"verify": httpx.create_ssl_context() if client is None else True, "limits": limits}
        self._clients: MutableMapping[asyncio.AbstractEventLoop, _OpenClient] = weakref.WeakKeyDictionary()
        self._thread: _LoopThread | None = None
        self._lock = ForkLock()

    def run(self, call: Callable[[], Coroutine[Any, Any, Scores]], stop: threading.Event) -> Scores:
        """Return the result of a sync call's coroutine; raise StoppedError when ``stop`` is set."""
        if isinstance(self._user_client, httpx.AsyncClient):
            raise InputError("client is an httpx.AsyncClient: await arerank() or its like, or pass an httpx.Client")
        with self._lock:
            if self._thread is None or self._thread.process != os.getpid():
                keep(self._thread)  # of a parent: to free its loop would disturb the parent's connections
                self._thread = _LoopThread()
                weakref.finalize(self, self._thread.close)
            future = asyncio.run_coroutine_threadsafe(call(), self._thread.loop)  # in the caller's context
        try:
            while not concurrent.futures.wait([future], _POLL).done:
                check_stop(stop)
            return future.result()
        finally:
            future.cancel()

    async def arun(self, call: Callable[[], Coroutine[Any, Any, Scores]]) -> Scores:
        """Do the same as :meth:`run` in the running event loop."""
        if isinstance(self._user_client, httpx.Client):
            raise InputError("client is an httpx.Client: use the plain calls, or pass an httpx.AsyncClient")
        return await call()

    async def send(self, content: bytes, seconds: float) -> Answer:
        """Send a request within so many seconds; a cancelled call closes its connection."""
        client = self._user_client or await self._loop_client()
        request = {**self._request, "content": content, "timeout": seconds}
        with _attempt_errors(self._endpoint, seconds), anyio.fail_after(seconds):
            if isinstance(client, httpx.Client):
                return await _send_in_thread(client, request)
            async with client.stream(**request) as response, aclosing(response.aiter_raw()) as chunks:  # type: ignore[type-var]
                answer = Answer(response, content)
                while not answer.is_complete:
                    answer.add(await anext(chunks, None))
        return answer

    def close(self) -> None:
        """Close the connections of sync calls, except the user's client; the next call opens new connections."""
        with self._lock:
            thread, self._thread = self._thread, None
        if thread is not None:
            thread.close()

    async def aclose(self) -> None:
        """Close the connections of the running event loop, except the user's client."""
        if asyncio.get_running_loop() in self._clients:
            await self._clients[asyncio.get_running_loop()][1].aclose()

    async def _loop_client(self) -> httpx.AsyncClient:
        loop = asyncio.get_running_loop()
        if loop not in self._clients:
            opened = _open_client(self._options, self._clients)
            self._clients[loop] = (await anext(opened), opened)
        return self._clients[loop][0]


class _LoopThread:
    """A thread with an event loop, for the sync calls of one reranker."""

    def __init__(self) -> None:
        self.process, ready = os.getpid(), threading.Event()
        run = partial(asyncio.run, self._serve(ready))
        self._thread = threading.Thread(target=run, name="rerank-service", daemon=True)
        self._thread.start()
        ready.wait()

    async def _serve(self, ready: threading.Event) -> None:
        self.loop, self._over = asyncio.get_running_loop(), asyncio.Event()
        ready.set()
        await self._over.wait()
        await asyncio.gather(*asyncio.all_tasks() - {asyncio.current_task()}, return_exceptions=True)

    def close(self) -> None:
        """End the thread when its calls have ended, and close its connections."""
        if self.process == os.getpid() and not self.loop.is_closed():
            self.loop.call_soon_threadsafe(self._over.set)
            if self._thread is not threading.current_thread():
                self._thread.join(1.0)


async def _open_client(options: Mapping[str, Any], clients: Any) -> AsyncGenerator[httpx.AsyncClient, None]:
    """Yield a client that closes with its event loop: ``asyncio.run`` closes open async generators."""
    client = httpx.AsyncClient(**options)
    try:
        yield client
    finally:
        clients.pop(asyncio.get_running_loop(), None)
        await client.aclose()


async def _send_in_thread(client: httpx.Client, request: Mapping[str, Any]) -> Answer:
    """Send a request over the user's sync client, in a thread: httpx limits the time of each step, not of all."""
    future: concurrent.futures.Future[Answer] = concurrent.futures.Future()

    def send() -> None:
        try:
            with client.stream(**request) as response:
                answer, chunks = Answer(response, request["content"]), response.iter_raw()
                while not (answer.is_complete or future.cancelled()):
                    answer.add(next(chunks, None))
            finish: Callable[[], None] = partial(future.set_result, answer)
        except BaseException as error:  # noqa: BLE001  the waiting task must get any exception
            finish = partial(future.set_exception, error)
        with suppress(concurrent.futures.InvalidStateError):  # nobody waits any more
            finish()

    threading.Thread(target=copy_context().run, args=(send,), name="rerank-service", daemon=True).start()
    return await asyncio.wrap_future(future)


@contextmanager
def _attempt_errors(endpoint: Endpoint, seconds: float) -> Iterator[None]:
    """Convert httpx's exceptions to AttemptError, and keep the endpoint's secrets out of the logs."""
    token = _endpoint.set(endpoint)
    try:
        yield
    except (httpx.TimeoutException, TimeoutError):
        advice = "raise timeout=..., or deadline=... if there is one, or send less at once with max_documents=..."
        raise AttemptError(f"did not answer within {seconds:.3g} s", advice, retryable=True, timed_out=True) from None
    except httpx.HTTPError as error:
        problem = clean(str(error), endpoint) or type(error).__name__
        if isinstance(error, httpx.RemoteProtocolError):
            raise AttemptError(f"broke off its answer ({problem})", retryable=True) from None
        if not isinstance(error, (httpx.NetworkError, httpx.ProxyError)):
            raise AttemptError(f"cannot be asked, or its answer cannot be read ({problem})") from None
        untrusted = "CERTIFICATE_VERIFY_FAILED" in problem
        advice = "if its certificate is your own authority's, set SSL_CERT_FILE to the authority's"
        advice = advice if untrusted else "is it running, and is the address right?"
        raise AttemptError(f"cannot be reached ({problem})", advice, retryable=not untrusted) from None
    finally:
        _endpoint.reset(token)


def _redact(record: logging.LogRecord) -> bool:
    """Remove the endpoint's secrets from a log line: httpcore logs an answer's headers, which may repeat the key."""
    endpoint = _endpoint.get()
    if endpoint is not None and endpoint.secrets:
        record.msg, record.args = endpoint.redact(record.getMessage()), ()
    return True


for _name in (*_LOGGERS, *_HPACK_LOGGERS):
    logging.getLogger(_name).addFilter(_redact)
