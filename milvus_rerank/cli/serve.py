"""``milvus-rerank serve``: run a rerank server for Milvus and for any other client."""

import os
import sys
from contextlib import ExitStack, closing, suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from milvus_rerank.cli import options, output
from milvus_rerank.cli.config import ConfigOption
from milvus_rerank.errors import RerankError
from milvus_rerank.requirements import SERVER, TRACES, require

if TYPE_CHECKING:
    from milvus_rerank.server.playground import Milvus
    from milvus_rerank.server.settings import Settings
    from milvus_rerank.text_field import TextField


def _limit(text: str, least: float) -> Any:
    return typer.Option(help=text, min=least, rich_help_panel="Limits")


def serve(
    model: Annotated[
        list[str] | None,
        typer.Option(
            "--model",
            help="A built-in model, a folder, or a name on the hub; NAME=MODEL serves it as NAME. The first of several "
            "is the default. (default: builtin/rerank)",
        ),
    ] = None,
    reranker: options.Reranker = None,
    device: options.Device = None,
    dtype: options.Precision = None,
    engine: options.Engine = None,
    threads: options.Threads = None,
    option: options.RerankerOption = None,
    score_cache: Annotated[int, typer.Option(help="How many scores of pairs to remember; 0 for none.", min=0)] = 0,
    lazy: Annotated[bool, typer.Option("--lazy", help="Load each model when it is first asked for.")] = False,
    host: Annotated[str, typer.Option(help="The address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="The port; 0 for a free one.", min=0, max=65535)] = 8787,
    keys_file: Annotated[Path | None, typer.Option(help="Keys, one a line; or set MILVUS_RERANK_API_KEYS.")] = None,
    open_to_all: Annotated[bool, typer.Option("--open", help="Let other machines in without a key.")] = False,
    allowed_host: Annotated[
        list[str] | None,
        typer.Option("--allowed-host", help="A name by which clients address the server; repeatable."),
    ] = None,
    milvus_uri: Annotated[str, typer.Option(help="A Milvus for the playground: a *.db path, or a server's URL.")] = "",
    collection: Annotated[
        list[str] | None,
        typer.Option(
            "--collection",
            help="A collection that the playground may search, or a pattern such as 'docs*'; repeatable.",
        ),
    ] = None,
    token: options.Token = "",
    db_name: options.DbName = "",
    embedder: options.SearchEmbedder = None,
    text_field: options.SearchTextField = None,
    vector_field: options.VectorField = None,
    config: ConfigOption = None,
    traces: Annotated[bool, typer.Option("--traces", help="Send spans to OTEL_EXPORTER_OTLP_ENDPOINT.")] = False,
    deadline: Annotated[float, _limit("Seconds from a request to its answer.", 0.01)] = 30.0,
    max_documents: Annotated[int, _limit("The most documents of a request.", 1)] = 2000,
    max_body: Annotated[float, _limit("The largest body, in MiB.", 0.001)] = 16.0,
    max_requests: Annotated[int, _limit("The most requests at once.", 1)] = 512,
    queue_tokens: Annotated[int, _limit("The most tokens that wait on a device.", 1)] = 1_000_000,
    drain: Annotated[float, _limit("Seconds to finish what waits when told to stop.", 0)] = 20.0,
    ray: Annotated[bool, typer.Option("--ray", help="Serve in replicas on Ray Serve.", rich_help_panel="Ray")] = False,
    replicas: Annotated[
        str, typer.Option(help="How many replicas, or a range such as 1-8 to scale.", rich_help_panel="Ray")
    ] = "1",
    cpus: Annotated[int, typer.Option(help="CPUs of a replica.", min=1, rich_help_panel="Ray")] = 1,
    gpus: Annotated[
        float, typer.Option(help="GPUs of a replica.", min=0, callback=options.check_number, rich_help_panel="Ray")
    ] = 0,
    address: Annotated[
        str | None,
        typer.Option(help="A Ray cluster, or auto. (default: start Ray on this machine)", rich_help_panel="Ray"),
    ] = None,
) -> None:
    """Serve a reranker over HTTP, as TEI, vLLM, Jina, Cohere, Voyage, DashScope and Hugging Face do.

    Milvus' model rankers and the clients of those services take its address. Every request is a line of JSON on stderr.
    """
    milvus_lite = ("milvus_lite",) if milvus_uri.endswith(".db") else ()
    require("the server", *SERVER, *(TRACES if traces else ()), *milvus_lite)
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
    settings = Settings(host, port, keys, limits, open_to_all, tuple(allowed_host or ()))
    settings.check()
    log_to(sys.stderr)
    chosen = options.choose_reranker(
        config,
        reranker,
        option,
        model_name=model or None,
        device=device,
        dtype=dtype,
        engine=engine,
        threads=threads,
        score_cache=score_cache or None,
    )
    models = _models(chosen)
    if ray:
        _check_ray(port, lazy=lazy, milvus_uri=milvus_uri, traces=traces)
        _serve_on_ray(models, settings, replicas, (cpus, gpus), address)
        return
    loaders = {name: one.load for name, one in models.items()}
    with ExitStack() as resources:
        milvus = None
        if milvus_uri:
            milvus = _open_milvus(
                milvus_uri,
                token,
                db_name,
                collection or [],
                (embedder, options.read_text_field(text_field), vector_field),
                resources,
            )
        spans = None
        if traces:
            from milvus_rerank.server.tracing import export

            spans = resources.enter_context(closing(export()))
        application = Application(
            Models(loaders), settings, () if lazy else tuple(loaders), milvus=milvus, traces=spans
        )
        server = Server(application, settings, _announce)
        with suppress(SystemExit):  # uvicorn raises it if it cannot start
            server.run()
    if application.problem:
        raise RerankError(application.problem)
    if not server.started:
        raise RerankError(f"cannot listen on {host}:{port}; see the log line above, or choose another --port")


def _announce(address: str) -> None:
    """Tell people where the playground is; programs read the log, where each line is JSON."""
    if sys.stdout.isatty():
        for anywhere in ("0.0.0.0", "[::]"):  # noqa: S104  not addresses that a browser opens
            address = address.replace(anywhere, "localhost")
        output.console().print(f"Playground: {address}  Press Ctrl-C to stop.", soft_wrap=True)


def _open_milvus(
    uri: str,
    token: str,
    db_name: str,
    collections: list[str],
    chosen: "tuple[str | None, TextField | None, str | None]",
    resources: ExitStack,
) -> "Milvus":
    """Open the Milvus that the playground may search."""
    if not collections:
        raise typer.BadParameter(
            "name the collections that the playground may search, or '*' for all: --collection NAME",
            param_hint="--milvus-uri",
        )
    from milvus_rerank.indexing import load_embedder, open_client
    from milvus_rerank.server.playground import Milvus

    output.calm_milvus()
    client = resources.enter_context(open_client(uri, token=token, db_name=db_name, must_exist=True))
    embedder, text_field, vector_field = chosen
    return Milvus(
        client, load_embedder(embedder) if embedder else None, text_field, vector_field, allowed=tuple(collections)
    )


def _models(chosen: options.ChosenReranker) -> dict[str, options.ChosenReranker]:
    """Return each model by the name under which it is served."""
    given = dict(chosen.options)
    models = given.pop("model_name", None)
    if chosen.name and not models:
        return {chosen.name: chosen}
    served: dict[str, options.ChosenReranker] = {}
    for text in [models] if isinstance(models, str) else models or [options.DEFAULT_MODEL]:
        name, equals, model = text.partition("=")
        if name in served:
            raise typer.BadParameter(f"two models are called {name!r}; write NAME=MODEL", param_hint="--model")
        served[name] = replace(chosen, options={"model_name": model if equals else name, **given})
    return served


def _check_ray(port: int, **others: Any) -> None:
    """Raise a usage error for options that replicas do not have."""
    for name, value in others.items():
        if value:
            raise typer.BadParameter("replicas on Ray do not have this", param_hint=f"--{name.replace('_', '-')}")
    if port == 0:
        raise typer.BadParameter("Ray Serve needs a port, such as 8787", param_hint="--port")


def _serve_on_ray(
    models: dict[str, options.ChosenReranker],
    settings: "Settings",
    replicas: str,
    size: tuple[int, float],
    address: str | None,
) -> None:
    from milvus_rerank.cluster import RerankerSpec
    from milvus_rerank.cluster.serve import Replicas, run

    least, _, most = replicas.partition("-")
    if not least.isdecimal() or not (most or least).isdecimal():
        raise typer.BadParameter(
            f"expected a number such as 2, or a range such as 1-8, got {replicas!r}", param_hint="--replicas"
        )
    specs = {}
    for name, one in models.items():
        given = dict(one.options)
        specs[name] = RerankerSpec(one.name, given.pop("model_name", None), given)
    cpus, gpus = size
    run(specs, settings, Replicas(int(least), int(most or least), cpus=cpus, gpus=gpus), address, _announce)
