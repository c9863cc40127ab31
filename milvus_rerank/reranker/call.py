"""The two halves of a call around scoring: check the arguments, and make results of the scores.

Every call is ``checked = check_...(arguments)``, scoring, ``..._results(checked, scores)``. Synchronous and
asynchronous calls share both halves and differ only in how they wait for the scores.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from milvus_rerank.errors import InputError, ScoreError
from milvus_rerank.hits import Candidates, Missing, read_hits, read_search_result
from milvus_rerank.results import DocumentScores, RerankResult, check_scores
from milvus_rerank.scoring import Request
from milvus_rerank.validation import check_documents, check_list, check_query, check_threshold, check_top_k

DocumentName = Callable[[int, int], str]
"""From the positions of a query and of its document to what an error calls the document."""


@dataclass(frozen=True, slots=True)
class CheckedCall:
    """The checked arguments of a call.

    :param requests: queries with their documents; some may have none.
    :param document_name: what an error calls a document.
    :param top_k: how many results each query may have; None for all.
    :param threshold: the least score of a result; None for no limit.
    :param only_scores: whether the caller wants scores alone, without spans.
    """

    requests: list[Request]
    document_name: DocumentName
    top_k: int | None = None
    threshold: float | None = None
    only_scores: bool = False

    @property
    def with_documents(self) -> list[Request]:
        """The requests that have documents: a reranker is asked for no others."""
        return [request for request in self.requests if request[1]]

    def check_scores(self, scores: Sequence[DocumentScores]) -> list[DocumentScores]:
        """Check that there is a finite score for every document.

        :param scores: the scores of each of ``with_documents``.
        :returns: the scores of each of ``requests``.
        :raises ScoreError: if there are too few or too many, or a score is NaN or infinite.
        """
        positions = [index for index, (_, documents) in enumerate(self.requests) if documents]
        if len(scores) != len(positions):
            raise ScoreError(f"the reranker returned scores for {len(scores)} queries, expected {len(positions)}")
        checked = [DocumentScores([])] * len(self.requests)
        for index, query_scores in zip(positions, scores, strict=True):
            name = partial(self.document_name, index)
            numbers = check_scores(query_scores.scores, len(self.requests[index][1]), name)
            checked[index] = replace(query_scores, scores=numbers)
        return checked


@dataclass(frozen=True, slots=True)
class CheckedPairs(CheckedCall):
    """The checked arguments of a call on pairs, grouped by query.

    :param positions: the positions of each query's pairs in the input.
    """

    positions: Sequence[Sequence[int]] = ()


@dataclass(frozen=True, slots=True)
class CheckedHits(CheckedCall):
    """The checked arguments of a call on hits.

    :param candidates: each query's hits, those with a text apart from those without.
    """

    candidates: Sequence[Candidates] = ()


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
    checked_queries = [check_query(query) for query in check_list(queries, "queries", "strings")]
    lists = check_list(documents, "documents", "lists of strings")
    count = len(lists)
    if len(checked_queries) != count:
        raise InputError(f"got {len(checked_queries)} queries, but documents for {count}; expected one list per query")
    names = ["documents"] if count == 1 else [f"documents[{index}]" for index in range(count)]
    requests: list[Request] = [
        (query, check_documents(texts, name)) for query, texts, name in zip(checked_queries, lists, names, strict=True)
    ]

    def document_name(query: int, document: int) -> str:
        return f"document {document}" + (f" of query {query}" if count > 1 else "")

    return CheckedCall(requests, document_name, top_k, threshold, only_scores)


def text_results(checked: CheckedCall, scores: Sequence[DocumentScores]) -> list[list[RerankResult]]:
    """Return the results of each query, best first."""
    return [
        [
            query_scores.result(index, RerankResult(texts[index], None, index))
            for index in query_scores.rank(checked.top_k, checked.threshold)
        ]
        for (_, texts), query_scores in zip(checked.requests, scores, strict=True)
    ]


def check_pairs(pairs: Iterable[tuple[str, str]]) -> CheckedPairs:
    """Check pairs of query and document, and group them by query."""
    positions: dict[str, list[int]] = {}
    texts: list[str] = []
    for index, pair in enumerate(check_list(pairs, "pairs", "(query, document) pairs")):
        if not isinstance(pair, (tuple, list)) or len(pair) != 2:
            raise InputError(f"pairs[{index}] must be a (query, document) pair of strings, got {pair!r}")
        query, text = check_documents(pair, f"pairs[{index}]")
        positions.setdefault(query, []).append(index)
        texts.append(text)
    groups = list(positions.values())
    requests: list[Request] = [(query, [texts[index] for index in group]) for query, group in positions.items()]
    return CheckedPairs(
        requests, lambda query, document: f"pairs[{groups[query][document]}]", only_scores=True, positions=groups
    )


def pair_scores(checked: CheckedPairs, scores: Sequence[DocumentScores]) -> list[float]:
    """Return one score per pair, in input order."""
    in_order = [0.0] * sum(map(len, checked.positions))
    for positions, query_scores in zip(checked.positions, scores, strict=True):
        for index, score in zip(positions, query_scores.flat(), strict=True):
            in_order[index] = score
    return in_order


def check_hits(
    query: object,
    hits: Iterable[Any],
    text_field: str,
    top_k: int | None,
    threshold: float | None,
    missing: Missing,
    id_field: str | None,
) -> CheckedHits:
    """Check one query and its hits."""
    if isinstance(query, (list, tuple)):
        raise InputError(
            f"query must be a string, got a {type(query).__name__}; for the hits of several queries: "
            "rerank_search_result(queries, result)"
        )
    candidates = [read_hits(hits, text_field, missing=missing, id_field=id_field)]
    return _check_candidates([check_query(query)], candidates, text_field, top_k, threshold, name_query=False)


def check_search_result(
    queries: Sequence[str],
    result: Iterable[Any],
    text_field: str,
    top_k: int | None,
    threshold: float | None,
    missing: Missing,
    id_field: str | None,
) -> CheckedHits:
    """Check queries and a search result with the hits of each."""
    checked = check_documents(queries, "queries")
    candidates = read_search_result(result, text_field, len(checked), missing=missing, id_field=id_field)
    return _check_candidates(checked, candidates, text_field, top_k, threshold, name_query=True)


def hit_results(checked: CheckedHits, scores: Sequence[DocumentScores]) -> list[list[RerankResult]]:
    """Return the results of each query, best first, hits without a text last."""
    answers = []
    for candidates, query_scores in zip(checked.candidates, scores, strict=True):
        order = query_scores.rank(None, checked.threshold)
        results = [query_scores.result(index, candidates.scored[index]) for index in order]
        if checked.threshold is None:  # hits without a score are below every threshold
            results += candidates.unscored
        answers.append(results[: query_scores.most(checked.top_k)])
    return answers


def _check_candidates(
    queries: list[str],
    candidates: list[Candidates],
    text_field: str,
    top_k: int | None,
    threshold: float | None,
    *,
    name_query: bool,
) -> CheckedHits:
    requests: list[Request] = [
        (query, check_documents([hit.text for hit in query_hits.scored], text_field))
        for query, query_hits in zip(queries, candidates, strict=True)
    ]

    def document_name(query: int, document: int) -> str:
        hit = candidates[query].scored[document]
        return f"hit {hit.index} (id {hit.id!r})" + (f" of query {query}" if name_query else "")

    return CheckedHits(requests, document_name, check_top_k(top_k), check_threshold(threshold), candidates=candidates)
