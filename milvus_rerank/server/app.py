"""The HTTP application: routes, error responses and health checks; :mod:`~milvus_rerank.server.service` scores."""

import contextlib
import math
import time
from collections.abc import AsyncIterator, Callable, Sequence
from typing import TYPE_CHECKING, Any

import anyio
import anyio.to_thread
import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.datastructures import State
from starlette.exceptions import HTTPException

from milvus_rerank import __version__, errors
from milvus_rerank.server import api_formats as formats
from milvus_rerank.server.json_body import JSONRoute
from milvus_rerank.server.metrics import Metrics
from milvus_rerank.server.middleware import SIMILARITY, ErrorAnswer, RequestMiddleware, error_body, failure
from milvus_rerank.server.models import Models
from milvus_rerank.server.pairs import ScoreAnswer, ScoreRequest
from milvus_rerank.server.playground import Milvus, add_playground
from milvus_rerank.server.service import TOKENIZERS, Service
from milvus_rerank.server.settings import Settings

if TYPE_CHECKING:
    from milvus_rerank.server.tracing import Traces

PUBLIC = frozenset({"/", "/docs", "/health", "/ready"})
"""Paths that need no key: they reveal neither the server's data nor its requests."""
DASHSCOPE = "/api/v1/services/rerank/text-rerank/text-rerank"
_STATUSES: tuple[tuple[type[errors.RerankError], int], ...] = (
    (errors.OverloadedError, 429),
    (errors.DeadlineError, 504),
    (errors.StoppedError, 503),
    (errors.RegistryError, 404),
    (errors.InputError, 422),
    (errors.SearchError, 502),
)
RETRY_AFTER = (1, 5, 3600)
"""Seconds of ``Retry-After`` for a failed service: the least, those if it sends none, and the most."""
_ERRORS = (400, 401, 403, 404, 408, 413, 415, 421, 422, 429, 431, 500, 502, 503, 504)

_SCORING_ROUTES: tuple[tuple[str, Any, Any, str], ...] = (
    (
        "/rerank",
        formats.AnyRequest,
        list[formats.TeiResult] | formats.RerankAnswer,
        "Rerank as TEI or vLLM.",
    ),
    (
        "/v1/rerank",
        formats.RerankRequest,
        formats.RerankAnswer,
        "Rerank as Jina, vLLM or Cohere's API v1.",
    ),
    ("/v2/rerank", formats.CohereRequest, formats.RerankAnswer, "Rerank as Cohere's API v2."),
    ("/voyage/v1/rerank", formats.VoyageRequest, formats.VoyageAnswer, "Rerank as Voyage."),
    (DASHSCOPE, formats.DashScopeRequest, formats.DashScopeAnswer, "Rerank as DashScope."),
    ("/score", ScoreRequest, ScoreAnswer, "Score pairs as vLLM."),
    ("/v1/score", ScoreRequest, ScoreAnswer, "Score pairs as vLLM."),
)
"""Path, request, response and description of the routes that score."""

logger = structlog.get_logger("milvus_rerank.server")


