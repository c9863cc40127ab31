"""The server in replicas on Ray Serve: each replica is the whole application, with models and batches."""

import logging
import os
import re
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields
from functools import partial
from typing import Any

from milvus_rerank.cluster import runtime
from milvus_rerank.cluster.reranker import RerankerSpec
from milvus_rerank.errors import InputError, MissingDependencyError, RerankError
from milvus_rerank.requirements import SERVER, require
from milvus_rerank.server.settings import KEYS_VARIABLE, Limits, Settings, read_keys

NAME = "milvus-rerank"
"""The name of the Serve application."""
ROOM = 64
"""Requests beyond a replica's limit that Ray Serve passes on, so that the replica itself answers 429."""


@dataclass(frozen=True, slots=True)
class Replicas:
    """Replicas of a server.

    :param least: the least replicas.
    :param most: the most; more than ``least`` for autoscaling.
    :param requests: the requests that a replica works on when their number neither grows nor shrinks.
    :param cpus: the CPUs of a replica.
    :param gpus: the GPUs of a replica.
    :raises InputError: for numbers that do not fit together.
    """

    least: int = 1
    most: int = 1
    requests: int = 8
    cpus: float = 1
    gpus: float = 0

    def __post_init__(self) -> None:
        if not 1 <= self.least <= self.most:
            raise InputError(
                f"replicas must be a number such as 2, or a range such as 1-8, got {self.least}-{self.most}"
            )


class Replica:
    """One replica: the application, with its models loaded before the first request.

    :param models: the rerankers by the names under which they are served.
    :param settings: keys and limits.
    """

    def __init__(self, models: Mapping[str, RerankerSpec], settings: Settings) -> None:
        from milvus_rerank.server.app import Application
        from milvus_rerank.server.main import log_to
        from milvus_rerank.server.models import Models

        log_to(sys.stderr)  # Ray keeps it in the replica's log file
        loaded = {name: spec.load() for name, spec in models.items()}
        loaders = {name: partial(loaded.__getitem__, name) for name in loaded}
        self.application = Application(Models(loaders), settings, tuple(loaders))

    def __serve_build_asgi_app__(self) -> Any:
        return self.application

    async def check_health(self) -> None:
        """Raise if the application cannot answer: Ray Serve then replaces the replica."""
        if self.application.problem:
            raise RerankError(self.application.problem)


def deployment(models: Mapping[str, RerankerSpec], settings: Settings, replicas: Replicas) -> Any:
    """Return the application for ``ray.serve.run``.

    :param models: the rerankers by the names under which they are served; the first is the default.
    :param settings: keys and limits of each replica.
    :param replicas: their number and size.
    :returns: the bound deployment.
    :raises MissingDependencyError: if Ray Serve is not installed.
    """
    require("serving on Ray", "ray", *SERVER)
    try:
        from ray import serve
    except ImportError as error:  # Ray is there without its extra serve
        raise MissingDependencyError(["ray.serve"], ["ray", "server"], "serving on Ray") from error

    scaling: dict[str, Any] = {"num_replicas": replicas.least}
    if replicas.most > replicas.least:
        scaling = {
            "autoscaling_config": {
                "min_replicas": replicas.least,
                "max_replicas": replicas.most,
                "target_ongoing_requests": replicas.requests,
            }
        }
    options: Any = serve.deployment(
        name="reranker",
        ray_actor_options={"num_cpus": replicas.cpus, "num_gpus": replicas.gpus},
        max_ongoing_requests=settings.limits.requests + ROOM,
        graceful_shutdown_timeout_s=settings.limits.drain_seconds,
        **scaling,
    )
    return options(serve.ingress()(Replica)).bind(dict(models), settings)


