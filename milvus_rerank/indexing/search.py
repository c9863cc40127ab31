"""Set up a two-stage search over a collection from the collection's description."""

import threading
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any, Literal, get_args

from milvus_rerank.errors import InputError
from milvus_rerank.indexing.collection import CollectionInfo, check_embedder, text_field_of
from milvus_rerank.indexing.embedders import Embedder
from milvus_rerank.reranker.base import BaseRerankFunction
from milvus_rerank.scoring import Request
from milvus_rerank.search import Dense, FullText, Hybrid, SearchAnswer, TwoStageSearch
from milvus_rerank.search.first_stage import FirstStage
from milvus_rerank.search.milvus import milvus_errors, open_source
from milvus_rerank.validation import check_choice

Mode = Literal["dense", "bm25", "hybrid"]


class FirstStageOrder(BaseRerankFunction):
    """Keep the input order of the documents: a baseline, the search without its second stage."""

    def score_requests(self, requests: Sequence[Request], stop: threading.Event) -> list[list[float]]:
        """Score each document by its position."""
        return [[-float(position) for position in range(len(documents))] for _, documents in requests]


def open_search(
    client: Any,
    info: CollectionInfo,
    *,
    mode: str = "dense",
    reranker: BaseRerankFunction | None = None,
    embedder: Embedder | None = None,
    text_field: str | None = None,
    vector_field: str | None = None,
) -> TwoStageSearch:
    """Return a two-stage search over a collection.

    :param client: a ``MilvusClient``.
    :param info: the collection.
    :param mode: ``dense`` for vectors, ``bm25`` for full text, or ``hybrid`` for both, fused by RRF.
    :param reranker: the second stage; None keeps the first stage's order.
    :param embedder: the embedder of queries; not needed for ``bm25``.
    :param text_field: the field to rerank by; None for the one that :func:`text_field_of` finds.
    :param vector_field: the dense vector field; None for ``vector``, or the only one.
    :returns: the search.
    """
    check_choice(mode, "mode", get_args(Mode))
    stage = _stage(info, mode, vector_field)
    dense = stage.searches[0] if isinstance(stage, Hybrid) else stage
    if isinstance(dense, Dense):
        if embedder is None:
            raise InputError(f"mode {mode!r} needs an embedder, got None; pass embedder=StaticEmbedder()")
        check_embedder(info, str(dense.field), embedder)
    return TwoStageSearch(
        client,
        info.name,
        reranker=FirstStageOrder() if reranker is None else reranker,
        embed=None if embedder is None else embedder.encode_queries,
        text_field=text_field_of(info, text_field),
        first_stage=stage,
    )


def absent_keys(client: Any, info: CollectionInfo, names: Sequence[str], timeout: float | None = 30.0) -> list[str]:
    """Return the names that are neither fields of a collection nor keys in the dynamic field of any row.

    The schema does not know the keys of the dynamic field, so Milvus is asked for a row with each; the collection must
    be loaded. A name that Milvus cannot look for counts as present.
    """
    unknown = [name for name in names if name not in {*info.fields, *info.dense, *(info.dynamic or ())}]
    if "$meta" not in info.fields:
        return unknown
    source = open_source(client, info.name)
    absent = []
    for name in unknown:
        with suppress(*milvus_errors()):
            absent += [] if source.rows_with(name, timeout)() else [name]
    return absent


def without_scores(answer: SearchAnswer[Any]) -> SearchAnswer[float | None]:
    """Return the answer of :class:`FirstStageOrder` as not reranked, without the position scores."""
    return replace(answer, reranked=False, results=tuple(replace(result, score=None) for result in answer))


def _stage(info: CollectionInfo, mode: str, vector_field: str | None) -> FirstStage:
    if mode != "dense" and info.bm25 is None:
        raise InputError(
            f"the collection {info.name!r} has no BM25 field, which --mode {mode} needs; search with --mode dense"
        )
    full_text = FullText(info.bm25 or "")
    if mode == "bm25":
        return full_text
    if not info.dense:
        raise InputError(f"the collection {info.name!r} has no dense vectors; search its texts with --mode bm25")
    if vector_field is not None and vector_field not in info.dense:
        raise InputError(f"{vector_field!r} is not a dense vector field of {info.name!r}; it has {sorted(info.dense)}")
    if vector_field is None and len(info.dense) != 1 and "vector" not in info.dense:
        raise InputError(
            f"the collection {info.name!r} has several dense vector fields, {sorted(info.dense)}; choose one with "
            "--vector-field"
        )
    dense = Dense(vector_field or ("vector" if "vector" in info.dense else next(iter(info.dense))))
    return dense if mode == "dense" else Hybrid((dense, full_text))
