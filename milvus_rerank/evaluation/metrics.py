"""Metrics of rankings, computed with ir_measures."""

from collections.abc import Mapping, Sequence

from milvus_rerank.errors import InputError
from milvus_rerank.evaluation.judged import Judgments
from milvus_rerank.requirements import require
from milvus_rerank.validation import check_count

Run = Mapping[str, Sequence[str]]
"""The ranking of each query: document ids, best first."""


def ndcg(run: Run, judgments: Judgments, k: int = 10) -> dict[str, float]:
    """Return nDCG@k of each judged query: gains are the judgments, discounted by log2 of the rank plus one.

    :param run: the rankings; a judged query without a ranking counts as 0.
    :param judgments: the relevance judgments.
    :param k: the number of ranks that count.
    :returns: a number from 0 to 1 for each judged query that has a relevant document, in the judgments' order.
    :raises InputError: if a ranking names a document twice, or no query has a relevant document.
    :raises MissingDependencyError: if ir_measures is not installed.
    """
    check_count(k, "k")
    require("computing nDCG", "ir_measures")
    import ir_measures

    for query, ids in run.items():
        if len(set(ids)) != len(ids):
            raise InputError(f"the ranking of query {query!r} names a document twice")
    # trec_eval ignores ranks: it orders by score, ties by id. So each document gets its negative rank as score.
    scored = {query: {name: -float(place) for place, name in enumerate(ids)} for query, ids in run.items()}
    relevant = {query: dict(own) for query, own in judgments.items() if any(score > 0 for score in own.values())}
    if not relevant:
        raise InputError("the judgments name nothing relevant")
    found = {one.query_id: one.value for one in ir_measures.iter_calc([ir_measures.nDCG @ k], relevant, scored)}
    return {query: float(found.get(query, 0.0)) for query in relevant}
