"""uvicorn as the application's server, with a graceful shutdown and JSON logs."""

import asyncio
import contextlib
import logging
import queue
import signal
import threading
import time
from collections.abc import Callable
from functools import partial
from types import FrameType
from typing import Any

import structlog
import uvicorn

from milvus_rerank.server.app import Application
from milvus_rerank.server.protocol import LimitedProtocol
from milvus_rerank.server.settings import Settings

logger = structlog.get_logger("milvus_rerank.server")

KEEP_ALIVE = 30
"""Seconds to keep an idle connection open: Milvus reuses a connection for many requests."""


class Server(uvicorn.Server):
    """Serve an application until a signal stops it.

    On SIGTERM and SIGINT the server refuses new requests, works on the admitted ones for ``drain_seconds``, and answers
    the rest with 503.

    :param application: the application to serve.
    :param settings: the address and the limits.
    :param announce: called with the address once the server accepts requests.
    """

    def __init__(
        self, application: Application, settings: Settings, announce: Callable[[str], object] = lambda address: None
    ) -> None:
        self._application = application
        self._settings = settings
        self._announce = announce
        config = uvicorn.Config(
            application,
            host=settings.host,
            port=settings.port,
            http=partial(LimitedProtocol, settings.limits),  # type: ignore[arg-type]  # it is called
            log_config=None,
            access_log=False,
            server_header=False,
            ws="none",
            lifespan="on",
            timeout_keep_alive=KEEP_ALIVE,
            # The last refusals need a moment to reach their clients.
            timeout_graceful_shutdown=int(settings.limits.drain_seconds) + 3,
        )
        super().__init__(config)
        application.stop = self._stop

    async def startup(self, sockets: list[Any] | None = None) -> None:
        """Listen, and log the address."""
        await super().startup(sockets)
        if self.started:
            host, port = self.servers[0].sockets[0].getsockname()[:2]
            address = f"http://{f'[{host}]' if ':' in host else host}:{port}"
            logger.info("listening", address=address, models=self._application.models.names)
            self._announce(address)

    async def shutdown(self, sockets: list[Any] | None = None) -> None:
        """Refuse new requests, finish the admitted ones, and refuse those that remain."""
        self._application.middleware.stopping = True
        drain = asyncio.create_task(self._application.service.drain(self._settings.limits.drain_seconds))
        await super().shutdown(sockets)
        await drain

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Refuse new requests from now on and let the event loop shut down; a second Ctrl-C forces the exit.

        This replaces uvicorn's handler, which raises the signal again at the end: the process would die before its open
        resources are closed.
        """
        self._application.middleware.stopping = True
        self.force_exit = self.should_exit and sig == signal.SIGINT
        self.should_exit = True

    def _stop(self) -> None:
        self.should_exit = True


LOG_LINES = 10_000
"""The most log lines that wait to be written; further ones are dropped and counted."""


class LineWriter(logging.Handler):
    """Write log lines in a thread: a reader that does not read, or is gone, must not stop the server.

    :param stream: the stream to write to.
    """

    def __init__(self, stream: Any) -> None:
        super().__init__()
        self.dropped = 0
        self._stream = stream
        self._lines: queue.Queue[str] = queue.Queue(LOG_LINES)
        threading.Thread(target=self._write, name="log", daemon=True).start()

    def emit(self, record: logging.LogRecord) -> None:
        """Queue a line."""
        try:
            self._lines.put_nowait(self.format(record))
        except queue.Full:
            self.dropped += 1

    def flush(self) -> None:
        """Wait until the lines are written, but not for a reader that does not read."""
        end = time.monotonic() + 1.0
        while self._lines.unfinished_tasks and time.monotonic() < end:
            time.sleep(0.005)

    def _write(self) -> None:
        while True:
            line, dropped = self._lines.get(), self.dropped
            with contextlib.suppress(OSError, ValueError):
                self._stream.write(f"{line}\n")
                if dropped:
                    self.dropped -= dropped
                    self._stream.write(f'{{"event": "log lines dropped", "level": "warning", "count": {dropped}}}\n')
                self._stream.flush()
            self._lines.task_done()


def log_to(stream: Any) -> None:
    """Write every log line of this package and of uvicorn as one JSON object.

    :param stream: the stream to write to.
    """
    shared: list[Any] = [
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        wrapper_class=structlog.stdlib.BoundLogger,
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=False,
    )
    handler = LineWriter(stream)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.format_exc_info,
                structlog.processors.JSONRenderer(),
            ],
        )
    )
    for name, level in (("milvus_rerank", logging.INFO), ("uvicorn", logging.WARNING)):
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = [handler], False
        logger.setLevel(level)
