"""The two halves of a call around scoring: check the arguments, and make results of the scores.

Every call is ``checked = check_...(arguments)``, scoring, ``results(checked, scores)``. Synchronous and asynchronous
calls share both halves and differ only in how they wait for the scores.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from milvus_rerank.errors import InputError, ScoreError
from milvus_rerank.hits import Candidates, Missing, read_hits, read_search_result
from milvus_rerank.result_list import RerankResults
from milvus_rerank.results import DocumentScores, RerankResult, check_scores
from milvus_rerank.scoring import Request
from milvus_rerank.text_field import TextField
from milvus_rerank.validation import check_documents, check_list, check_text, check_threshold, check_top_k


@dataclass(frozen=True, slots=True)
class CheckedCall:
    """The checked arguments of a call.

    :param requests: queries with their documents; some may have none.
    :param unscored: from the positions of a query and of its document to the document's result without a score.
    :param name: the format of a document's name in an error, with its ``result`` and the number of its ``query``.
    :param top_k: the most results of each query; None for all.
    :param threshold: the least score of a result; None for no limit.
    :param only_scores: whether the caller wants scores alone, without spans.
    :param without_text: for each query, the hits without a text that follow the others; empty if there are none.
    """

    requests: list[Request]
    unscored: Callable[[int, int], RerankResult[Any]]
    name: str
    top_k: int | None = None
    threshold: float | None = None
    only_scores: bool = False
    without_text: Sequence[Sequence[RerankResult[None]]] = ()

    def check_scores(self, scores: Sequence[DocumentScores]) -> list[DocumentScores]:
        """Check that there is a finite score for every document.

        :param scores: the scores of each of ``requests`` that has documents: a reranker gets no others.
        :returns: the scores of each of ``requests``.
        :raises ScoreError: if there are too few or too many, or a score is NaN or infinite.
        """
        positions = [index for index, (_, documents) in enumerate(self.requests) if documents]
        if len(scores) != len(positions):
            raise ScoreError(f"the reranker returned scores for {len(scores)} queries, expected {len(positions)}")
        checked = [DocumentScores([])] * len(self.requests)
        for query, query_scores in zip(positions, scores, strict=True):
            numbers = check_scores(
                query_scores.scores,
                len(self.requests[query][1]),
                lambda index, query=query: self.name.format(result=self.unscored(query, index), query=query),  # type: ignore[misc]
            )
            checked[query] = replace(query_scores, scores=numbers)
        return checked


def check_texts(
    queries: Sequence[str],
    documents: Sequence[Sequence[str]],
    top_k: int | None = None,
    threshold: float | None = None,
    *,
    only_scores: bool = False,
) -> CheckedCall:
    """Check queries and their documents."""
    top_k, threshold = check_top_k(top_k), check_threshold(threshold)
    checked_queries = [check_text(query, "query") for query in check_list(queries, "queries", "strings")]
    lists = check_list(documents, "documents", "lists of strings")
    count = len(lists)
    if len(checked_queries) != count:
        raise InputError(f"got {len(checked_queries)} queries, but documents for {count}; expected one list per query")
    names = ["documents"] if count == 1 else [f"documents[{index}]" for index in range(count)]
    requests: list[Request] = [
        (query, check_documents(texts, name)) for query, texts, name in zip(checked_queries, lists, names, strict=True)
    ]
    return CheckedCall(
        requests,
        lambda query, index: RerankResult(requests[query][1][index], None, index),
        "document {result.index}" + (" of query {query}" if count > 1 else ""),
        top_k,
        threshold,
        only_scores,
    )


def check_pairs(pairs: Iterable[tuple[str, str]]) -> CheckedCall:
    """Check pairs of query and document, and group them by query."""
    grouped: dict[str, list[RerankResult[None]]] = {}
    for index, pair in enumerate(check_list(pairs, "pairs", "(query, document) pairs")):
        if not isinstance(pair, (tuple, list)) or len(pair) != 2:
            raise InputError(f"pairs[{index}] must be a (query, document) pair of strings, got {pair!r}")
        query, text = check_documents(pair, f"pairs[{index}]")
        grouped.setdefault(query, []).append(RerankResult(text, None, index))
    groups = list(grouped.values())
    requests: list[Request] = [(query, [result.text for result in group]) for query, group in grouped.items()]
    return CheckedCall(requests, lambda query, index: groups[query][index], "pairs[{result.index}]", only_scores=True)


def pair_scores(checked: CheckedCall, scores: Sequence[DocumentScores]) -> list[float]:
    """Return one score per pair, in input order."""
    by_position = {
        checked.unscored(query, index).index: score
        for query, query_scores in enumerate(scores)
        for index, score in enumerate(query_scores.flat())
    }
    return [by_position[position] for position in range(len(by_position))]


def check_hits(
    queries: object,
    hits: Iterable[Any],
    text_field: TextField,
    top_k: int | None,
    threshold: float | None,
    missing: Missing,
    id_field: str | None,
    *,
    many: bool = False,
) -> CheckedCall:
    """Check one query with its hits, or with ``many`` the queries of a search result with the hits of each."""
    candidates: list[Candidates]
    if many:
        checked = check_documents(queries, "queries")
        candidates = read_search_result(hits, text_field, len(checked), missing=missing, id_field=id_field)
    elif isinstance(queries, (list, tuple)):
        raise InputError(
            f"query must be a string, got a {type(queries).__name__}; for the hits of several queries: "
            "rerank_search_result(queries, result)"
        )
    else:
        checked = [check_text(queries, "query")]
        candidates = [read_hits(hits, text_field, missing=missing, id_field=id_field)]
    return CheckedCall(
        [
            (query, [hit.text for hit in query_hits.scored])
            for query, query_hits in zip(checked, candidates, strict=True)
        ],
        lambda query, index: candidates[query].scored[index],
        "hit {result.index} (id {result.id!r})" + (" of query {query}" if many else ""),
        check_top_k(top_k),
        check_threshold(threshold),
        without_text=[query_hits.unscored for query_hits in candidates],
    )


def results(checked: CheckedCall, scores: Sequence[DocumentScores]) -> list[RerankResults[Any]]:
    """Return the results of each query, best first, hits without a text last."""
    answers: list[RerankResults[Any]] = []
    for query, query_scores in enumerate(scores):
        ranked: list[RerankResult[Any]] = []
        for index in query_scores.rank(checked.top_k, checked.threshold):
            span = query_scores.spans[index] if query_scores.spans else None
            stage = query_scores.stages[index] if query_scores.stages else None
            hit = checked.unscored(query, index)
            score = query_scores.scores[index]
            extra = {**(hit.extra or {}), **query_scores.extra} if query_scores.extra else hit.extra
            fields = (hit.index, hit.id, hit.distance, hit.entity, extra, span, stage, hit.id_field)
            ranked.append(RerankResult(hit.text, score, *fields))  # faster than replace()
        if checked.without_text and checked.threshold is None:  # hits without a score are below every threshold
            ranked = [*ranked, *checked.without_text[query]][: checked.top_k][: query_scores.limit]
        answers.append(RerankResults(ranked))
    return answers
