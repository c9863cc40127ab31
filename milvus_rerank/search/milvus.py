"""Calls to Milvus through any of pymilvus' clients, and explanations of its errors."""

import pickle
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from milvus_rerank.errors import InputError, SearchError
from milvus_rerank.postprocess.fuse import RRF
from milvus_rerank.requirements import require
from milvus_rerank.search.first_stage import FirstStage, Hybrid, searches_of

# Parts of the messages of pymilvus and gRPC for a closed client, session, channel or event loop.
_CLOSED = ("create connection first", "session is closed", "closed channel", "channel is closed", "loop is closed")

_BUSY = (2, 4, 8)  # Milvus' codes: service unavailable, too many requests, rate limit


@dataclass(frozen=True, slots=True)
class SearchRequest:
    """Arguments of one search call to Milvus, independent of the client.

    ``data`` holds, for each search of the stage, one vector or text per query.
    """

    stage: FirstStage
    data: tuple[list[Any], ...]
    limit: int
    output_fields: list[str]
    filter: str
    partitions: list[str] | None
    timeout: float | None

    def __str__(self) -> str:
        kinds = " + ".join(_name(search.field, type(search).__name__) for search in searches_of(self.stage))
        parts = [kinds, f"limit={self.limit}", f"output_fields={self.output_fields}"]
        parts += [f"filter={self.filter!r}"] if self.filter else []
        parts += [f"partitions={self.partitions}"] if self.partitions else []
        return ", ".join(parts)


@dataclass(frozen=True, slots=True)
class Source:
    """A collection and its client; :func:`open_source` checks that they fit together.

    :param client: a ``MilvusClient``, an ``AsyncMilvusClient``, or an ORM ``Collection``.
    :param collection: the collection's name; None for an ORM collection, which knows its name.
    """

    client: Any
    collection: str | None

    def __deepcopy__(self, memo: object) -> "Source":
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        try:
            pickle.dumps(self.client)
        except Exception as error:  # pickle passes on whatever the client's parts raise
            raise InputError(
                f"a search cannot be pickled with its client, a {type(self.client).__name__} ({error}); create "
                "TwoStageSearch, with a new client, in the process that searches"
            ) from error
        return Source, (self.client, self.collection)

    @property
    def name(self) -> str:
        """Name of the collection."""
        return str(self.client.name) if self.collection is None else self.collection

    def search(self, request: SearchRequest) -> Callable[[], Any]:
        """Return the call that runs the first stage; it is a coroutine function if the client is asynchronous."""
        common = {
            "limit": request.limit,
            "output_fields": request.output_fields,
            "partition_names": request.partitions,
            "timeout": request.timeout,
        }
        target = () if self.collection is None else (self.collection,)
        if isinstance(request.stage, Hybrid):
            parts, ranker = _hybrid(request, request.stage)
            return partial(self.client.hybrid_search, *target, parts, ranker, **common)
        data, params = request.data[0], dict(request.stage.params)
        if self.collection is None:
            expression = request.filter or None
            return partial(self.client.search, data, request.stage.field or "", params, expr=expression, **common)
        common |= {"anns_field": request.stage.field or "", "search_params": params, "filter": request.filter}
        return partial(self.client.search, *target, data, **common)

    def load(self, timeout: float | None) -> Callable[[], Any]:
        """Return the call that loads the collection into memory."""
        if self.collection is None:
            return partial(self.client.load, timeout=timeout)
        return partial(self.client.load_collection, self.collection, timeout=timeout)

    def rows_with(self, key: str, timeout: float | None) -> Callable[[], Any]:
        """Return the call that reads a row with a key of the dynamic field; it returns no row if none has the key."""
        options = {"output_fields": [key], "limit": 1, "timeout": timeout}
        if self.collection is None:
            return partial(self.client.query, f"exists {key}", **options)
        return partial(self.client.query, self.collection, filter=f"exists {key}", **options)

    def describe(self, timeout: float | None) -> Callable[[], Any]:
        """Return the call that describes the collection.

        It returns a dict with ``fields``, or an empty dict for a client that can only search, such as a session.
        """
        if self.collection is None:
            return partial(self.client.schema.to_dict)
        if not hasattr(self.client, "describe_collection"):
            return dict
        return partial(self.client.describe_collection, self.collection, timeout=timeout)


def open_source(client: object, collection: str | None) -> Source:
    """Combine a client with a collection's name; the attributes of the client decide what it is, not its class."""
    if not all(callable(getattr(client, method, None)) for method in ("search", "hybrid_search")):
        raise InputError(
            f"client must be a MilvusClient, an AsyncMilvusClient or a Collection, got {type(client).__name__}"
        )
    name = getattr(client, "name", None)  # only an ORM collection has a name
    if not isinstance(name, str):
        if not isinstance(collection, str) or not collection:
            raise InputError(
                f"collection must be a name, got {collection!r}; write TwoStageSearch(client, 'docs', reranker=...)"
            )
        return Source(client, collection)
    if collection not in (None, name):
        raise InputError(
            f"client is the ORM collection {name!r}, but collection is {collection!r}; leave out collection"
        )
    return Source(client, None)


