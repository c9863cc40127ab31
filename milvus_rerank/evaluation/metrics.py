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
    return measure(run, judgments, (f"nDCG@{check_count(k, 'k')}",))[f"nDCG@{k}"]


def measure(run: Run, judgments: Judgments, names: Sequence[str]) -> dict[str, dict[str, float]]:
    """Return metrics of each judged query.

    :param run: the rankings; a judged query without a ranking counts as 0.
    :param judgments: the relevance judgments.
    :param names: the metrics in ir_measures' notation, such as ``nDCG@10``, ``RR@10``, ``AP``, ``R@50``, ``Judged@10``.
    :returns: for each metric a number for each judged query that has a relevant document, in the judgments' order.
    :raises InputError: if a ranking names a document twice, or no query has a relevant document.
    """
    require("computing metrics", "ir_measures")
    import ir_measures

    for query, ids in run.items():
        if len(set(ids)) != len(ids):
            raise InputError(f"the ranking of query {query!r} names a document twice; each document has one rank")
    # trec_eval ignores ranks: it orders by score, ties by id. So each document gets its negative rank as score.
    scores = {query: {name: -float(rank) for rank, name in enumerate(ids)} for query, ids in run.items()}
    relevant = {query: dict(judged) for query, judged in judgments.items() if max(judged.values(), default=0) > 0}
    if not relevant:
        raise InputError("the judgments must name a relevant document for at least one query, got none")
    values: dict[str, dict[str, float]] = {name: dict.fromkeys(relevant, 0.0) for name in names}
    by_metric = {ir_measures.parse_measure(name): name for name in names}
    for item in ir_measures.iter_calc(list(by_metric), relevant, scores):
        values[by_metric[item.measure]][item.query_id] = float(item.value)
    return values
