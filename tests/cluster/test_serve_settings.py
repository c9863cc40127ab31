"""The settings of the server in replicas: what is wrong is told before Ray starts."""

import pytest

from milvus_rerank.cluster.serve import Replicas, app
from milvus_rerank.errors import InputError

pytestmark = pytest.mark.needs("ray", "fastapi", "fsspec")


def test_wrong_settings_are_told() -> None:
    for arguments, message in (
        ({"modle": "x", "open": True}, "args has no 'modle'; it takes model, reranker"),
        ({"replicas": {"number": 3}, "open": True}, "replicas has no 'number'; it takes least, most"),
        ({"limits": {"queue": 3}, "open": True}, "limits has no 'queue'; it takes body_bytes"),
        ({}, "there is no key"),
    ):
        with pytest.raises(InputError, match=message):
            app(arguments)
    with pytest.raises(InputError, match="or a range such as 1-8, got 3-2"):
        Replicas(3, 2)
