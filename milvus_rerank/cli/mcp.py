"""``milvus-rerank mcp``: search and rerank as tools for agents, over the Model Context Protocol."""

from contextlib import ExitStack
from typing import Annotated

import typer

from milvus_rerank.cli import options, output
from milvus_rerank.errors import InputError


def mcp(
    model: options.Model = None,
    reranker: options.Reranker = None,
    device: options.Device = None,
    dtype: options.Precision = None,
    engine: options.Engine = None,
    threads: options.Threads = None,
    option: options.RerankerOption = None,
    milvus_uri: Annotated[str, typer.Option(help="A Milvus for the tool search: a *.db path, or a server's URL.")] = "",
    collection: Annotated[
        list[str] | None, typer.Option("--collection", help="A collection that search may read; repeatable.")
    ] = None,
    token: options.Token = "",
    db_name: options.DbName = "",
    embedder: options.SearchEmbedder = None,
    text_field: options.SearchTextField = None,
    timeout: options.Timeout = 30.0,
    http: Annotated[bool, typer.Option("--http", help="Listen on http://HOST:PORT/mcp instead of stdin.")] = False,
    host: Annotated[str, typer.Option(help="The loopback address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="The port to listen on.", min=1, max=65535)] = 8788,
) -> None:
    """Serve the tools search, rerank and list_models to agents, over MCP.

    An agent starts this command and talks to it by stdin and stdout; with --http, agents of this machine connect to it.
    """
    from milvus_rerank.indexing import open_client
    from milvus_rerank.integrations.mcp import make_server
    from milvus_rerank.validation import is_loopback

    if not is_loopback(host):
        raise InputError(f"--host must be a loopback address such as 127.0.0.1, got {host!r}; the server has no keys")
    if bool(milvus_uri) != bool(collection):
        raise InputError("the tool search needs both --milvus-uri and --collection; leave out both for rerank alone")
    output.calm_milvus()
    with ExitStack() as stack:
        client = None
        if milvus_uri:
            client = stack.enter_context(open_client(milvus_uri, token=token, db_name=db_name, must_exist=True))
        chosen = options.choose_reranker(
            None, reranker, option, model_name=model, device=device, dtype=dtype, engine=engine, threads=threads
        )
        server = make_server(
            options.make_reranker(chosen),
            client,
            tuple(collection or ()),
            embedder=embedder,
            text_field=options.read_text_field(text_field),
            timeout=timeout,
        )
        if http:
            server.run("streamable-http", host=host, port=port)
        else:
            server.run("stdio")
