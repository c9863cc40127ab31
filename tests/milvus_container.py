"""A real Milvus in a container, from the image that ``MILVUS_IMAGE`` names."""

import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
from docker.client import DockerClient
from docker.errors import DockerException
from docker.models.containers import Container
from pymilvus import MilvusClient
from testcontainers.community.milvus import MilvusContainer

IMAGE = os.environ.get("MILVUS_IMAGE", "milvusdb/milvus:v2.6.24")
# Seconds until a server that was killed and started again believes that its former self is dead: 30 by default, and
# until then the collection cannot be searched. A pause must stay well below it, or the server gives itself up.
SESSION_TTL = 10


class Server:
    """Milvus in a container, on a host port that stays the same when the container starts again.

    :param container: testcontainers' container, started.
    """

    def __init__(self, container: MilvusContainer) -> None:
        self.uri: str = container.get_connection_url()
        self._container = container

    @property
    def container(self) -> Container:
        """The Docker container, to pause, stop and start."""
        return self._container.get_wrapped_container()

    @contextmanager
    def client(self) -> Iterator[MilvusClient]:
        """Open a client."""
        client = MilvusClient(uri=self.uri, timeout=30)
        try:
            yield client
        finally:
            client.close()

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Freeze all of Milvus' threads: connections stay open, and nothing answers."""
        self.container.pause()
        try:
            yield
        finally:
            self.container.unpause()


@contextmanager
def run_server() -> Iterator[Server]:
    """Run a Milvus; a missing Docker engine skips the test, or fails it where one is required."""
    _need_docker()
    container = MilvusContainer(IMAGE).with_bind_ports(19530, _free_port())
    container.with_env("COMMON_SESSION_TTL", str(SESSION_TTL))
    with container:
        yield Server(container)


def eventually(work: Callable[[], object], seconds: float = 90.0) -> float:
    """Repeat work until Milvus serves it.

    :returns: how many seconds that took.
    """
    started = time.monotonic()
    while True:
        try:
            work()
            return time.monotonic() - started
        except Exception:
            if time.monotonic() - started > seconds:
                raise
            time.sleep(0.2)


def _need_docker() -> None:
    try:
        client = DockerClient.from_env(timeout=10)
        try:
            client.ping()
        finally:
            client.close()
    except DockerException as error:
        reason = f"no Docker engine answers: {error}"
        if os.environ.get("MILVUS_RERANK_REQUIRE_DOCKER") == "1":
            pytest.fail(reason)
        pytest.skip(reason)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("", 0))
        return int(probe.getsockname()[1])
