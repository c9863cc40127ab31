"""The embedded Milvus with the collection `docs`, for the adapters."""

from collections.abc import Iterator

import pytest
from milvus_fixtures import lite_client, make_docs
from pymilvus import MilvusClient


@pytest.fixture(scope="session")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MilvusClient]:
    with lite_client(tmp_path_factory.mktemp("lite")) as client:
        make_docs(client)
        yield client
