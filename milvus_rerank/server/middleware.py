"""ASGI middleware in front of the application: request ids, keys, admission, body limits, outcomes and logs.

The middleware reads the whole body once, within its limits, so that a slow client cannot keep the application waiting.
While the application works on a request, a task watches for the client's disconnect.
"""

import contextlib
import json
import re
import time
import traceback
import uuid
from dataclasses import dataclass

import anyio
import structlog
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from typing_extensions import TypedDict

from milvus_rerank.server.json_body import ValueCounter
from milvus_rerank.server.metrics import Metrics
from milvus_rerank.server.settings import Limits, Settings, host_name

SIMILARITY = "/hf-inference/models/{model:path}/pipeline/sentence-similarity"

logger = structlog.get_logger("milvus_rerank.server")

_JSON = re.compile(r"application/(?:[\w.+-]+\+)?json\s*(?:;|$)", re.IGNORECASE)
HEADER_BYTES = 64 * 1024
"""The most bytes of a request's headers; the parser itself only bounds headers that arrive in parts."""
UNSENT_BYTES = 64 * 1024
"""The size above which an answer is held until its client reads it."""
PROBES = frozenset({"/health", "/ready"})
"""Paths that load balancers ask by address, whatever the server's name is."""
_SINGLE = frozenset({b"authorization", b"content-length", b"content-type", b"host", b"transfer-encoding"})
_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")
_LEFT = 499  # nginx's status for a client that disconnected; it is never sent
_OUTCOMES = {401: "unauthorized", 429: "overloaded", 502: "upstream_error", 503: "shutting_down"}
_OUTCOMES |= {504: "deadline_exceeded", _LEFT: "client_disconnected"}
_FRAMES = 6  # the last frames of a traceback, which are logged; the frames above are those of the frameworks
_TYPES = {401: "Unauthorized", 429: "Overloaded", 503: "Unhealthy"}


