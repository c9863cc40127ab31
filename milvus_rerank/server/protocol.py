"""uvicorn's HTTP protocol with limits that uvicorn does not have: of headers, of unread answers, and of connections."""

import asyncio
import socket
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

from milvus_rerank.server.settings import Limits

SEND_BUFFER = 256 * 1024
"""The size of the system's buffer of unsent bytes of a connection."""


class LimitedProtocol(H11Protocol):
    r"""Close connections whose clients do not send their headers, or do not read their answers, in time.

    The time for headers runs from the opening of the connection, or from the first byte after a response. The
    keep-alive timeout covers a connection that is idle between requests. Bodies have a separate limit, which starts
    after the headers.

    The time for reading runs while more than 64 KiB of an answer wait to be sent, and while anything waits on a
    connection that is being closed.

    :param limits: the limits.
    :param \**options: the options that uvicorn passes to its protocols.
    """

    def __init__(self, limits: Limits, **options: Any) -> None:  # uvicorn's signature, which may grow with its versions
        super().__init__(**options)
        self._limits = limits
        self._headers: asyncio.TimerHandle | None = None
        self._unread: asyncio.TimerHandle | None = None
        self._idle_since = 0.0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as in uvicorn
        """Start the timer for headers; with too many connections, close the one that has been idle longest."""
        super().connection_made(transport)
        # Else the system buffers megabytes of unread answers for each connection.
        transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER)
        self._idle_since = self.loop.time()
        self._headers = self.loop.call_later(self._limits.header_seconds, self._close)
        # A connection that is being closed stays in the set until the loop's next turn.
        opened = [other for other in self.connections if not other.transport.is_closing()]
        if len(opened) > self._limits.connections:
            idle = [other for other in opened if isinstance(other, LimitedProtocol) and other._is_idle]
            min(idle, key=lambda other: other._idle_since, default=self).transport.abort()

    def data_received(self, data: bytes) -> None:
        """Stop the timer for headers once a request has arrived; start it at the first byte of the next request."""
        super().data_received(data)
        self._idle_since = self.loop.time()
        if self._is_idle and self._headers is None:
            self._headers = self.loop.call_later(self._limits.header_seconds, self._close)
        elif not self._is_idle and self._headers is not None:
            self._headers.cancel()
            self._headers = None

    def pause_writing(self) -> None:
        """Start the timer for reading: the buffer of unsent bytes is full."""
        super().pause_writing()
        self._wait_for_reader()

    def resume_writing(self) -> None:
        """Stop the timer for reading."""
        super().resume_writing()
        if self._unread is not None and not self.transport.is_closing():
            self._unread.cancel()
            self._unread = None

    def timeout_keep_alive_handler(self) -> None:
        """Close an idle connection, even if its last answer was never read."""
        super().timeout_keep_alive_handler()
        self._wait_for_reader()

    def shutdown(self) -> None:
        """Close the connection when the server stops, even if its last answer is never read."""
        super().shutdown()
        self._wait_for_reader()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop the timers."""
        for timer in (self._headers, self._unread):
            if timer is not None:
                timer.cancel()
        super().connection_lost(exc)

    @property
    def _is_idle(self) -> bool:
        return self.cycle is None or self.cycle.response_complete

    def _wait_for_reader(self) -> None:
        if self._unread is None:
            self._unread = self.loop.call_later(self._limits.send_seconds, self.transport.abort)

    def _close(self) -> None:
        self._headers = None
        if self._is_idle:
            self.transport.close()
            self._wait_for_reader()
