"""Searches in the collection `docs`."""

import threading
from collections.abc import Sequence
from typing import Any

from milvus_fixtures import embed

from milvus_rerank.reranker import BaseRerankFunction, LexicalRerankFunction
from milvus_rerank.scoring import Request
from milvus_rerank.search import Dense, TwoStageSearch

DENSE = Dense("dense")


def docs(client: Any, collection: str | None = "docs", **options: Any) -> TwoStageSearch[Any]:
    """Make a search that reranks by shared words, unless the options say otherwise."""
    settings: dict[str, Any] = {"reranker": LexicalRerankFunction(), "embed": embed, "first_stage": DENSE} | options
    return TwoStageSearch(client, collection, **settings)


def ids(answer: Any) -> list[Any]:
    return [result.id for result in answer]


class Failing(BaseRerankFunction):
    """Raise what it is given."""

    def __init__(self, error: BaseException) -> None:
        self.error = error

    def score_requests(self, requests: Sequence[Request], stop: threading.Event) -> list[list[float]]:
        raise self.error


class CountingClient:
    """A client that passes everything on, and notes each call."""

    def __init__(self, client: Any) -> None:
        self.client = client
        self.calls: list[tuple[str, Any]] = []

    def search(self, *args: Any, **kwargs: Any) -> Any:
        self.calls.append(("search", args))
        return self.client.search(*args, **kwargs)

    def hybrid_search(self, *args: Any, **kwargs: Any) -> Any:
        self.calls.append(("hybrid_search", args))
        return self.client.hybrid_search(*args, **kwargs)
