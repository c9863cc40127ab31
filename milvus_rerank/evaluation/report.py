"""Rankings before and after reranking, with their metrics."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

from milvus_rerank.results import json_safe
from milvus_rerank.search import Timings


@dataclass(frozen=True, slots=True)
class RankedDocument:
    """A document in the order after reranking.

    :param id: the document's id.
    :param score: the reranker's score.
    :param before: the document's rank in the first stage, from 1.
    :param after: the document's rank after reranking, from 1.
    :param relevance: the relevance in the judgments; 0 if the document is not judged.
    :param title: the document's title.
    """

    id: str
    score: float
    before: int
    after: int
    relevance: int
    title: str


@dataclass(frozen=True, slots=True)
class QueryReport:
    """A query before and after reranking.

    :param id: the query's id.
    :param query: the query's text.
    :param documents: all candidates, in the order after reranking.
    :param ndcg_before: nDCG@10 of the first stage's order.
    :param ndcg_after: nDCG@10 of the reranked order.
    :param timings: seconds by stage.
    """

    id: str
    query: str
    documents: tuple[RankedDocument, ...]
    ndcg_before: float
    ndcg_after: float
    timings: Timings

    @property
    def ids_before(self) -> list[str]:
        """The ids in the first stage's order."""
        return [document.id for document in sorted(self.documents, key=lambda document: document.before)]

    @property
    def ids_after(self) -> list[str]:
        """The ids in the reranked order."""
        return [document.id for document in self.documents]

    def to_dict(self) -> dict[str, Any]:
        """Return the report as JSON-safe Python values; ``before``, ``after``: ids; ``scores``: those of ``after``."""
        return {
            "id": self.id,
            "query": self.query,
            "ndcg_before": self.ndcg_before,
            "ndcg_after": self.ndcg_after,
            "before": self.ids_before,
            "after": self.ids_after,
            "scores": [document.score for document in self.documents],
            "timings": asdict(self.timings),
        }


@dataclass(frozen=True, slots=True)
class ComparisonReport:
    """All judged queries of a collection before and after reranking.

    :param collection: the collection's name.
    :param candidates: the most hits that the first stage returned for a query.
    :param queries: the reports of the queries, in the collection's order.
    """

    collection: str
    candidates: int
    queries: tuple[QueryReport, ...]

    @property
    def ndcg_before(self) -> float:
        """The mean nDCG@10 of the first stage's orders."""
        return sum(query.ndcg_before for query in self.queries) / len(self.queries)

    @property
    def ndcg_after(self) -> float:
        """The mean nDCG@10 of the reranked orders."""
        return sum(query.ndcg_after for query in self.queries) / len(self.queries)

    @property
    def changes(self) -> tuple[int, int, int]:
        """The numbers of queries with a better, an equal and a worse nDCG@10."""
        gains = [round(query.ndcg_after - query.ndcg_before, 9) for query in self.queries]
        return sum(gain > 0 for gain in gains), sum(gain == 0 for gain in gains), sum(gain < 0 for gain in gains)

    @property
    def median_seconds(self) -> Mapping[str, float]:
        """The median seconds of a query, by stage."""
        stages = ("embed", "search", "rerank")
        return {stage: median(getattr(query.timings, stage) for query in self.queries) for stage in stages}

    def to_dict(self) -> dict[str, Any]:
        """Return the report as JSON-safe Python values."""
        better, equal, worse = self.changes
        return {
            "collection": self.collection,
            "metric": "nDCG@10",
            "candidates": self.candidates,
            "ndcg_before": self.ndcg_before,
            "ndcg_after": self.ndcg_after,
            "better": better,
            "equal": equal,
            "worse": worse,
            "median_seconds": dict(self.median_seconds),
            "queries": json_safe([query.to_dict() for query in self.queries]),
        }
