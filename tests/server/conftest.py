"""A server with the built-in model, and a reranker that fails as it is told."""

import pytest
from dartmouth import DOCUMENTS, QUERY
from serving import serving
from stubborn import Stubborn

from milvus_rerank import CrossEncoderRerankFunction


@pytest.fixture(scope="module")
def reranker():
    return CrossEncoderRerankFunction("builtin/rerank", device="cpu", threads=1)


@pytest.fixture(scope="module")
def expected(reranker) -> list[float]:
    return reranker.score(QUERY, DOCUMENTS)


@pytest.fixture(scope="module")
def server(reranker):
    with serving({"builtin/rerank": lambda: reranker}) as running:
        yield running


@pytest.fixture
def function():
    return Stubborn()
