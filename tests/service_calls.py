"""Calls of a service, plain and in an event loop."""

import asyncio
from collections.abc import Callable

import pytest

from milvus_rerank.errors import ServiceError
from milvus_rerank.reranker.remote.function import RemoteRerankFunction

TEXTS = ["a", "bbb", "cc"]

Ask = Callable[[RemoteRerankFunction], list[float]]


def plainly(function: RemoteRerankFunction) -> list[float]:
    with function:
        return function.score("q", TEXTS)


def in_a_loop(function: RemoteRerankFunction) -> list[float]:
    return asyncio.run(function.ascore("q", TEXTS))


def failing(ask: Ask, function: RemoteRerankFunction) -> ServiceError:
    with pytest.raises(ServiceError) as caught:
        ask(function)
    return caught.value
