"""Steps after the reranker for a framework's documents: adapters call this on what ``rerank_items`` returns."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeVar

from milvus_rerank.results import RerankResult
from milvus_rerank.steps import Pipeline

Item = TypeVar("Item")


def run_steps(
    steps: Pipeline,
    pairs: Sequence[tuple[Item, RerankResult]],
    fields: Callable[[Item], Mapping[str, Any]],
    top_k: int | None,
    distance: Callable[[Item], float | None] | None = None,
) -> list[tuple[Item, RerankResult]]:
    """Run the steps on the results of a framework's documents.

    :param steps: the steps; with some, rerank with ``top_k=None`` before.
    :param pairs: documents with their results, as ``rerank_items`` returns them, each ``index`` only once.
    :param fields: returns a document's metadata, the fields that steps read.
    :param top_k: the most documents to return; 0 or None for all.
    :param distance: returns the score of a document's retriever, for ``fuse``; None if there is none.
    :returns: documents with their results, in the order of the steps.
    :raises InputError: for a document that a step cannot handle; the message names it.
    """
    items = {result.index: item for item, result in pairs}
    results = [
        replace(result, entity=dict(fields(item)), distance=distance(item) if distance else None)
        for item, result in pairs
    ]
    return [(items[result.index], result) for result in steps(results, top_k)]
