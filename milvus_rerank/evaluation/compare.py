"""Run judged queries through a two-stage search, and compare its stages."""

from collections.abc import Callable, Mapping

from milvus_rerank.evaluation.judged import JudgedCollection
from milvus_rerank.evaluation.metrics import ndcg
from milvus_rerank.evaluation.report import ComparisonReport, QueryReport, RankedDocument
from milvus_rerank.search import SearchAnswer, TwoStageSearch


def compare(
    search: TwoStageSearch,
    judged: JudgedCollection,
    *,
    candidates: int = 50,
    timeout: float | None = 30.0,
    progress: Callable[[int], object] = lambda done: None,
) -> ComparisonReport:
    """Search with every judged query, and compare the first stage's order with the reranked order.

    :param search: a search over a collection that holds the judged passages.
    :param judged: the queries and judgments.
    :param candidates: the number of hits to rerank for each query.
    :param timeout: the most seconds of a search.
    :param progress: called with 1 after each query.
    :returns: both orders of each query, with their nDCG@10.
    """
    answers: dict[str, SearchAnswer] = {}
    for name, text in judged.queries.items():  # one by one, so that each timing is that of one query
        answers[name] = search(text, top_k=None, candidates=candidates, timeout=timeout)
        progress(1)
    first_stage = {name: sorted(answer, key=lambda result: result.index) for name, answer in answers.items()}
    before, after = (
        ndcg({name: [str(result.id) for result in ranked] for name, ranked in order.items()}, judged.judgments)
        for order in (first_stage, answers)
    )
    titles = {passage.id: passage.title for passage in judged.passages}
    queries = []
    for name in before:
        documents = _documents(answers[name], judged.judgments[name], titles)
        text, timings = judged.queries[name], answers[name].timings
        queries.append(QueryReport(name, text, documents, before[name], after[name], timings))
    return ComparisonReport(judged.name, candidates, tuple(queries))


def _documents(
    answer: SearchAnswer, relevance: Mapping[str, int], titles: Mapping[str, str]
) -> tuple[RankedDocument, ...]:
    return tuple(
        RankedDocument(
            id=str(result.id),
            score=result.score,
            before=result.index + 1,
            after=rank,
            relevance=relevance.get(str(result.id), 0),
            title=titles.get(str(result.id), ""),
        )
        for rank, result in enumerate(answer, 1)
    )