class _RefusedError(Exception):
    """A request that the middleware refuses, with the status of the response."""

    def __init__(self, status: int, message: str, *, retry_after: int | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.retry_after = retry_after


class RequestMiddleware:
    """Check, count and log every request to an application.

    :param app: the application; it reads the body from ``scope["state"]["body"]``.
    :param settings: keys and limits.
    :param metrics: the server's metrics.
    :param public: paths that need no key.
    :param routes: the paths to count separately; others are counted as ``other``, so that clients cannot add labels.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        settings: Settings,
        metrics: Metrics,
        public: frozenset[str],
        routes: frozenset[str],
    ) -> None:
        self.stopping = False
        self.held_bytes = 0
        self._app = app
        self._settings = settings
        self._metrics = metrics
        self._public = public
        self._routes = routes
        self._active = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began = time.perf_counter()
        headers = {name.lower(): value.decode("latin-1") for name, value in scope["headers"]}
        client_id = headers.get(b"x-request-id", "")
        request_id = client_id if _ID.fullmatch(client_id) else uuid.uuid4().hex
        path = scope["path"]
        route = path if path in self._routes else SIMILARITY if path.startswith("/hf-inference/") else "other"
        exchange = _Exchange(scope, receive, send, request_id)
        scope.setdefault("state", {})["request_id"] = request_id
        self._metrics.requests.labels(route).inc()
        try:
            with self._metrics.active.track_inprogress():
                try:
                    await self._answer(headers, exchange)
                except _RefusedError as error:
                    await exchange.refuse(error, self._settings.limits)
        finally:
            status = _LEFT if exchange.left else exchange.status or 500
            self._count(scope, route, status, time.perf_counter() - began)

    async def _answer(self, headers: dict[bytes, str], exchange: "_Exchange") -> None:
        """Read a request and pass it on, or raise the reason for a refusal."""
        scope, limits = exchange.scope, self._settings.limits
        self._check_headers(scope, headers)
        settings = self._settings
        if settings.keys and scope["path"] not in self._public and not settings.admits(headers.get(b"authorization")):
            raise _RefusedError(401, "no key, or a wrong one; send the header 'Authorization: Bearer KEY'")
        if scope["method"] != "POST":
            await self._run(exchange)
            return
        if not _JSON.match(content_type := headers.get(b"content-type", "")):
            got = f"got {content_type[:100]!r}" if content_type else "it is missing"
            raise _RefusedError(415, f"send the header 'Content-Type: application/json'; {got}")
        if self.stopping:
            raise _RefusedError(503, "the server is shutting down", retry_after=5)
        if self._active >= limits.requests:
            raise _RefusedError(429, f"{self._active} requests are being worked on already", retry_after=1)
        self._active += 1
        body = scope["state"]["body"] = bytearray()
        try:
            with self._metrics.stages.labels("read").time():
                await self._read(headers, exchange, body)
            if not exchange.left:
                await self._run(exchange)
        finally:
            self._active -= 1
            self.held_bytes -= exchange.received

    def _check_headers(self, scope: Scope, headers: dict[bytes, str]) -> None:
        """Raise the reason to refuse a request for its headers."""
        if sum(len(name) + len(value) for name, value in scope["headers"]) > HEADER_BYTES:
            raise _RefusedError(431, f"the headers have more than {HEADER_BYTES} bytes")
        names = [name.lower() for name, _ in scope["headers"] if name.lower() in _SINGLE]
        if len(names) > len(set(names)):
            repeated = max(names, key=names.count).decode()
            raise _RefusedError(400, f"the header {repeated!r} came more than once; send it once")
        host = headers.get(b"host", "")
        if scope["path"] not in PROBES and self._settings.refuses_host(host):
            name = host_name(host)[:100] or "NAME"
            raise _RefusedError(
                421, f"the host {host[:100]!r} is not this server's; start it with --allowed-host {name}"
            )
        origin = headers.get(b"origin")  # browsers send it with the requests of pages
        if origin is not None and self._settings.refuses_origin(origin, host):
            raise _RefusedError(403, "a page of another site may not use this server; set a key, or use a proxy")

    async def _read(self, headers: dict[bytes, str], exchange: "_Exchange", body: bytearray) -> None:
        """Read the whole body; if the client disconnects meanwhile, the part that has arrived."""
        limits, counter = self._settings.limits, ValueCounter()
        too_large = f"the body is larger than {limits.body_bytes} bytes"
        announced = headers.get(b"content-length", "0")
        if announced.isdigit() and int(announced) > limits.body_bytes:
            raise _RefusedError(413, too_large)
        try:
            with anyio.fail_after(limits.body_seconds):
                while part := await exchange.part():
                    if counter.add(part) > limits.values:
                        raise _RefusedError(422, f"the body holds more than {limits.values} JSON values")
                    body += part
                    exchange.received += len(part)
                    self.held_bytes += len(part)
                    if exchange.received > limits.body_bytes:
                        raise _RefusedError(413, too_large)
                    if self.held_bytes > limits.held_bytes:
                        raise _RefusedError(
                            429, f"requests of {self.held_bytes} bytes are being worked on already", retry_after=1
                        )
        except TimeoutError as error:
            raise _RefusedError(408, f"the body took more than {limits.body_seconds:g} s to arrive") from error

    async def _run(self, exchange: "_Exchange") -> None:
        """Run the application until it is done or the client has disconnected."""
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(exchange.watch, tasks.cancel_scope)
            try:
                await self._app(exchange.scope, _receive_nothing, exchange.send)
            except Exception as error:  # noqa: BLE001  every request gets an answer
                # Log neither the error's message nor its values: they may hold texts.
                frames = traceback.format_tb(error.__traceback__)[-_FRAMES:]
                request_id = exchange.request_id
                logger.error("failed", id=request_id, error=type(error).__name__, traceback="".join(frames))
                if not exchange.status:
                    await exchange.refuse(_RefusedError(500, failure(request_id)), self._settings.limits)
            tasks.cancel_scope.cancel()

    def _count(self, scope: Scope, route: str, status: int, seconds: float) -> None:
        state = scope["state"]
        other = "ok" if status < 400 else "invalid_request" if status < 500 else "internal_error"
        outcome = _OUTCOMES.get(status, other)
        if status >= 500:  # the status alone does not tell a service's failure from our own
            outcome = state.get("outcome", outcome)
        self._metrics.outcomes.labels(route, outcome).inc()
        self._metrics.stages.labels("total").observe(seconds)
        # Never log a query or a document: logs are kept longer than texts should be, and other people read them.
        logger.info(
            "request",
            id=state["request_id"],
            method=scope["method"],
            route=route,
            status=status,
            ms=round(seconds * 1e3, 2),
            **state.get("request_log", {}),
        )


@dataclass(slots=True)
class _Exchange:
    """One request and its response: tracks their state and adds the request id to the response."""

    scope: Scope
    receive: Receive
    asgi_send: Send
    request_id: str
    status: int = 0
    done: bool = False
    left: bool = False
    received: int = 0
    more: bool = True

    async def part(self) -> bytes:
        """Return the next part of the body; nothing after the last part, or if the client has disconnected."""
        part = b""
        while self.more and not part:
            message = await self.receive()
            self.left = message["type"] == "http.disconnect" and not self.done
            self.more = message.get("more_body", False)
            part = message.get("body", b"")
        return part

    async def watch(self, application: anyio.CancelScope) -> None:
        """Wait until the client has disconnected, then cancel the application's work."""
        while (await self.receive())["type"] != "http.disconnect":
            pass
        self.left = not self.done
        application.cancel()

    async def send(self, message: Message) -> None:
        """Send a part of the response."""
        if message["type"] == "http.response.start":
            self.status = message["status"]
            message["headers"] = [*message.get("headers", ()), (b"x-request-id", self.request_id.encode())]
        if len(message.get("body", b"")) > UNSENT_BYTES and not message.get("more_body", False):
            # uvicorn waits for the reader before a message, not after it. So the end is sent apart: it waits until the
            # client has read the answer, and until then the request counts as being worked on.
            await self.asgi_send({**message, "more_body": True})
            await self.asgi_send({"type": "http.response.body", "body": b"", "more_body": True})
            message = {"type": "http.response.body", "body": b""}
        # Set before sending: a client may disconnect as soon as it has its response.
        self.done = message["type"] == "http.response.body" and not message.get("more_body", False)
        await self.asgi_send(message)

    async def refuse(self, error: "_RefusedError", limits: Limits) -> None:
        """Answer with an error, without the application.

        The rest of the body is read and discarded, within the time limit for bodies: closing a connection with unread
        bytes would reset it, and the client might never see the response.
        """
        body = json.dumps(error_body(error.status, str(error))).encode()
        headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
        if error.status == 401:
            headers.append((b"www-authenticate", b"Bearer"))
        if error.retry_after is not None:
            headers.append((b"retry-after", str(error.retry_after).encode()))
        await self.send({"type": "http.response.start", "status": error.status, "headers": headers})
        await self.asgi_send({"type": "http.response.body", "body": body, "more_body": True})
        self.done = True
        with contextlib.suppress(TimeoutError), anyio.fail_after(limits.body_seconds):
            while await self.part():
                pass
        await self.asgi_send({"type": "http.response.body", "body": b""})


async def _receive_nothing() -> Message:
    """Wait forever, as ASGI's ``receive``: the middleware has read the body and watches for the disconnect."""
    while True:
        await anyio.sleep_forever()


def failure(request_id: str) -> str:
    """Return the message for a server-side failure, with the request id to look up in the log."""
    return f"the server failed; its log says more under the request id {request_id}"


class ErrorAnswer(TypedDict):
    """Error response with the keys of TEI, Cohere and Jina together, so that every client finds its own."""

    error: str
    error_type: str
    message: str
    detail: str


def error_body(status: int, message: str) -> ErrorAnswer:
    """Return the JSON of an error."""
    kind = _TYPES.get(status, "Validation" if status < 500 else "Backend")
    return {"error": message, "error_type": kind, "message": message, "detail": message}
