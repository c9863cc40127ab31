"""uvicorn's HTTP, with an end to waiting for the headers of a request, which uvicorn itself does not set."""

import asyncio
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol


class HeaderTimeoutProtocol(H11Protocol):
    r"""Close a connection whose next request does not get past its headers in time.

    The time runs from the connection's first moment, or from the first byte after an answer: a connection that is idle
    between requests is the keep-alive timeout's. Bodies have a limit of their own, behind the headers.

    :param seconds: how long the headers may take.
    :param \**options: what uvicorn gives its protocols.
    """

    def __init__(self, seconds: float, **options: Any) -> None:  # uvicorn's own signature, whatever its version adds
        super().__init__(**options)
        self._seconds = seconds
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn has it
        """Begin to wait."""
        super().connection_made(transport)
        self._wait()

    def data_received(self, data: bytes) -> None:
        """Go on waiting, or begin to, until a request is there."""
        super().data_received(data)
        if not self._idle:
            self._rest()
        elif self._timer is None:
            self._wait()

    def connection_lost(self, exc: Exception | None) -> None:
        """Wait for nothing more."""
        self._rest()
        super().connection_lost(exc)

    @property
    def _idle(self) -> bool:
        """Whether no request is being answered."""
        return self.cycle is None or self.cycle.response_complete

    def _wait(self) -> None:
        self._timer = self.loop.call_later(self._seconds, self._give_up)

    def _rest(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _give_up(self) -> None:
        self._timer = None
        if self._idle and not self.transport.is_closing():
            self.transport.close()
