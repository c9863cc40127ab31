"""uvicorn's HTTP protocol with a timeout for request headers, which uvicorn does not have."""

import asyncio
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol


class HeaderTimeoutProtocol(H11Protocol):
    r"""Close a connection whose next request does not send all its headers in time.

    The time runs from the opening of the connection, or from the first byte after a response. The keep-alive timeout
    covers a connection that is idle between requests. Bodies have a separate limit, which starts after the headers.

    :param seconds: the most seconds that the headers may take.
    :param \**options: the options that uvicorn passes to its protocols.
    """

    def __init__(self, seconds: float, **options: Any) -> None:  # uvicorn's signature, which may grow with its versions
        super().__init__(**options)
        self._seconds = seconds
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as in uvicorn
        """Start the timer."""
        super().connection_made(transport)
        self._timer = self.loop.call_later(self._seconds, self._close)

    def data_received(self, data: bytes) -> None:
        """Stop the timer once a request has arrived; start it at the first byte of the next request."""
        super().data_received(data)
        idle = self.cycle is None or self.cycle.response_complete
        if idle and self._timer is None:
            self._timer = self.loop.call_later(self._seconds, self._close)
        elif not idle and self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop the timer."""
        if self._timer is not None:
            self._timer.cancel()
        super().connection_lost(exc)

    def _close(self) -> None:
        self._timer = None
        if self.cycle is None or self.cycle.response_complete:
            self.transport.close()
