"""A two-stage search as a config file describes it."""

import os
from collections.abc import Mapping
from functools import partial
from typing import Any

from milvus_rerank.choices import DEFAULT_CANDIDATES, DEFAULT_TOP_K, DEFAULT_URI
from milvus_rerank.config import Config, SearchTable, read_config
from milvus_rerank.indexing.client import connect
from milvus_rerank.indexing.collection import embedder_of
from milvus_rerank.indexing.schema import describe, only_collection
from milvus_rerank.indexing.search import open_search
from milvus_rerank.registry import find_loader
from milvus_rerank.search import TwoStageSearch
from milvus_rerank.search.arguments import SearchOptions


class ConfiguredSearch(TwoStageSearch[float]):
    """A two-stage search whose calls take the arguments that they lack from a config file.

    :param search: the search.
    :param arguments: the arguments of calls.
    """

    def __init__(self, search: TwoStageSearch[Any], arguments: SearchOptions) -> None:
        vars(self).update(vars(search))  # this search with other defaults
        self.arguments = arguments

    def __call__(self, query: Any, **options: Any) -> Any:
        """Search as ``TwoStageSearch`` does."""
        return super().__call__(query, **{**self.arguments, **options})

    async def asearch(self, query: Any, **options: Any) -> Any:
        """Search as ``TwoStageSearch.asearch`` does."""
        return await super().asearch(query, **{**self.arguments, **options})


def open_configured(
    source: str | os.PathLike[str] | Mapping[str, Any] | Config, client: Any = None
) -> TwoStageSearch[float]:
    """Return the search that a config describes; :meth:`TwoStageSearch.from_config` documents it."""
    config = read_config(source)
    milvus, collection = config.milvus, config.collection
    timeout = 30.0 if milvus.timeout is None else milvus.timeout
    options = config.reranker.to_options()
    own = client is None
    if client is None:
        uri, database = milvus.uri or DEFAULT_URI, milvus.db_name or ""
        client = connect(uri, token=milvus.token(), db_name=database, timeout=timeout, must_exist=True)
    try:
        info = describe(client, collection.name or only_collection(client, timeout), timeout)
        search = open_search(
            client,
            info,
            mode=collection.mode,
            reranker=find_loader(config.reranker.name, options.pop("model_name", None))(**options),
            embedder=partial(embedder_of, info, config.embedder.name),
            text_field=collection.text_field,
            steps=config.steps,
            vector_field=collection.vector_field,
        )
    except BaseException:
        if own:
            client.close()
        raise
    return ConfiguredSearch(search, _arguments(config.search, timeout))


def _arguments(table: SearchTable, timeout: float) -> SearchOptions:
    top_k = DEFAULT_TOP_K if table.top_k is None else table.top_k
    return SearchOptions(
        top_k=top_k,
        candidates=max(DEFAULT_CANDIDATES if table.candidates is None else table.candidates, top_k),
        threshold=table.threshold,
        filter=table.filter or "",
        output_fields=table.output_fields,
        timeout=timeout,
        instruction=table.instruction,
    )
