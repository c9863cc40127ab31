"""The embedded Milvus with the collection `docs`."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from milvus_fixtures import lite_client, make_docs
from pymilvus import MilvusClient


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("lite")


@pytest.fixture(scope="module")
def client(folder: Path) -> Iterator[MilvusClient]:
    with lite_client(folder) as client:
        make_docs(client)
        yield client
