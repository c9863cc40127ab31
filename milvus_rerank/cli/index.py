"""``milvus-rerank index``: write a JSONL file or a BEIR folder into a Milvus collection."""

from pathlib import Path
from typing import Annotated

import typer

from milvus_rerank.cli import options, output


def index(
    source: Annotated[
        Path, typer.Argument(help="A JSONL file (_id, title, text, ...) or a BEIR folder.", show_default=False)
    ],
    uri: options.Uri = options.DEFAULT_URI,
    token: options.Token = "",
    collection: Annotated[
        str | None, typer.Option(help="The collection. (default: the file's or folder's name)", show_default=False)
    ] = None,
    embedder: options.EmbedderName = options.DEFAULT_EMBEDDER,
    batch_size: Annotated[int, typer.Option(help="Passages per call to Milvus.", min=1)] = 256,
    timeout: options.Timeout = 30.0,
    as_json: options.Json = False,
) -> None:
    """Embed passages and store them in Milvus.

    Run it again after a crash or a change of the file: it writes only new and changed passages.
    """
    from milvus_rerank.embedding import StaticEmbedder
    from milvus_rerank.indexing import corpus_file, index_passages, open_client, read_passages

    path = corpus_file(source)
    total = sum(1 for _ in read_passages(path))  # an invalid line fails before anything is written
    encoder = StaticEmbedder(embedder)
    output.calm_milvus()
    with open_client(uri, token=token, timeout=timeout) as client, output.progress_bars() as bars:
        task = bars.add_task("Indexing", total=total)
        report = index_passages(
            client,
            collection or options.collection_name(source),
            read_passages(path),
            encoder,
            batch_size=batch_size,
            timeout=timeout,
            progress=lambda done: bars.advance(task, done),
        )
    if not report.bm25:
        output.note(
            "This Milvus has no BM25, which needs version 2.5 or later: search the collection with --mode dense only."
        )
    if as_json:
        output.print_json({"uri": uri, **report.to_dict()})
    else:
        print(
            f"{report.collection}: {report.read} passages read, {report.written} written, {report.unchanged} there "
            f"already; the collection holds {report.total} ({uri})"
        )
