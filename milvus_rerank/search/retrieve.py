"""The first stage of one call: embed the queries, make the request, send it to Milvus, explain its errors."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any

from milvus_rerank.concurrency import bounded, here, off_loop
from milvus_rerank.errors import InputError, RerankError
from milvus_rerank.search.arguments import SearchArguments
from milvus_rerank.search.filters import unknown_field
from milvus_rerank.search.first_stage import Dense, Embed, FirstStage, FullText, check_vectors, searches_of
from milvus_rerank.search.milvus import SearchRequest, Source, explain, is_refusal, is_released, milvus_errors


def find_embedders(stage: FirstStage, embed: Embed | None, arguments: SearchArguments) -> list[Embed]:
    """Return the distinct embedders of a first stage: searches with the same embedder share its vectors.

    :param stage: the first stage.
    :param embed: the embedder of searches that have none.
    :param arguments: the call's arguments.
    :returns: the embedders.
    :raises InputError: if a vector search has neither an embedder nor vectors.
    """
    embedders: list[Embed] = []
    for search in searches_of(stage):
        embedder = _embedder(search, embed, arguments)
        if embedder is not None and embedder not in embedders:
            embedders.append(embedder)
    return embedders


def make_request(
    stage: FirstStage,
    embed: Embed | None,
    arguments: SearchArguments,
    embedded: Sequence[Any],
    fields: Sequence[str],
) -> SearchRequest:
    """Return the arguments of the call to Milvus.

    :param stage: the first stage.
    :param embed: the embedder of searches that have none.
    :param arguments: the call's arguments.
    :param embedded: the output of each embedder of :func:`find_embedders`.
    :param fields: the fields that the search itself needs.
    :returns: the request.
    """
    embedders = find_embedders(stage, embed, arguments)
    vectors = [check_vectors(output, len(arguments.queries), "the embedder's vectors") for output in embedded]
    data: list[list[Any]] = []
    for search in searches_of(stage):
        embedder = _embedder(search, embed, arguments)
        if embedder is not None:
            data.append(vectors[embedders.index(embedder)])
        else:
            data.append(arguments.queries if isinstance(search, FullText) else arguments.vectors or [])
    return SearchRequest(
        stage=stage,
        data=tuple(data),
        limit=arguments.candidates,
        output_fields=list(dict.fromkeys([*fields, *arguments.output_fields])),
        filter=arguments.filter,
        partitions=arguments.partitions,
        timeout=arguments.timeout,
    )


def _embedder(search: Dense | FullText, embed: Embed | None, arguments: SearchArguments) -> Embed | None:
    """Return the function that embeds the queries for a search; None if no embedding is needed."""
    if isinstance(search, FullText) or (search.embed is None and arguments.vectors is not None):
        return None
    embedder = search.embed or embed
    if embedder is None:
        raise InputError(
            "vector search needs query vectors; pass an embedder, TwoStageSearch(..., embed=...), or vectors, "
            "search(query, vectors=[vector]); to search by BM25, pass first_stage=FullText(field)"
        )
    return embedder


def retrieve(source: Source, request: SearchRequest) -> Any:
    """Return the result of the first stage, one list of hits per query.

    :param source: the collection.
    :param request: the request.
    :returns: the result of pymilvus.
    :raises InputError: for a filter that names a field which the collection does not have.
    :raises SearchError: if Milvus refuses, fails, or does not answer in time.
    """
    try:
        try:
            result = here(bounded(source.search(request), request.timeout))
        except milvus_errors() as error:
            if not is_released(error):
                raise
            here(bounded(source.load(request.timeout), request.timeout))
            result = here(bounded(source.search(request), request.timeout))
        if request.filter and not any(map(len, result)):
            problem = unknown_field(request.filter, here(_describe(source, request)))
            if problem and not _has_key(source, problem[0], request):
                raise InputError(problem[1])
        return result
    except RerankError:
        raise
    except milvus_errors() as error:
        raise explain(error, source, request, _schema(source, request, error)) from error


async def aretrieve(source: Source, request: SearchRequest) -> Any:
    """Like :func:`retrieve`; an asynchronous client is awaited, any other runs in a thread."""
    try:
        try:
            result = await off_loop(bounded(source.search(request), request.timeout))
        except milvus_errors() as error:
            if not is_released(error):
                raise
            await off_loop(bounded(source.load(request.timeout), request.timeout))
            result = await off_loop(bounded(source.search(request), request.timeout))
        if request.filter and not any(map(len, result)):
            problem = unknown_field(request.filter, await off_loop(_describe(source, request)))
            if problem and not await _ahas_key(source, problem[0], request):
                raise InputError(problem[1])
        return result
    except RerankError:
        raise
    except milvus_errors() as error:
        raise explain(error, source, request, await _aschema(source, request, error)) from error


def _schema(source: Source, request: SearchRequest, error: Exception) -> Mapping[str, Any] | None:
    """Return the collection's description if Milvus refused the search, to make the error clearer."""
    schema: Mapping[str, Any] | None = None
    with suppress(*milvus_errors()):  # the first error is the one to raise
        schema = here(_describe(source, request)) if is_refusal(error) else None
    return schema


async def _aschema(source: Source, request: SearchRequest, error: Exception) -> Mapping[str, Any] | None:
    schema: Mapping[str, Any] | None = None
    with suppress(*milvus_errors()):
        schema = await off_loop(_describe(source, request)) if is_refusal(error) else None
    return schema


def _describe(source: Source, request: SearchRequest) -> Callable[[], Any]:
    seconds = min(1.0, request.timeout or 1.0)
    return bounded(source.describe(seconds), seconds)


def _has_key(source: Source, key: str | None, request: SearchRequest) -> bool:
    """Return True if a row has a key in its dynamic field, or if Milvus cannot say."""
    if key is None:
        return False
    with suppress(*milvus_errors()):
        return bool(here(_rows_with(source, key, request)))
    return True


async def _ahas_key(source: Source, key: str | None, request: SearchRequest) -> bool:
    if key is None:
        return False
    with suppress(*milvus_errors()):
        return bool(await off_loop(_rows_with(source, key, request)))
    return True


def _rows_with(source: Source, key: str, request: SearchRequest) -> Callable[[], Any]:
    seconds = min(1.0, request.timeout or 1.0)
    return bounded(source.rows_with(key, seconds), seconds)
