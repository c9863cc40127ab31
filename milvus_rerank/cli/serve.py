"""``milvus-rerank serve``: run a rerank server for Milvus and for any other client."""

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from milvus_rerank.cli import options, output
from milvus_rerank.errors import RerankError
from milvus_rerank.requirements import SERVER, TRACES, require

if TYPE_CHECKING:
    from milvus_rerank.reranker.base import BaseRerankFunction
    from milvus_rerank.server.playground import Milvus
    from milvus_rerank.server.tracing import Traces

LIMITS = "Limits"


def serve(
    model: Annotated[
        list[str] | None,
        typer.Option(
            "--model",
            help="A built-in model, a folder, or a name on the model hub; NAME=MODEL serves it as NAME. May be given "
            "several times: the first is the default. (default: builtin/rerank)",
        ),
    ] = None,
    reranker: options.Reranker = options.DEFAULT_RERANKER,
    device: options.Device = None,
    dtype: Annotated[str | None, typer.Option(help="float32, bfloat16, float16, int8 or auto.")] = None,
    score_cache: Annotated[int, typer.Option(help="How many scores of pairs to remember; 0 for none.", min=0)] = 0,
    lazy: Annotated[bool, typer.Option("--lazy", help="Load each model when it is first asked for.")] = False,
    host: Annotated[str, typer.Option(help="The address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="The port; 0 for a free one.", min=0, max=65535)] = 8787,
    keys_file: Annotated[
        Path | None,
        typer.Option(help="Keys that clients must present, one a line; or set MILVUS_RERANK_API_KEYS."),
    ] = None,
    open_to_all: Annotated[
        bool, typer.Option("--open", help="Listen on an address that others can reach even without a key.")
    ] = False,
    milvus_uri: Annotated[
        str, typer.Option(help="A Milvus that the playground may search: a *.db path, or http://host:19530.")
    ] = "",
    token: options.Token = "",
    embedder: options.EmbedderName = options.DEFAULT_EMBEDDER,
    traces: Annotated[
        bool, typer.Option("--traces", help="Send OpenTelemetry traces to where OTEL_EXPORTER_OTLP_ENDPOINT says.")
    ] = False,
    deadline: Annotated[
        float, typer.Option(help="Seconds from a request to its answer.", min=0.01, rich_help_panel=LIMITS)
    ] = 30.0,
    max_documents: Annotated[
        int, typer.Option(help="The most documents of a request.", min=1, rich_help_panel=LIMITS)
    ] = 2000,
    max_body: Annotated[
        float, typer.Option(help="The largest body, in MiB.", min=0.001, rich_help_panel=LIMITS)
    ] = 16.0,
    max_requests: Annotated[int, typer.Option(help="The most requests at once.", min=1, rich_help_panel=LIMITS)] = 512,
    queue_tokens: Annotated[
        int, typer.Option(help="The most tokens that wait on a device.", min=1, rich_help_panel=LIMITS)
    ] = 1_000_000,
    drain: Annotated[
        float, typer.Option(help="Seconds to finish what waits when told to stop.", min=0, rich_help_panel=LIMITS)
    ] = 20.0,
) -> None:
    """Serve a reranker over HTTP, as TEI, vLLM, Jina, Cohere, Voyage, DashScope and Hugging Face do.

    Milvus' model rankers and the clients of those services take its address. Every request is a line of JSON on stderr.
    """
    local_milvus = milvus_uri.endswith(".db")
    require(
        "the server",
        *SERVER,
        *(TRACES if traces else ()),
        *(("milvus_lite",) if local_milvus else ()),
    )
    from milvus_rerank.server.app import Application
    from milvus_rerank.server.main import Server, log_to
    from milvus_rerank.server.models import Models
    from milvus_rerank.server.settings import KEYS_VARIABLE, Limits, Settings, read_keys

    limits = Limits(
        body_bytes=int(max_body * 2**20),
        documents=max_documents,
        requests=max_requests,
        queue_tokens=queue_tokens,
        deadline=deadline,
        drain_seconds=drain,
    )
    keys = read_keys(os.environ.get(KEYS_VARIABLE), keys_file)
    settings = Settings(host, port, keys, limits, open_to_all)
    settings.check()
    log_to(sys.stderr)
    loaders = _loaders(model or [], reranker, {"device": device, "dtype": dtype, "score_cache": score_cache or None})
    with _milvus(milvus_uri, token, embedder) as milvus, _traces(traces) as spans:
        preload = () if lazy else tuple(loaders)
        application = Application(Models(loaders), settings, preload, milvus=milvus, traces=spans)
        server = Server(application, settings)
        with suppress(SystemExit):  # uvicorn raises it if it cannot start
            server.run()
    if application.problem:
        raise RerankError(application.problem)
    if not server.started:
        raise RerankError(f"cannot listen on {host}:{port}; see the log line above, or choose another --port")


@contextmanager
def _milvus(uri: str, token: str, embedder: str) -> "Iterator[Milvus | None]":
    """Open the Milvus that the playground may search, if one is configured."""
    if not uri:
        yield None
        return
    from milvus_rerank.embedding import StaticEmbedder
    from milvus_rerank.indexing import open_client
    from milvus_rerank.server.playground import Milvus

    output.calm_milvus()
    with open_client(uri, token=token, must_exist=True) as client:
        yield Milvus(client, StaticEmbedder(embedder))


@contextmanager
def _traces(wanted: bool) -> "Iterator[Traces | None]":
    """Create traces if wanted, and export the remaining spans at the end."""
    if not wanted:
        yield None
        return
    from milvus_rerank.server.tracing import export

    traces = export()
    try:
        yield traces
    finally:
        traces.close()


def _loaders(models: list[str], reranker: str, given: dict[str, Any]) -> "dict[str, Callable[[], BaseRerankFunction]]":
    """Return the function that loads each model, by the name under which the model is served."""
    from milvus_rerank.registry import create

    chosen = {key: value for key, value in given.items() if value is not None}
    loaders: dict[str, Callable[[], BaseRerankFunction]] = {}
    for one in models:
        name, equals, model = one.partition("=")
        if name in loaders:
            raise typer.BadParameter(f"two models are called {name!r}; write NAME=MODEL", param_hint="--model")
        loaders[name] = partial(create, reranker, model_name=model if equals else name, **chosen)
    if not loaders:
        loaders[options.reranker_label(reranker, None)] = partial(create, reranker, **chosen)
    return loaders
