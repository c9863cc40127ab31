"""A server with the built-in model, and a reranker that fails as it is told."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest
from dartmouth import DOCUMENTS, QUERY
from stubborn import Stubborn

from milvus_rerank import CrossEncoderRerankFunction

if TYPE_CHECKING:
    from serving import Running


@pytest.fixture(scope="module")
def reranker() -> CrossEncoderRerankFunction:
    return CrossEncoderRerankFunction("builtin/rerank", device="cpu", threads=1)


@pytest.fixture(scope="module")
def expected(reranker: CrossEncoderRerankFunction) -> list[float]:
    return reranker.score(QUERY, DOCUMENTS)


@pytest.fixture(scope="module")
def server(reranker: CrossEncoderRerankFunction) -> Iterator[Running]:
    from serving import serving  # needs httpx: imported here, tests without it skip

    with serving({"builtin/rerank": lambda: reranker}) as running:
        yield running


@pytest.fixture
def function() -> Stubborn:
    return Stubborn()
