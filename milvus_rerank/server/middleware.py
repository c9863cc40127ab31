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
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

import anyio
import structlog
from typing_extensions import TypedDict

from milvus_rerank.server.metrics import Metrics
from milvus_rerank.server.settings import Limits, Settings

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]

logger = structlog.get_logger("milvus_rerank.server")

_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")
_LEFT = 499  # nginx's status for a client that disconnected; it is never sent
_OUTCOMES = {
    401: "unauthorized",
    429: "overloaded",
    _LEFT: "client_disconnected",
    503: "shutting_down",
    504: "deadline_exceeded",
}
_FRAMES = 6  # the last frames of a traceback, which are logged; the frames above are those of the frameworks
_TYPES = {401: "Unauthorized", 429: "Overloaded", 503: "Unhealthy"}


class _NotReadError(Exception):
    """A body that is too large or too slow, with the status of the response."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class RequestMiddleware:
    """Check, count and log every request to an application.

    :param app: the application.
    :param settings: keys and limits.
    :param metrics: the server's metrics.
    :param public: paths that need no key.
    :param label: a function from a path to its label in the metrics.
    """

    def __init__(
        self,
        app: Application,
        *,
        settings: Settings,
        metrics: Metrics,
        public: frozenset[str],
        label: Callable[[str], str],
    ) -> None:
        self.stopping = False
        self._app = app
        self._settings = settings
        self._metrics = metrics
        self._public = public
        self._label = label
        self._active = 0
        self._held = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began = time.perf_counter()
        headers = {name.lower(): value.decode("latin-1") for name, value in scope["headers"]}
        given = headers.get(b"x-request-id", "")
        request_id = given if _ID.fullmatch(given) else uuid.uuid4().hex
        scope.setdefault("state", {})["request_id"] = request_id
        route = self._label(scope["path"])
        exchange = _Exchange(receive, send, request_id)
        self._metrics.requests.labels(route).inc()
        try:
            with self._metrics.active.track_inprogress():
                await self._pass(scope, headers, exchange)
        finally:
            status = _LEFT if exchange.left else exchange.status or 500
            self._count(scope, route, status, time.perf_counter() - began)

    async def _pass(self, scope: Scope, headers: dict[bytes, str], exchange: "_Exchange") -> None:
        """Pass a request on, or refuse it with the reason."""
        limits = self._settings.limits
        if scope["path"] not in self._public and not self._settings.admits(headers.get(b"authorization")):
            await exchange.refuse(401, "no key, or a wrong one; send the header 'Authorization: Bearer KEY'", limits)
        elif scope["method"] != "POST":
            await self._work(scope, b"", exchange)
        elif self.stopping:
            await exchange.refuse(503, "the server is shutting down", limits, retry_after=5)
        elif self._active >= limits.requests:
            await exchange.refuse(429, f"{self._active} requests are being worked on already", limits, retry_after=1)
        else:
            self._active += 1
            try:
                await self._read_and_work(scope, headers, exchange)
            finally:
                self._active -= 1

    async def _read_and_work(self, scope: Scope, headers: dict[bytes, str], exchange: "_Exchange") -> None:
        body = bytearray()
        try:
            with self._metrics.stages.labels("read").time():
                await self._read(headers, exchange, body)
            if not exchange.left:
                await self._work(scope, bytes(body), exchange)
        except _NotReadError as error:
            self._held -= len(body)
            body.clear()
            retry_after = 1 if error.status == 429 else None
            await exchange.refuse(error.status, str(error), self._settings.limits, retry_after=retry_after)
        finally:
            self._held -= len(body)

    async def _read(self, headers: dict[bytes, str], exchange: "_Exchange", body: bytearray) -> None:
        """Read the whole body; if the client disconnects meanwhile, the part that has arrived."""
        limits = self._settings.limits
        too_large = f"the body is larger than {limits.body_bytes} bytes"
        announced = headers.get(b"content-length", "0")
        if announced.isdigit() and int(announced) > limits.body_bytes:
            raise _NotReadError(413, too_large)
        try:
            with anyio.fail_after(limits.body_seconds):
                while (part := await exchange.part()) is not None:
                    body += part
                    self._held += len(part)
                    if len(body) > limits.body_bytes:
                        raise _NotReadError(413, too_large)
                    if self._held > limits.held_bytes:
                        raise _NotReadError(429, f"requests of {self._held} bytes are being worked on already")
        except TimeoutError as error:
            raise _NotReadError(408, f"the body took more than {limits.body_seconds:g} s to arrive") from error

    async def _work(self, scope: Scope, body: bytes, exchange: "_Exchange") -> None:
        """Run the application until it is done or the client has disconnected."""
        async with anyio.create_task_group() as tasks:

            async def watch() -> None:
                await exchange.gone()
                tasks.cancel_scope.cancel()

            tasks.start_soon(watch)
            try:
                await self._app(scope, exchange.replay(body), exchange.send)
            except Exception as error:
                # Log neither the error's message nor its values: they may hold texts.
                frames = traceback.format_tb(error.__traceback__)[-_FRAMES:]
                request_id = scope["state"]["request_id"]
                logger.error("failed", id=request_id, error=type(error).__name__, traceback="".join(frames))
                if not exchange.status:
                    await exchange.refuse(500, failure(request_id), self._settings.limits)
            tasks.cancel_scope.cancel()

    def _count(self, scope: Scope, route: str, status: int, seconds: float) -> None:
        other = "ok" if status < 400 else "invalid_request" if status < 500 else "internal_error"
        outcome = _OUTCOMES.get(status, other)
        self._metrics.outcomes.labels(route, outcome).inc()
        self._metrics.stages.labels("total").observe(seconds)
        request_log = scope["state"].get("request_log")
        known = (
            {}
            if request_log is None
            else {"model": request_log.model, "documents": request_log.documents, "tokens": request_log.tokens}
        )
        # Never log a query or a document: logs are kept longer than texts should be, and other people read them.
        logger.info(
            "request",
            id=scope["state"]["request_id"],
            method=scope["method"],
            route=route,
            status=status,
            ms=round(seconds * 1e3, 2),
            **known,
        )


class _Exchange:
    """One request and its response: tracks their state and adds the request id to the response."""

    def __init__(self, receive: Receive, send: Send, request_id: str) -> None:
        self._receive = receive
        self._send = send
        self._request_id = request_id
        self._more = True
        self.status = 0
        self.done = False
        self.left = False

    async def part(self) -> bytes | None:
        """Return the next part of the body; None after the last part, or if the client has disconnected."""
        if not self._more:
            return None
        message = await self._receive()
        if message["type"] == "http.disconnect":
            self._more, self.left = False, not self.done
            return None
        self._more = message.get("more_body", False)
        part: bytes = message.get("body", b"")
        return part

    async def gone(self) -> None:
        """Wait until the client has disconnected."""
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self.left = not self.done

    def replay(self, body: bytes) -> Receive:
        """Return an ASGI ``receive`` that gives the body and then blocks: the middleware watches for the disconnect."""
        given = False

        async def receive() -> Message:
            nonlocal given
            if given:
                await anyio.sleep_forever()
            given = True
            return {"type": "http.request", "body": body, "more_body": False}

        return receive

    async def send(self, message: Message) -> None:
        """Send a part of the response."""
        if message["type"] == "http.response.start":
            self.status = message["status"]
            message["headers"] = [*message.get("headers", ()), (b"x-request-id", self._request_id.encode())]
        # Set before sending: a client may disconnect as soon as it has its response.
        self.done = message["type"] == "http.response.body" and not message.get("more_body", False)
        await self._send(message)

    async def refuse(self, status: int, message: str, limits: Limits, *, retry_after: int | None = None) -> None:
        """Answer with an error, without the application.

        The rest of the body is read and discarded, within the time limit for bodies: closing a connection with unread
        bytes would reset it, and the client might never see the response.
        """
        body = json.dumps(error_body(status, message)).encode()
        headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
        if status == 401:
            headers.append((b"www-authenticate", b"Bearer"))
        if retry_after is not None:
            headers.append((b"retry-after", str(retry_after).encode()))
        await self.send({"type": "http.response.start", "status": status, "headers": headers})
        await self._send({"type": "http.response.body", "body": body, "more_body": True})
        self.done = True
        with contextlib.suppress(TimeoutError), anyio.fail_after(limits.body_seconds):
            while await self.part() is not None:
                pass
        await self._send({"type": "http.response.body", "body": b""})


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
