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
    """
    check_count(k, "k")
    require("computing nDCG", "ir_measures")
    import ir_measures

    for query, ids in run.items():
        if len(set(ids)) != len(ids):
            raise InputError(f"the ranking of query {query!r} names a document twice; each document has one rank")
    # trec_eval ignores ranks: it orders by score, ties by id. So each document gets its negative rank as score.
    scores = {query: {name: -float(rank) for rank, name in enumerate(ids)} for query, ids in run.items()}
    relevant = {query: dict(judged) for query, judged in judgments.items() if max(judged.values(), default=0) > 0}
    if not relevant:
        raise InputError("the judgments must name a relevant document for at least one query, got none")
    values = {item.query_id: item.value for item in ir_measures.iter_calc([ir_measures.nDCG @ k], relevant, scores)}
    return {query: float(values.get(query, 0.0)) for query in relevant}
