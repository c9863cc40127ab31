"""RemoteRerankFunction: rerank with a service over HTTP."""

import json
import threading
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from milvus_rerank.errors import InputError
from milvus_rerank.requirements import require
from milvus_rerank.reranker import work
from milvus_rerank.reranker.base import BaseRerankFunction
from milvus_rerank.reranker.remote.api_formats import Question
from milvus_rerank.reranker.remote.providers import Endpoint
from milvus_rerank.reranker.remote.retry_policy import Clock, Policy
from milvus_rerank.results import Judgement
from milvus_rerank.scoring import Request, check_stop

if TYPE_CHECKING:
    from typing_extensions import Self

    from milvus_rerank.reranker.remote.client import Caller

T = TypeVar("T")

OWN_KEYS = frozenset({"documents", "input", "model", "query", "texts", "top_k", "top_n"})
"""What a request holds anyway: the query, its documents, and that all of them are wanted."""


class RemoteRerankFunction(BaseRerankFunction):
    """Rerank with a service over HTTP; the named classes know those that there are.

    Each query is asked by itself, in as many requests as its documents need. One object may be shared by threads and
    event loops. The ``a``-methods wait in the event loop, without a thread, and a cancelled one stops at once.

    Connections stay open between calls, those of an event loop until it ends. To close them sooner, use the object as a
    context manager (``with`` for plain calls, ``async with`` in an event loop), or call :meth:`close` or
    :meth:`aclose`; after that it can still be used.

    :param endpoint: whom to ask.
    :param model_name: the model's name at the service; None to leave it to the service.
    :param parameters: more keys of a request's JSON.
    :param policy: how long, how often and how much at once to ask.
    :param clock: the time; tests bring their own.
    :raises InputError: if the parameters are no JSON.
    :raises MissingDependencyError: if httpx or tenacity is not installed.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        *,
        model_name: str | None = None,
        parameters: Mapping[str, Any] | None = None,
        policy: Policy | None = None,
        clock: Clock | None = None,
    ) -> None:
        self.endpoint = endpoint
        self.model_name = _check_model(model_name)
        self.parameters = _check_parameters({} if parameters is None else parameters)
        self._caller = _caller(endpoint, policy or Policy(), clock or Clock())

    def score_requests(self, requests: Sequence[Request], stop: threading.Event) -> list[list[float]]:
        """Ask the service, and put the scores of its answers together in input order."""
        check_stop(stop)
        questions, owners = self._split(requests)
        return _joined(self._caller.ask_all(questions, stop), owners, len(requests))

    def close(self) -> None:
        """Close the connections of plain calls."""
        self._caller.connections.close()

    async def aclose(self) -> None:
        """Close the connections of the running event loop, and those of plain calls."""
        self.close()
        await self._caller.connections.aclose()

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
            f"dialect={self.endpoint.dialect.name!r}, max_documents={self.endpoint.max_documents})"
        )

    async def _off_loop(self, call: work.Work[T]) -> T:
        ask = next(call)
        questions, owners = self._split(ask.filled)
        scores = _joined(await self._caller.aask_all(questions), owners, len(ask.filled))
        return work.finish(call, ask.check([Judgement(some) for some in scores]))

    def _split(self, requests: Sequence[Request]) -> tuple[list[Question], list[int]]:
        """Return requests no larger than the service takes, and whose each is."""
        size = self.endpoint.max_documents
        found = [
            (Question(query, texts[start : start + size], self.model_name, self.parameters), owner)
            for owner, (query, texts) in enumerate(requests)
            for start in range(0, len(texts), size)
        ]
        return [question for question, _ in found], [owner for _, owner in found]


def _joined(scores: Sequence[list[float]], owners: Sequence[int], count: int) -> list[list[float]]:
    whole: list[list[float]] = [[] for _ in range(count)]
    for owner, some in zip(owners, scores, strict=True):
        whole[owner] += some
    return whole


def _caller(endpoint: Endpoint, policy: Policy, clock: Clock) -> "Caller":
    require("reranking with a service", "httpx", "tenacity")
    from milvus_rerank.reranker.remote.client import Caller

    return Caller(endpoint, policy, clock)


def _check_model(name: object) -> str | None:
    if name is not None and (not isinstance(name, str) or not name.strip()):
        raise InputError(f"model_name must be a model's name at the service, or None, got {name!r}")
    return name


def _check_parameters(parameters: object) -> dict[str, Any]:
    if not isinstance(parameters, Mapping) or not all(isinstance(key, str) for key in parameters):
        raise InputError(f"parameters must be a dict with names as keys, got {parameters!r}")
    own = sorted(OWN_KEYS.intersection(parameters))
    if own:
        raise InputError(f"parameters cannot hold {', '.join(own)}: a request has its own")
    try:
        json.dumps(dict(parameters), allow_nan=False)
    except (TypeError, ValueError) as error:
        raise InputError(f"parameters must be what JSON can hold: {error}") from error
    return dict(parameters)