class Application:
    """The ASGI application: the request middleware in front of the routes.

    :param models: the models to serve; closed when the application ends.
    :param settings: keys and limits.
    :param preload: the names of models to load at startup; ``/ready`` answers 503 until they are loaded. If a model
        does not load, ``problem`` holds the reason and the application calls ``stop``, which its server may set.
    :param milvus: the Milvus that the playground may search; None to disable searching.
    :param traces: creates a span for each request and stage; None for no traces.
    """

    def __init__(
        self,
        models: Models,
        settings: Settings,
        preload: Sequence[str] = (),
        *,
        milvus: Milvus | None = None,
        traces: "Traces | None" = None,
    ) -> None:
        self.models = models
        self.metrics = Metrics(models.batchers)
        models.report = self.metrics.batch
        self.service = Service(models, settings.limits, self.metrics, traces)
        self.loaded = not preload
        self._started = int(time.time())
        self.problem = ""
        self.stop: Callable[[], object] = lambda: None
        self._preload = tuple(preload)
        self._milvus = milvus
        self._settings = settings
        app = FastAPI(
            title="milvus-rerank",
            version=__version__,
            summary="Rerank documents as TEI, vLLM, Jina, Cohere, Voyage, DashScope and Hugging Face do.",
            lifespan=self._lifespan,
            responses={status: {"model": ErrorAnswer} for status in _ERRORS},
            docs_url=None,  # FastAPI's documentation pages load scripts from other hosts
            redoc_url=None,
        )
        app.router.route_class = JSONRoute
        _add_errors(app)
        _add_health(app, self)
        _add_scoring(app, self.service)
        add_playground(app, milvus, self.service)
        routes = frozenset(path for route in app.routes if (path := getattr(route, "path", "")))
        self.middleware = RequestMiddleware(app, settings=settings, metrics=self.metrics, public=PUBLIC, routes=routes)
        self._entry = traces.wrap(self.middleware) if traces else self.middleware

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer one request."""
        await self._entry(scope, receive, send)

    @property
    def ready(self) -> bool:
        """True if the server is ready for requests: the models are loaded and it is not shutting down."""
        return self.loaded and not self.middleware.stopping

    def info(self) -> dict[str, Any]:
        """Return the version, the limits and the models of the server, with the keys of text-embeddings-inference."""
        limits, loaded = self._settings.limits, dict(self.models.loaded)
        first = self.models.names[0]
        model = loaded[first].info() if first in loaded else {}
        return {
            "version": __version__,
            "model_id": first,
            "served_model_name": first,
            "model_sha": None,
            "model_dtype": model.get("dtype"),
            "model_type": {"reranker": {"id2label": {"0": "LABEL_0"}, "label2id": {"LABEL_0": 0}}},
            "max_input_length": model.get("max_length"),
            "max_batch_tokens": model.get("max_batch_tokens"),
            "max_batch_requests": None,
            "max_concurrent_requests": limits.requests,
            "max_client_batch_size": limits.documents,
            "auto_truncate": True,
            "tokenization_workers": TOKENIZERS,
            "max_body_bytes": limits.body_bytes,
            "deadline_seconds": limits.deadline,
            "milvus": self._milvus is not None,
            "models": [
                {"name": name, "loaded": name in loaded, **(loaded[name].info() if name in loaded else {})}
                for name in self.models.names
            ],
        }

    def list_models(self) -> dict[str, Any]:
        """Return the models as OpenAI and vLLM list them."""
        loaded = dict(self.models.loaded)
        lengths = {name: model.info().get("max_length") for name, model in loaded.items()}
        facts = {"object": "model", "created": self._started, "owned_by": "milvus-rerank", "parent": None}
        data = [
            {"id": name, **facts, "root": name, "max_model_len": lengths.get(name), "permission": []}
            for name in self.models.names
        ]
        return {"object": "list", "data": data}

    @contextlib.asynccontextmanager
    async def _lifespan(self, app: FastAPI) -> AsyncIterator[None]:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._load)
            yield
            tasks.cancel_scope.cancel()
        await anyio.to_thread.run_sync(self.models.close, 0.0)

    async def _load(self) -> None:
        try:
            for name in self._preload:
                await self.service.load(name)
        except (errors.RerankError, OSError) as error:
            self.problem = f"model {name!r} does not load: {error}"
            logger.error("load", model=name, error=str(error))
            self.stop()
        else:
            self.loaded = True


def _add_errors(app: FastAPI) -> None:
    def answer(status: int, message: str, headers: dict[str, str] | None = None) -> Response:
        return JSONResponse(error_body(status, message), status_code=status, headers=headers)

    @app.exception_handler(errors.RerankError)
    async def rerank_error(request: Request, error: errors.RerankError) -> Response:
        if (failed := _failed_service(error)) is not None:
            return answer(*_service_answer(request.state, failed))
        status = next((status for kind, status in _STATUSES if isinstance(error, kind)), 500)
        if status == 500:  # model, device and score errors: the message names files and numbers, never a text
            logger.error("failed", id=request.state.request_id, error=type(error).__name__, message=str(error))
            return answer(status, failure(request.state.request_id))
        headers = {"retry-after": str(error.retry_after)} if isinstance(error, errors.OverloadedError) else None
        return answer(status, str(error), headers)

    @app.exception_handler(Exception)
    async def other_error(request: Request, error: Exception) -> Response:
        return answer(500, failure(request.state.request_id))  # the middleware logs the error

    @app.exception_handler(RequestValidationError)
    async def invalid_request(request: Request, error: RequestValidationError) -> Response:
        # Leave out the input values: they may not be valid JSON (NaN) or may be texts of any length.
        problems = error.errors()
        parts = [f"{'.'.join(map(str, problem['loc']))}: {problem['msg']}" for problem in problems[:5]]
        more = [f"and {len(problems) - 5} more"] if len(problems) > 5 else []
        return answer(422, "; ".join(parts + more))

    @app.exception_handler(HTTPException)
    async def http_error(request: Request, error: HTTPException) -> Response:
        return answer(error.status_code, str(error.detail), dict(error.headers or {}))


def _failed_service(error: BaseException | None) -> errors.ServiceError | None:
    """Return the failure of a service, also of one in a cascade or a chain; None for another error."""
    while isinstance(error, (errors.StageError, errors.FallbackError)):
        error = error.__cause__
    return error if isinstance(error, errors.ServiceError) else None


def _service_answer(state: State, error: errors.ServiceError) -> tuple[int, str, dict[str, str] | None]:
    """Return status, message and headers for a failed service, without its own words: they may hold keys or texts."""
    status, headers, problem = 502, None, "gave no answer" if error.status is None else f"answered {error.status}"
    if isinstance(error, errors.ServiceTimeoutError):
        status, state.outcome, problem = 504, "upstream_timeout", "did not answer in time"
    elif error.status in (429, 503):
        least, usual, most = RETRY_AFTER
        seconds = usual if error.retry_after is None else min(max(error.retry_after, least), most)
        status, state.outcome, headers = 503, "upstream_unavailable", {"retry-after": str(math.ceil(seconds))}
    elif error.status is not None and error.status < 300:
        problem = "gave an answer that cannot be used"
    # With a status, the error's message may repeat texts of the request; without, it is this package's own.
    reason = {} if error.status else {"message": str(error)}
    logger.error("service failed", id=state.request_id, upstream_status=error.status, problem=problem, **reason)
    message = f"the rerank service behind this server {problem}; its log says more under the request id"
    return status, f"{message} {state.request_id}", headers


def _add_health(app: FastAPI, server: Application) -> None:
    @app.get("/health", tags=["server"])
    async def health() -> dict[str, str]:
        """Report that the server process is alive."""
        return {"status": "ok"}

    @app.get("/ready", tags=["server"])
    async def ready() -> Response:
        """Report if the server accepts requests: 503 while models load and during shutdown."""
        if server.ready:
            return JSONResponse({"status": "ready"})
        state = "stopping" if server.middleware.stopping else server.problem or "loading"
        return JSONResponse({"status": state}, status_code=503)

    @app.get("/info", tags=["server"])
    async def info() -> dict[str, Any]:
        """Describe the models and the limits of the server."""
        return server.info()

    @app.get("/v1/models", tags=["server"])
    async def models() -> dict[str, Any]:
        """List the models as OpenAI and vLLM do."""
        return server.list_models()

    @app.get("/metrics", tags=["server"])
    async def metrics() -> Response:
        """Export counts of requests, batches and tokens, and durations, for Prometheus."""
        return Response(server.metrics.page(), media_type=CONTENT_TYPE_LATEST)


def _add_scoring(app: FastAPI, service: Service) -> None:
    def handler(body_type: Any) -> Callable[..., Any]:
        async def score(request: Request, body: body_type) -> Response:
            return await service.rerank(request.state, body)

        return score

    for path, body_type, answer_type, description in _SCORING_ROUTES:
        add = app.post(path, tags=["rerank"], responses={200: {"model": answer_type}}, description=description)
        add(handler(body_type))

    @app.post(SIMILARITY, tags=["rerank"], responses={200: {"model": list[float]}})
    async def similarity(request: Request, model: str, body: formats.SimilarityRequest) -> Response:
        """Score as Hugging Face's sentence-similarity pipeline."""
        body.model = model
        return await service.rerank(request.state, body)
