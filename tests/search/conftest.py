"""The embedded Milvus with the collection `docs`."""

import pytest
from milvus_fixtures import lite_client, make_docs


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("lite")


@pytest.fixture(scope="module")
def client(folder):
    with lite_client(folder) as client:
        make_docs(client)
        yield client
