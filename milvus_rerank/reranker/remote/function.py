"""RemoteRerankFunction: rerank with a service over HTTP."""

import json
import sys
import threading
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from milvus_rerank.errors import InputError
from milvus_rerank.requirements import require
from milvus_rerank.reranker.base import NO_SPANS, BaseRerankFunction
from milvus_rerank.reranker.call import CheckedCall, results
from milvus_rerank.reranker.remote.api_formats import ApiFormat
from milvus_rerank.reranker.remote.options import Clock, ServiceKeywords, ServiceOptions
from milvus_rerank.reranker.remote.providers import find_endpoint
from milvus_rerank.results import DocumentScores
from milvus_rerank.scoring import Request, check_stop

if TYPE_CHECKING:
    from typing_extensions import Self, Unpack

RESERVED_KEYS = frozenset({"documents", "input", "model", "query", "texts", "top_k", "top_n"})
"""Keys that every request sets: the model, the query, its documents, and the number of results."""


class RemoteRerankFunction(BaseRerankFunction):
    """Rerank with a service over HTTP; each known service has a subclass.

    Each query has its own HTTP requests, as many as its documents need. Rerankers are safe to share between threads and
    event loops. The ``a``-methods wait in the event loop, without a thread; cancelling stops them at once.

    Connections stay open between calls; those of an event loop close when it ends. To close them sooner, use the
    reranker as a context manager (``with`` for sync calls, ``async with`` in an event loop), or call :meth:`close` or
    :meth:`aclose`; the reranker remains usable. It never closes a ``client`` that the user passes.

    Rerankers pickle without the user's client, and without the key unless ``pickle_key`` is set. Copies keep both.

    :param url: the address of the service or of its route.
    :param api_format: the API format; None to derive it from the address.
    :param api_key: the key; None to read a hosted service's key from the environment.
    :param argument: the name of the argument that holds the address, for messages.
    :param keep_path: keep the address's path unchanged, unless it is only the beginning of a route.
    :param model_name: the model's name at the service; None for the service's default.
    :param parameters: further keys of a request's JSON.
    :param clock: the clock; tests pass a fake.
    :param **options: the fields of :class:`~milvus_rerank.reranker.remote.options.ServiceOptions`.
    :raises InputError: for an invalid option, a missing key, or parameters that JSON cannot hold.
    :raises MissingDependencyError: if httpx is not installed.
    """

    def __init__(
        self,
        url: str,
        api_format: ApiFormat | None,
        api_key: str | None = None,
        argument: str = "url",
        *,
        keep_path: bool = False,
        model_name: str | None = None,
        parameters: Mapping[str, Any] | None = None,
        clock: Clock | None = None,
        **options: "Unpack[ServiceKeywords]",
    ) -> None:
        service_options = ServiceOptions(**options)
        self.endpoint = find_endpoint(url, api_format, api_key, service_options, argument, keep_path)
        self.model_name = _check_model(model_name)
        self.parameters = _check_parameters({} if parameters is None else parameters)
        require("reranking with a service", "httpx")
        from milvus_rerank.reranker.remote.client import RerankClient

        self._client = RerankClient(self.endpoint, self.model_name, self.parameters, service_options, clock)

    def score_requests(self, requests: Sequence[Request], stop: threading.Event) -> list[list[float]]:
        """Request the scores from the service."""
        check_stop(stop)
        return self._client.score(requests, stop)

    async def ascore_requests(self, requests: Sequence[Request], seconds: float | None = None) -> list[list[float]]:
        """Request the scores in the running event loop; cancelling closes the connections.

        :param requests: checked queries, each with its documents.
        :param seconds: the most seconds for the whole call, if its ``deadline`` is longer; None for no limit.
        :returns: one list of scores per request, in input order.
        """
        return await self._client.ascore(requests, seconds)

    def close(self) -> None:
        """Close the connections of sync calls."""
        self._client.connections.close()

    async def aclose(self) -> None:
        """Close the connections of the running event loop and those of sync calls."""
        self.close()
        await self._client.connections.aclose()

    def __enter__(self) -> "Self":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    async def __aenter__(self) -> "Self":
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}({self.endpoint.address!r}, model_name={self.model_name!r}, "
            f"dialect={self.endpoint.api_format.name!r}, max_documents={self.endpoint.max_documents})"
        )

    async def _ascore(self, checked: CheckedCall, instruction: str | None) -> list[DocumentScores]:
        if instruction is not None:
            self.with_instruction(instruction)  # says that there is none
        spans = NO_SPANS
        if "opentelemetry.trace" in sys.modules:
            from milvus_rerank.tracing import reranking

            spans = reranking(self, checked.requests, checked.unscored, checked.top_k)
        with spans as record:
            numbers = await self.ascore_requests([request for request in checked.requests if request[1]])
            scores = checked.check_scores([DocumentScores(query_scores) for query_scores in numbers])
            if record is not None:
                record(results(checked, scores))
            return scores


def _check_model(name: object) -> str | None:
    if name is not None and (not isinstance(name, str) or not name.strip()):
        raise InputError(f"model_name must be a model's name at the service, or None, got {name!r}")
    return name


def _check_parameters(parameters: object) -> dict[str, Any]:
    if not isinstance(parameters, Mapping) or not all(isinstance(key, str) for key in parameters):
        raise InputError(f"parameters must be a dict with names as keys, got {parameters!r}")
    reserved = sorted(RESERVED_KEYS.intersection(parameters))
    if reserved:
        raise InputError(f"parameters cannot hold {', '.join(reserved)}: a request has its own")
    try:
        json.dumps(dict(parameters), allow_nan=False)
    except (TypeError, ValueError) as error:
        raise InputError(f"parameters must be what JSON can hold: {error}") from error
    return dict(parameters)
