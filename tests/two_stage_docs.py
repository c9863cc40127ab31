"""Searches in the collection `docs`."""

from milvus_fixtures import embed

from milvus_rerank.reranker import BaseRerankFunction, LexicalRerankFunction
from milvus_rerank.search import Dense, TwoStageSearch

DENSE = Dense("dense")


def docs(client, **options):
    settings = {"reranker": LexicalRerankFunction(), "embed": embed, "first_stage": DENSE} | options
    return TwoStageSearch(client, "docs", **settings)


def ids(answer):
    return [result.id for result in answer]


class Failing(BaseRerankFunction):
    """Raise what it is given."""

    def __init__(self, error):
        self.error = error

    def score_requests(self, requests, stop):
        raise self.error


class CountingClient:
    """A client that passes everything on, and notes each call."""

    def __init__(self, client):
        self.client = client
        self.calls = []

    def search(self, *args, **kwargs):
        self.calls.append(("search", args))
        return self.client.search(*args, **kwargs)

    def hybrid_search(self, *args, **kwargs):
        self.calls.append(("hybrid_search", args))
        return self.client.hybrid_search(*args, **kwargs)
