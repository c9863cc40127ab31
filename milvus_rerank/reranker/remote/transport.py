"""Sending a request and receiving its answer, with and without an event loop: all there is of httpx."""

import asyncio
import os
import threading
import weakref
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping, MutableMapping
from contextlib import aclosing, contextmanager
from dataclasses import dataclass

import anyio
import httpx

from milvus_rerank.errors import InputError
from milvus_rerank.reranker.remote.failures import AttemptError
from milvus_rerank.reranker.remote.providers import Endpoint
from milvus_rerank.reranker.remote.retry_policy import Clock

SPARE_BYTES = 1024 * 1024
"""How large any answer may be; it may repeat the documents, too, as vLLM's do."""
_LIMITS = httpx.Limits(max_connections=None, max_keepalive_connections=32)  # how many are open, the callers decide


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer.

    :param status: the HTTP status.
    :param headers: its headers.
    :param body: its bytes.
    :param whole: whether these are all; no more than a request's fair share is read.
    """

    status: int
    headers: Mapping[str, str]
    body: bytes
    whole: bool


class Connections:
    """The open connections to one service: some for plain calls, and some for each event loop.

    :param endpoint: where it is.
    :param clock: tells when an answer takes too long.
    :raises InputError: if no client can use the address.
    """

    def __init__(self, endpoint: Endpoint, clock: Clock) -> None:
        try:
            url = httpx.URL(endpoint.url)
        except httpx.InvalidURL as error:
            raise InputError(f"{endpoint.address!r} is no address: {error}") from error
        # The query may hold a secret, and httpx logs addresses, so it is sent past the address.
        self._url = url.copy_with(query=None)
        self._extensions = {"target": url.raw_path}
        self._clock = clock
        self._headers = {
            "accept": "application/json",
            "accept-encoding": "identity",  # answers are small, and what is not packed cannot burst
            "content-type": "application/json",
            "user-agent": "milvus-rerank",
        }
        if endpoint.key:
            self._headers["authorization"] = f"Bearer {endpoint.key}"
        self._context = httpx.create_ssl_context()
        self._lock = threading.Lock()
        self._plain: httpx.Client | None = None
        self._process = os.getpid()
        self._close: Callable[[], object] = lambda: None
        self._loops: MutableMapping[asyncio.AbstractEventLoop, _Open] = weakref.WeakKeyDictionary()

    def post(self, content: bytes, seconds: float) -> Reply:
        """Send a request and wait for its answer.

        :param content: the body.
        :param seconds: for each step, and for all of them once the answer's body has begun.
        :returns: the answer.
        :raises AttemptError: if there is none.
        """
        start = self._clock.now()
        with (
            _told(seconds),
            self._client().stream(
                "POST", self._url, content=content, timeout=seconds, extensions=self._extensions
            ) as response,
        ):
            taken = _Taken(response, len(content))
            for chunk in response.iter_bytes():
                if self._clock.now() - start > seconds:
                    raise httpx.ReadTimeout("the answer takes too long")
                if not taken.add(chunk):
                    break
            return taken.reply()

    async def apost(self, content: bytes, seconds: float) -> Reply:
        """Like :meth:`post`, without a thread; a cancelled call closes its connection."""
        client = await self._client_here()
        with _told(seconds), anyio.fail_after(seconds):
            async with (
                client.stream(
                    "POST", self._url, content=content, timeout=seconds, extensions=self._extensions
                ) as response,
                aclosing(response.aiter_bytes()) as chunks,  # type: ignore[type-var]
            ):
                taken = _Taken(response, len(content))
                async for chunk in chunks:
                    if not taken.add(chunk):
                        break
                return taken.reply()

    def close(self) -> None:
        """Close the connections of plain calls; the next call opens new ones."""
        with self._lock:
            self._plain = None
            close, self._close = self._close, lambda: None
        close()

    async def aclose(self) -> None:
        """Close the connections of the running event loop."""
        held = self._loops.get(asyncio.get_running_loop())
        if held is not None:
            await held.keeper.aclose()

    def _client(self) -> httpx.Client:
        with self._lock:
            if self._plain is None or self._process != os.getpid():  # a fork must not share its parent's connections
                client = httpx.Client(headers=self._headers, verify=self._context, limits=_LIMITS)
                self._plain, self._process = client, os.getpid()
                self._close = weakref.finalize(self, client.close)
            return self._plain

    async def _client_here(self) -> httpx.AsyncClient:
        loop = asyncio.get_running_loop()
        held = self._loops.get(loop)
        if held is None:
            client = httpx.AsyncClient(headers=self._headers, verify=self._context, limits=_LIMITS)
            held = _Open(client, _keep(client, self._loops, loop))
            await anext(held.keeper)
            self._loops[loop] = held
        return held.client


@dataclass(frozen=True, slots=True)
class _Open:
    client: httpx.AsyncClient
    keeper: AsyncGenerator[None, None]


async def _keep(
    client: httpx.AsyncClient,
    loops: MutableMapping[asyncio.AbstractEventLoop, _Open],
    loop: asyncio.AbstractEventLoop,
) -> AsyncGenerator[None, None]:
    """Close a client when its event loop ends: ``asyncio.run`` and its like then close the generators left open."""
    try:
        yield
    finally:
        loops.pop(loop, None)
        await client.aclose()


class _Taken:
    """What has come of an answer."""

    def __init__(self, response: httpx.Response, sent: int) -> None:
        self._response = response
        self._limit = SPARE_BYTES + 3 * sent  # with its escapes JSON may take that much more for a text
        self._body = bytearray()

    def add(self, chunk: bytes) -> bool:
        """Take a part, and tell whether there is room for more."""
        self._body += chunk[: self._limit + 1 - len(self._body)]
        return len(self._body) <= self._limit

    def reply(self) -> Reply:
        """Return what there is."""
        whole = len(self._body) <= self._limit
        return Reply(self._response.status_code, self._response.headers, bytes(self._body), whole)


@contextmanager
def _told(seconds: float) -> Iterator[None]:
    """Say what an exception of httpx means."""
    try:
        yield
    except (httpx.TimeoutException, TimeoutError) as error:
        raise AttemptError(
            f"did not answer within {seconds:.3g} s",
            advice="raise timeout=..., or deadline=... if there is one, or send less at once with max_documents=...",
            again=True,
        ) from error
    except (httpx.NetworkError, httpx.ProxyError) as error:
        untrusted = "CERTIFICATE_VERIFY_FAILED" in str(error)
        advice = "if its certificate is your own authority's, set SSL_CERT_FILE to the authority's"
        raise AttemptError(
            f"cannot be reached ({error or type(error).__name__})",
            advice=advice if untrusted else "is it running, and is the address right?",
            again=not untrusted,
        ) from error
    except httpx.RemoteProtocolError as error:
        raise AttemptError(f"broke off its answer ({error})", again=True) from error
    except httpx.HTTPError as error:
        raise AttemptError(f"cannot be asked, or its answer cannot be read ({error})") from error
