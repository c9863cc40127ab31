"""The embedded Milvus with the collection `docs`, for the adapters."""

import os
from collections.abc import Iterator

import pytest
from adapting import LONG_TEXT
from milvus_fixtures import lite_client, make_docs
from pymilvus import MilvusClient

os.environ["HAYSTACK_TELEMETRY_ENABLED"] = "False"  # read when Haystack is imported


@pytest.fixture(scope="session")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MilvusClient]:
    with lite_client(tmp_path_factory.mktemp("lite")) as client:
        make_docs(client)
        yield client


@pytest.fixture
def long_docs(client: MilvusClient) -> Iterator[str]:
    """A collection with one long text."""
    client.create_collection("long", dimension=2, metric_type="COSINE", consistency_level="Strong")
    client.insert("long", [{"id": 1, "text": LONG_TEXT, "vector": [1.0, 0.0]}])
    yield "long"
    client.drop_collection("long")
