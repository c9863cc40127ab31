"""Set up a two-stage search over a collection from the collection's description."""

import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any, get_args

from milvus_rerank.errors import InputError
from milvus_rerank.indexing.collection import check_embedder, embedder_of, load
from milvus_rerank.indexing.embedders import Embedder
from milvus_rerank.indexing.schema import CollectionInfo, Mode, first_stage_of, text_field_of
from milvus_rerank.reranker.base import BaseRerankFunction
from milvus_rerank.scoring import Request
from milvus_rerank.search import Dense, SearchAnswer, TwoStageSearch
from milvus_rerank.search.first_stage import searches_of
from milvus_rerank.search.milvus import milvus_errors, open_source
from milvus_rerank.search.two_stage import Steps
from milvus_rerank.text_field import TextField
from milvus_rerank.validation import check_choice


class FirstStageOrder(BaseRerankFunction):
    """Keep the input order of the documents: a baseline, the search without its second stage."""

    def score_requests(self, requests: Sequence[Request], stop: threading.Event) -> list[list[float]]:
        """Score each document by its position."""
        return [[-float(position) for position in range(len(documents))] for _, documents in requests]


def open_search(
    client: Any,
    info: CollectionInfo,
    *,
    mode: Mode | None = None,
    reranker: BaseRerankFunction | None = None,
    embedder: Embedder | Callable[[], Embedder] | None = None,
    text_field: TextField | None = None,
    vector_field: str | None = None,
    steps: Steps = (),
) -> TwoStageSearch:
    """Return a two-stage search over a collection.

    :param client: a ``MilvusClient``.
    :param info: the collection.
    :param mode: ``dense``, ``bm25``, ``hybrid`` or None, as :func:`first_stage_of` takes it.
    :param reranker: the second stage; None keeps the first stage's order.
    :param embedder: the embedder of queries, or a function that loads it, called if the search needs one; None for the
        one that the collection remembers.
    :param text_field: the field to rerank by, several, or a template; None for the one that :func:`text_field_of`
        finds.
    :param vector_field: the field to search; None for the one that :func:`first_stage_of` finds.
    :param steps: steps after the reranker.
    :returns: the search.
    """
    if text_field is None:
        _check_dynamic_text(client, info)
    if mode is not None:
        check_choice(mode, "mode", get_args(Mode))
    stage = first_stage_of(info, mode, vector_field, text_field)
    field = next((str(search.field) for search in searches_of(stage) if isinstance(search, Dense)), None)
    encoder: Embedder | None = None
    if field is not None:
        encoder = embedder() if callable(embedder) else embedder or embedder_of(info, None)
        check_embedder(info, field, encoder)
    return TwoStageSearch(
        client,
        info.name,
        reranker=FirstStageOrder() if reranker is None else reranker,
        embed=None if encoder is None else encoder.encode_queries,
        text_field=text_field_of(info, text_field or {**info.bm25, **info.embedded}.get(vector_field or "")),
        first_stage=stage,
        steps=steps,
    )


def _check_dynamic_text(client: Any, info: CollectionInfo) -> None:
    """Raise an ``InputError`` if both a field and the dynamic field's key ``text`` may hold the texts."""
    fields = info.fields
    if "$meta" not in fields or "text" in fields or not info.texts or info.bm25 or info.embedded:
        return  # with BM25 or an embedding function the schema says which field has the texts
    load(client, info)
    found: Any = ()
    with suppress(*milvus_errors()):
        found = open_source(client, info.name).rows_with("text", 30.0)()
    if found:
        raise InputError(
            f"the texts of the collection {info.name!r} may be in {', '.join(map(repr, info.texts))} or in the key "
            f"'text' of its dynamic field; choose the one to rerank by with --text-field"
        )


def absent_keys(client: Any, info: CollectionInfo, names: Sequence[str], timeout: float | None = 30.0) -> list[str]:
    """Return the names that are neither fields of a collection nor keys in the dynamic field of any row.

    The schema does not know the keys of the dynamic field, so Milvus is asked for a row with each; the collection must
    be loaded. A name that Milvus cannot look for counts as present.
    """
    unknown = [name for name in names if name not in info.names]
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