def app(arguments: Mapping[str, Any]) -> Any:
    """Return the application for a config file of Ray Serve: ``import_path: milvus_rerank.cluster.serve:app``.

    :param arguments: ``model``, ``reranker`` and ``options`` of the reranker; ``replicas`` and ``limits``, each a
        mapping with the fields of :class:`Replicas` and of the server's limits; ``open`` to serve without keys, which
        the variable ``MILVUS_RERANK_API_KEYS`` holds.
    :returns: the bound deployment.
    :raises InputError: for an argument that does not exist.
    """
    known = ("model", "reranker", "options", "replicas", "limits", "open")
    _check_names(arguments, known, "args")
    sizes, limits = dict(arguments.get("replicas") or {}), dict(arguments.get("limits") or {})
    _check_names(sizes, [field.name for field in fields(Replicas)], "replicas")
    _check_names(limits, [field.name for field in fields(Limits)], "limits")
    keys = read_keys(os.environ.get(KEYS_VARIABLE), None)
    settings = Settings("0.0.0.0", 8000, keys, Limits(**limits), bool(arguments.get("open")))  # noqa: S104
    settings.check()
    spec = RerankerSpec(arguments.get("reranker"), arguments.get("model"), dict(arguments.get("options") or {}))
    return deployment({spec.model or spec.name or "builtin/rerank": spec}, settings, Replicas(**sizes))


def _check_names(given: Mapping[str, Any], known: Any, place: str) -> None:
    for name in given:
        if name not in known:
            raise InputError(f"{place} has no {name!r}; it takes {', '.join(known)}")


@contextmanager
def serving(
    models: Mapping[str, RerankerSpec], settings: Settings, replicas: Replicas, address: str | None = None
) -> Iterator[str]:
    """Serve on a Ray cluster, or on Ray of this machine, while the block runs; then finish what was admitted.

    :param models: as in :func:`deployment`.
    :param settings: the address to listen on, keys and limits.
    :param replicas: their number and size.
    :param address: the cluster's address, or ``auto``; None starts Ray, and stops it at the end.
    :yields: the server's address.
    :raises RerankError: if a replica does not start; the message is that of its error.
    """
    bound = deployment(models, settings, replicas)
    cpus = max(1, round(replicas.cpus))
    with runtime.connected(address, replicas.least, cpus, replicas.gpus):
        from ray import serve

        logging.getLogger("ray.serve").setLevel(logging.ERROR)
        serve.start(http_options={"host": settings.host, "port": settings.port})
        try:
            with runtime.explained():
                try:
                    serve.run(bound, name=NAME, route_prefix="/")
                except RuntimeError as error:
                    raise RerankError(f"no replica starts: {_reason(serve.status()) or error}") from None
            host = f"[{settings.host}]" if ":" in settings.host else settings.host
            yield f"http://{host}:{settings.port}"
        finally:
            serve.delete(NAME)  # waits for the requests that were admitted, as long as drain_seconds
            serve.shutdown()


def _reason(status: Any) -> str:
    """Return the last line of a replica's traceback, which Ray Serve keeps as a message; "" if there is none."""
    messages = [one.message for app in status.applications.values() for one in app.deployments.values()]
    errors = re.findall(r"^\s*(?:milvus_rerank\.errors\.)(\w+: .+)$", "\n".join(messages), re.MULTILINE)
    return str(errors[-1]) if errors else "".join(messages)[-500:]


def run(
    models: Mapping[str, RerankerSpec],
    settings: Settings,
    replicas: Replicas,
    address: str | None = None,
    announce: Callable[[str], object] = lambda address: None,
) -> None:
    """Serve until SIGTERM or SIGINT, as :func:`serving` does.

    :param models: as in :func:`deployment`.
    :param settings: as in :func:`serving`.
    :param replicas: as in :func:`serving`.
    :param address: as in :func:`serving`.
    :param announce: called with the address once the replicas accept requests.
    """
    ended = threading.Event()
    with serving(models, settings, replicas, address) as url:
        for name in (signal.SIGTERM, signal.SIGINT):  # Ray sets handlers of its own when it starts
            signal.signal(name, lambda *_: ended.set())
        announce(url)
        while not ended.wait(0.5):
            pass
