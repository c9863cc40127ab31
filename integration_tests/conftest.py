"""One Milvus in a container for all tests that do it no harm."""

import os
from collections.abc import Iterator

import pytest

os.environ["HF_HUB_OFFLINE"] = "1"  # before any import of the hub client: no test may ask the network
os.environ["TOKENIZERS_PARALLELISM"] = "false"

from milvus_container import Server, run_server
from milvus_fixtures import make_docs
from pymilvus import MilvusClient


@pytest.fixture(scope="session")
def server() -> Iterator[Server]:
    """The Milvus that all tests share that do it no harm."""
    with run_server() as server:
        yield server


@pytest.fixture(scope="session")
def client(server: Server) -> Iterator[MilvusClient]:
    with server.client() as client:
        yield client


@pytest.fixture(scope="session")
def full_text(client: MilvusClient) -> bool:
    """Whether the server knows BM25 and sparse vectors: Milvus does from 2.5 on."""
    major, minor = client.get_server_version().removeprefix("v").split(".")[:2]
    return (int(major), int(minor)) >= (2, 5)


@pytest.fixture
def needs_full_text(client: MilvusClient, full_text: bool) -> None:
    if not full_text:
        pytest.skip(f"Milvus {client.get_server_version()} has no BM25: it came with 2.5")


@pytest.fixture(scope="session")
def docs(client: MilvusClient, full_text: bool) -> MilvusClient:
    """The client, with the collection ``docs`` made."""
    make_docs(client, full_text=full_text)
    return client
