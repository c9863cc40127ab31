"""What runs the application: uvicorn, with an orderly end."""

import asyncio
import contextlib
import logging
import signal
from collections.abc import Callable
from functools import partial
from types import FrameType
from typing import Any

import structlog
import uvicorn

from milvus_rerank.server.app import Application
from milvus_rerank.server.header_timeout import HeaderTimeoutProtocol
from milvus_rerank.server.settings import Settings

logger = structlog.get_logger("milvus_rerank.server")

KEEP_ALIVE = 30
"""Seconds that an idle connection is kept: Milvus asks again and again over the same one."""


class Server(uvicorn.Server):
    """Serve an application until told to stop.

    On SIGTERM and SIGINT it takes no more requests, finishes those it has for ``drain_seconds``, and answers the rest
    with 503.

    :param application: what to serve.
    :param settings: where, and with which limits.
    :param announce: called with the address once requests are taken.
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
            http=partial(HeaderTimeoutProtocol, settings.limits.header_seconds),  # type: ignore[arg-type]  # it is called
            log_config=None,
            access_log=False,
            server_header=False,
            ws="none",
            lifespan="on",
            timeout_keep_alive=KEEP_ALIVE,
            # Those that are refused at the end need a moment to hear of it.
            timeout_graceful_shutdown=int(settings.limits.drain_seconds) + 3,
        )
        super().__init__(config)
        application.stop = self._stop

    async def startup(self, sockets: list[Any] | None = None) -> None:
        """Listen, and log where."""
        await super().startup(sockets)
        if self.started:
            host, port = self.servers[0].sockets[0].getsockname()[:2]
            address = f"http://{f'[{host}]' if ':' in host else host}:{port}"
            logger.info("listening", address=address, models=self._application.models.names)
            self._announce(address)

    async def shutdown(self, sockets: list[Any] | None = None) -> None:
        """Take nothing more, finish what there is, refuse what is left."""
        self._application.gate.stopping = True
        drain = asyncio.create_task(
            asyncio.to_thread(self._application.models.close, self._settings.limits.drain_seconds)
        )
        await super().shutdown(sockets)
        await drain

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Take nothing more from here on; the loop does the rest, and a second Ctrl-C cuts that short.

        Not uvicorn's own, which raises the signal once more at the end: the process would die before what it has open
        is closed.
        """
        self._application.gate.stopping = True
        self.force_exit = self.should_exit and sig == signal.SIGINT
        self.should_exit = True

    def _stop(self) -> None:
        self.should_exit = True


class _Lines:
    """A stream for log lines: if nobody reads them any more, the server goes on without."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def write(self, text: str) -> None:
        with contextlib.suppress(OSError, ValueError):
            self._stream.write(text)

    def flush(self) -> None:
        with contextlib.suppress(OSError, ValueError):
            self._stream.flush()


def log_to(stream: Any) -> None:
    """Write every log line of this package and of uvicorn as one JSON object.

    :param stream: where to write.
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
    handler = logging.StreamHandler(_Lines(stream))
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