def milvus_errors() -> tuple[type[Exception], ...]:
    """Return the exceptions that pymilvus raises when Milvus refuses, fails or does not answer.

    pymilvus passes on gRPC's exceptions for an exceeded deadline and for a channel that another thread has closed.
    :func:`~milvus_rerank.concurrency.bounded` raises a ``TimeoutError``.
    """
    from grpc import RpcError, aio  # type: ignore[import-untyped]
    from pymilvus.exceptions import MilvusException

    return (MilvusException, RpcError, aio.UsageError, ValueError, TimeoutError)


def is_refusal(error: Exception) -> bool:
    """Return True if Milvus answered and the collection's schema may explain the error of the request."""
    return _known_advice(error, None) is None


def explain(error: Exception, source: Source, request: SearchRequest, schema: Mapping[str, Any] | None) -> SearchError:
    """Return an error with the request, Milvus' message and, for known causes or from the schema, the remedy."""
    advice = _known_advice(error, request.timeout)
    if advice is None:
        advice = _schema_advice(request, schema) if schema else ""
    text = f"Milvus could not search {source.name!r} ({request}): {message_of(error)}"
    return SearchError(f"{text.rstrip('.')}. {advice}".rstrip())


def is_released(error: Exception) -> bool:
    """Return True if Milvus Lite has not loaded the collection: a new process finds all collections released."""
    return "is in state 'released'" in message_of(error)


def is_transient(error: Exception) -> bool:
    """Return True if the same call may succeed later: Milvus was not there, did not answer in time, or is busy."""
    code = getattr(error, "code", None)
    state = getattr(code() if callable(code) else code, "name", "")
    text = message_of(error).casefold()
    return (
        isinstance(error, TimeoutError)
        or state in ("UNAVAILABLE", "DEADLINE_EXCEEDED", "RESOURCE_EXHAUSTED")
        or code in _BUSY
        or any(sign in text for sign in ("fail connecting to server", "retry timeout", "rate limit"))
    )


def _hybrid(request: SearchRequest, stage: Hybrid) -> tuple[list[Any], Any]:
    require("hybrid search", "pymilvus")
    from pymilvus import AnnSearchRequest, RRFRanker, WeightedRanker

    parts = [
        AnnSearchRequest(data, search.field or "", dict(search.params), request.limit, expr=request.filter or None)
        for search, data in zip(stage.searches, request.data, strict=True)
    ]
    if isinstance(stage.fusion, RRF):
        return parts, RRFRanker(stage.fusion.k)
    return parts, WeightedRanker(*stage.fusion.weights, norm_score=stage.fusion.normalize)


def message_of(error: Exception) -> str:
    """Return the message of Milvus or gRPC alone: the text of gRPC's errors fills a page."""
    details = getattr(error, "details", None)
    text = details() if callable(details) else getattr(error, "message", "")
    return str(text or error or type(error).__name__)


def _known_advice(error: Exception, timeout: float | None) -> str | None:
    code = getattr(error, "code", None)
    state = getattr(code() if callable(code) else code, "name", "")  # gRPC's codes have names; Milvus' are numbers
    text = message_of(error).casefold()
    late = isinstance(error, TimeoutError) or state == "DEADLINE_EXCEEDED"
    if late or (state != "UNAVAILABLE" and "retry timeout" in text):
        return f"It did not answer within {timeout} s; retry, or pass a longer timeout=..."
    if state == "UNAVAILABLE" or "fail connecting to server" in text:
        return "Is the server running, and does the client's uri name it?"
    if any(sign in text for sign in _CLOSED):
        return "The client is closed, or was opened in another event loop; open a new one."
    if code == 100 or "collection not found" in text:
        return "To list the collections, call client.list_collections()."
    if code == 101 or "collection not loaded" in text:
        return "Load it first: client.load_collection(...)."
    return None


def _schema_advice(request: SearchRequest, schema: Mapping[str, Any]) -> str:
    fields = {entry["name"]: entry for entry in schema.get("fields", ())}
    params = {name: entry.get("params") or {} for name, entry in fields.items()}
    dims = {name: int(field["dim"]) for name, field in params.items() if "dim" in field}
    for search, data in zip(searches_of(request.stage), request.data, strict=True):
        if search.field and search.field not in fields:
            return f"The collection has no field {search.field!r}; its fields are {sorted(fields)}."
        field = search.field or next(iter(dims), "")
        lengths = [len(row) for row in data if isinstance(row, list) and field in dims]
        wrong = next((length for length in lengths if length != dims[field]), None)
        if wrong is not None:
            return (
                f"The query vector has {wrong} dimensions, the field {field!r} has {dims[field]}; "
                f"embed the query with the model that made the collection's vectors."
            )
    unknown = [name for name in request.output_fields if name not in fields and name != "*"]
    if unknown and not schema.get("enable_dynamic_field"):
        return f"The collection has no field {unknown[0]!r}; its fields are {sorted(fields)}."
    return ""


def _name(field: str | None, kind: str) -> str:
    return f"{kind}({field!r})" if field else f"{kind}()"
