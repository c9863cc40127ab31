"""A server with the built-in model, and a reranker that fails as it is told."""

from collections.abc import Iterator

import pytest
from dartmouth import DOCUMENTS, QUERY
from serving import Running, serving
from stubborn import Stubborn

from milvus_rerank import CrossEncoderRerankFunction


@pytest.fixture(scope="module")
def reranker() -> CrossEncoderRerankFunction:
    return CrossEncoderRerankFunction("builtin/rerank", device="cpu", threads=1)


@pytest.fixture(scope="module")
def expected(reranker: CrossEncoderRerankFunction) -> list[float]:
    return reranker.score(QUERY, DOCUMENTS)


@pytest.fixture(scope="module")
def server(reranker: CrossEncoderRerankFunction) -> Iterator[Running]:
    with serving({"builtin/rerank": lambda: reranker}) as running:
        yield running


@pytest.fixture
def function() -> Stubborn:
    return Stubborn()
