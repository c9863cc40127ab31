"""Steps after the reranker for a framework's documents."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeVar

from milvus_rerank.result_list import RerankResults
from milvus_rerank.results import RerankResult
from milvus_rerank.steps import Pipeline, Step

Item = TypeVar("Item")


def as_pipeline(steps: Pipeline | Sequence[Step | Mapping[str, Any]] | None) -> Pipeline:
    """Return a pipeline of steps, given as one, as values or tables of a config file, or as None for none.

    :param steps: the steps.
    :returns: the pipeline.
    :raises InputError: as :class:`milvus_rerank.steps.Pipeline` does.
    """
    return steps if isinstance(steps, Pipeline) else Pipeline(() if steps is None else steps)


def run_steps(
    steps: Pipeline,
    items: Sequence[Item],
    results: Sequence[RerankResult[Any]],
    fields: Callable[[Item], Mapping[str, Any]],
    top_k: int | None = None,
    distance: Callable[[Item], float | None] | None = None,
) -> RerankResults[Any]:
    """Run the steps on the results of a framework's documents.

    :param steps: the steps.
    :param items: the documents; ``index`` of a result is a position in them.
    :param results: all results of the reranker, of a call with ``top_k=None``.
    :param fields: returns a document's metadata, which are the fields that steps read.
    :param top_k: the most results to return; 0 or None for all.
    :param distance: returns the score of a document's retriever, for ``fuse``; None if there is none.
    :returns: the results after the steps; their ``entity`` holds the metadata.
    :raises InputError: for a document that a step cannot handle; the message names it.
    """
    hits = []
    for result in results:
        item = items[result.index]
        hits.append(replace(result, entity=dict(fields(item)), distance=distance(item) if distance else None))
    return steps(hits, top_k)
