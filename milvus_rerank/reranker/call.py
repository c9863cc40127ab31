"""What a call does around scoring: check what was given, ask for scores once, put results together.

Each call is a generator that yields what it asks a reranker and is sent the answer. So the same lines serve a caller
that waits, a thread, and an event loop.
"""

from collections.abc import Callable, Generator, Iterable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple, TypeAlias, TypeVar

from milvus_rerank.errors import InputError, ScoreError
from milvus_rerank.hits import Missing, read_hits, read_search_result, results
from milvus_rerank.inputs import check_documents, check_list, check_query, check_threshold, check_top_k
from milvus_rerank.results import Judgement, RerankResult, check_scores
from milvus_rerank.scoring import Request

T = TypeVar("T")
Name = Callable[[int, int], str]  # from a query's and a document's position to what to call the document


class Ask(NamedTuple):
    """What a call wants to know.

    :param requests: checked queries with their documents; some may have none.
    :param name: what to call a document in an error.
    :param keep: how many of each query's documents are wanted; None for all.
    :param numbers: whether scores are all that is wanted.
    """

    requests: list[Request]
    name: Name
    keep: int | None = None
    numbers: bool = False

    @property
    def filled(self) -> list[Request]:
        """The requests that have documents."""
        return [request for request in self.requests if request[1]]

    def check(self, made: Sequence[Judgement]) -> list[Judgement]:
        """Return what was said of the filled requests in the places of all, if it can be ordered.

        :param made: one judgement for each of ``filled``.
        :returns: one for each of ``requests``.
        :raises ScoreError: if there are too few or too many, or a score is NaN or infinite.
        """
        places = [place for place, (_, texts) in enumerate(self.requests) if texts]
        if len(made) != len(places):
            raise ScoreError(f"the reranker returned scores for {len(made)} queries, expected {len(places)}")
        whole = [Judgement([])] * len(self.requests)
        for place, one in zip(places, made, strict=True):
            scores = check_scores(one.scores, len(self.requests[place][1]), partial(self.name, place))
            whole[place] = replace(one, scores=scores)
        return whole


Work: TypeAlias = Generator[Ask, list[Judgement], T]


def finish(work: Work[T], judged: list[Judgement]) -> T:
    """Send a call its answer.

    :param work: a call that has asked.
    :param judged: the checked answer.
    :returns: what the call returns.
    """
    try:
        work.send(judged)
    except StopIteration as end:
        value: T = end.value
        return value
    raise RuntimeError("a call asked twice")


def rerank_texts(
    queries: Sequence[str], documents: Sequence[Sequence[str]], top_k: int | None, threshold: float | None
) -> Work[list[list[RerankResult]]]:
    """Rerank the documents of each query."""
    keep, least = check_top_k(top_k), check_threshold(threshold)
    requests = _requests(queries, documents)
    judged = yield Ask(requests, _document_name(requests), keep)
    return [
        [one.result(place, RerankResult(texts[place], None, place)) for place in one.rank(keep, least)]
        for (_, texts), one in zip(requests, judged, strict=True)
    ]


def score_texts(query: str, documents: Sequence[str]) -> Work[list[float]]:
    """Score documents for one query."""
    requests = _requests([query], [documents])
    [judged] = yield Ask(requests, _document_name(requests), numbers=True)
    return judged.flat()


def score_pairs(pairs: Iterable[tuple[str, str]]) -> Work[list[float]]:
    """Score pairs, each query's in one go."""
    places: dict[str, list[int]] = {}
    texts: list[str] = []
    for index, pair in enumerate(check_list(pairs, "pairs", "(query, document) pairs")):
        if not isinstance(pair, (tuple, list)) or len(pair) != 2:
            raise InputError(f"pairs[{index}] must be a (query, document) pair of strings, got {pair!r}")
        query, text = check_documents(pair, f"pairs[{index}]")
        places.setdefault(query, []).append(index)
        texts.append(text)
    wheres = list(places.values())
    requests: list[Request] = [(query, [texts[index] for index in where]) for query, where in places.items()]
    scores = [0.0] * len(texts)
    grouped = yield Ask(requests, lambda query, document: f"pairs[{wheres[query][document]}]", numbers=True)
    for where, judged in zip(wheres, grouped, strict=True):
        for index, score in zip(where, judged.flat(), strict=True):
            scores[index] = score
    return scores


def rerank_hits(
    query: str | Sequence[str],
    hits: Iterable[Any],
    text_field: str,
    top_k: int | None,
    threshold: float | None,
    missing: Missing,
    id_field: str | None,
) -> Work[Any]:
    """Rerank one query's hits, or a whole search result."""
    keep, least = check_top_k(top_k), check_threshold(threshold)
    single = isinstance(query, str) or query is None
    if single:
        queries = [check_query(query)]
        lists = [read_hits(hits, text_field, missing=missing, id_field=id_field)]
    else:
        queries = check_documents(query, "query")
        lists = read_search_result(hits, text_field, len(queries), missing=missing, id_field=id_field)

    def name(place: int, scored: int) -> str:
        hit = lists[place].scored[scored]
        return f"hit {hit.index} (id {hit.id!r})" + ("" if single else f" of query {place}")

    requests: list[Request] = [
        (one, check_documents(own.texts, text_field)) for one, own in zip(queries, lists, strict=True)
    ]
    judged = yield Ask(requests, name, keep)
    answers = [
        [
            found
            for found in results(candidates, own, own.rank(None, least))
            if least is None or found.score is not None
        ][: own.most(keep)]
        for candidates, own in zip(lists, judged, strict=True)
    ]
    return answers[0] if single else answers


def _requests(queries: Sequence[str], documents: Sequence[Sequence[str]]) -> list[Request]:
    checked = [check_query(query) for query in check_list(queries, "queries", "strings")]
    lists = check_list(documents, "documents", "lists of strings")
    if len(checked) != len(lists):
        raise InputError(f"got {len(checked)} queries, but documents for {len(lists)}; expected one list per query")
    names = ["documents"] if len(lists) == 1 else [f"documents[{index}]" for index in range(len(lists))]
    return [(query, check_documents(some, name)) for query, some, name in zip(checked, lists, names, strict=True)]


def _document_name(requests: Sequence[Request]) -> Name:
    def name(query: int, document: int) -> str:
        return f"document {document}" + (f" of query {query}" if len(requests) > 1 else "")

    return name
