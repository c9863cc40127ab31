"""HTTP requests over httpx, in threads and in event loops."""

import asyncio
import os
import threading
import weakref
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping, MutableMapping
from contextlib import aclosing, contextmanager
from typing import Any, NamedTuple, TypeAlias

import anyio
import httpx

from milvus_rerank.errors import InputError
from milvus_rerank.reranker.remote.failures import AttemptError
from milvus_rerank.reranker.remote.providers import Endpoint

HttpxClient: TypeAlias = httpx.Client | httpx.AsyncClient

SPARE_BYTES = 1024 * 1024
"""The most bytes of an answer, plus three per byte sent: vLLM repeats the documents, and JSON escapes them."""


class Answer(NamedTuple):
    """The answer to a request; the rest of a body longer than ``max_bytes`` is not read."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    max_bytes: int


class Connections:
    """Connections to an endpoint.

    They belong to the user's client, which stays open. Without a user's client, a client for threads and a client for
    each event loop open at first use.
    """

    def __init__(self, endpoint: Endpoint, now: Callable[[], float], client: HttpxClient | None) -> None:
        try:
            url = httpx.URL(endpoint.url)
        except httpx.InvalidURL as error:
            raise InputError(f"{endpoint.address!r} is no address: {error}") from error
        if client is not None and not isinstance(client, (httpx.Client, httpx.AsyncClient)):
            raise InputError(f"client must be an httpx.Client or httpx.AsyncClient, got {type(client).__name__}")
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
            "headers": headers | ({"authorization": f"Bearer {endpoint.key}"} if endpoint.key else {}),
            "follow_redirects": False,  # the key and the texts go only to the configured address
        }
        self._now = now
        self._user_client = client
        self._options: dict[str, Any] = {
            "verify": httpx.create_ssl_context() if client is None else True,
            "limits": httpx.Limits(max_connections=None, max_keepalive_connections=32),
        }
        self._lock = threading.Lock()
        self._client: httpx.Client | None = None
        self._process = os.getpid()
        self._close: Callable[[], object] = lambda: None
        self._loops: MutableMapping[
            asyncio.AbstractEventLoop, tuple[httpx.AsyncClient, AsyncGenerator[httpx.AsyncClient, None]]
        ] = weakref.WeakKeyDictionary()

    def post(self, content: bytes, seconds: float) -> Answer:
        """Send a request; ``seconds`` limits each step, and also their sum once the answer's body begins."""
        start, body, max_bytes = self._now(), bytearray(), SPARE_BYTES + 3 * len(content)
        client = self._plain_client()
        with _attempt_errors(seconds), client.stream(**self._request, content=content, timeout=seconds) as response:
            for chunk in response.iter_bytes():
                if self._now() - start > seconds:
                    raise httpx.ReadTimeout("the answer takes too long")
                body += chunk
                if len(body) > max_bytes:
                    break
        return Answer(response.status_code, response.headers, bytes(body), max_bytes)

    async def apost(self, content: bytes, seconds: float) -> Answer:
        """Do the same as :meth:`post`, in an event loop; a cancelled call closes its connection."""
        body, max_bytes = bytearray(), SPARE_BYTES + 3 * len(content)
        client = await self._loop_client()
        with _attempt_errors(seconds), anyio.fail_after(seconds):
            async with (
                client.stream(**self._request, content=content, timeout=seconds) as response,
                aclosing(response.aiter_bytes()) as chunks,  # type: ignore[type-var]
            ):
                async for chunk in chunks:
                    body += chunk
                    if len(body) > max_bytes:
                        break
        return Answer(response.status_code, response.headers, bytes(body), max_bytes)

    def close(self) -> None:
        """Close the connections of sync calls, except the user's client; the next call opens new connections."""
        with self._lock:
            self._client = None
            close, self._close = self._close, lambda: None
        close()

    async def aclose(self) -> None:
        """Close the connections of the running event loop, except the user's client."""
        if asyncio.get_running_loop() in self._loops:
            await self._loops[asyncio.get_running_loop()][1].aclose()

    def _plain_client(self) -> httpx.Client:
        if isinstance(self._user_client, httpx.AsyncClient):
            raise InputError("client is an httpx.AsyncClient: await arerank() or its like, or pass an httpx.Client")
        if self._user_client is not None:
            return self._user_client
        with self._lock:
            if self._client is None or self._process != os.getpid():  # a fork must not use its parent's connections
                self._client, self._process = httpx.Client(**self._options), os.getpid()
                self._close = weakref.finalize(self, self._client.close)
            return self._client

    async def _loop_client(self) -> httpx.AsyncClient:
        if isinstance(self._user_client, httpx.Client):
            raise InputError("client is an httpx.Client: use the plain calls, or pass an httpx.AsyncClient")
        if self._user_client is not None:
            return self._user_client
        loop = asyncio.get_running_loop()
        if loop not in self._loops:
            opened = _open_client(self._options, self._loops, loop)
            self._loops[loop] = (await anext(opened), opened)
        return self._loops[loop][0]


async def _open_client(
    options: Mapping[str, Any], loops: MutableMapping[asyncio.AbstractEventLoop, Any], loop: asyncio.AbstractEventLoop
) -> AsyncGenerator[httpx.AsyncClient, None]:
    """Yield a client that closes with its event loop: ``asyncio.run`` closes open async generators."""
    client = httpx.AsyncClient(**options)
    try:
        yield client
    finally:
        loops.pop(loop, None)
        await client.aclose()


@contextmanager
def _attempt_errors(seconds: float) -> Iterator[None]:
    """Convert httpx's exceptions to :class:`AttemptError`."""
    try:
        yield
    except (httpx.TimeoutException, TimeoutError) as error:
        advice = "raise timeout=..., or deadline=... if there is one, or send less at once with max_documents=..."
        raise AttemptError(f"did not answer within {seconds:.3g} s", advice, retryable=True) from error
    except (httpx.NetworkError, httpx.ProxyError) as error:
        problem = f"cannot be reached ({error or type(error).__name__})"
        if "CERTIFICATE_VERIFY_FAILED" in problem:
            advice = "if its certificate is your own authority's, set SSL_CERT_FILE to the authority's"
            raise AttemptError(problem, advice) from error
        raise AttemptError(problem, "is it running, and is the address right?", retryable=True) from error
    except httpx.RemoteProtocolError as error:
        raise AttemptError(f"broke off its answer ({error})", retryable=True) from error
    except httpx.HTTPError as error:
        raise AttemptError(f"cannot be asked, or its answer cannot be read ({error})") from error
