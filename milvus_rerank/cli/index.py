"""``milvus-rerank index``: write a file or a folder of documents into a Milvus collection."""

from pathlib import Path
from typing import Annotated

import typer

from milvus_rerank.cli import options, output


def index(
    source: Annotated[
        Path,
        typer.Argument(
            help="A file of JSON lines, a JSON array, CSV, TSV or Parquet; a folder of .txt, .md, .html and .pdf "
            "files, or in BEIR's layout; - is stdin.",
            show_default=False,
        ),
    ],
    uri: options.Uri = options.DEFAULT_URI,
    token: options.Token = "",
    db_name: options.DbName = "",
    collection: Annotated[
        str | None, typer.Option(help="The collection. (default: the file's or folder's name)", show_default=False)
    ] = None,
    text_field: Annotated[str, typer.Option(help="The key or column of the text.")] = "text",
    id_field: Annotated[
        str | None, typer.Option(help="The key or column of the id. (default: _id or id)", show_default=False)
    ] = None,
    fields: Annotated[
        list[str] | None,
        typer.Option(help="Other keys or columns to keep, separated by commas. (default: all)", show_default=False),
    ] = None,
    embedder: options.EmbedderName = options.DEFAULT_EMBEDDER,
    batch_size: Annotated[int, typer.Option(help="Passages per call to Milvus.", min=1)] = 256,
    prune: Annotated[bool, typer.Option("--prune", help="Delete passages that are gone from the source.")] = False,
    timeout: options.Timeout = 30.0,
    as_json: options.Json = False,
) -> None:
    """Embed passages and store them in Milvus.

    Run it again after a crash or a change of the file: it writes only new and changed passages.
    """
    from milvus_rerank.indexing import Corpus, CorpusOptions, index_passages, load_embedder, open_client

    kept = options.split_commas(fields)
    names = CorpusOptions(text_field, id_field, fields=None if kept is None else tuple(kept))
    corpus = Corpus(source, names)
    if collection is None and str(source) == "-":
        raise typer.BadParameter("name the collection of what comes from stdin", param_hint="--collection")
    total = sum(1 for _ in corpus)  # an invalid line fails before anything is written
    encoder = load_embedder(embedder)
    output.calm_milvus()
    with open_client(uri, token=token, db_name=db_name, timeout=timeout) as client, output.progress_bars() as bars:
        task = bars.add_task("Indexing", total=total)
        report = index_passages(
            client,
            collection or options.collection_name(source),
            corpus,
            encoder,
            batch_size=batch_size,
            timeout=timeout,
            prune=prune,
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
            f"already{f', {report.deleted} deleted' if prune else ''}; the collection holds {report.total} ({uri})"
        )
