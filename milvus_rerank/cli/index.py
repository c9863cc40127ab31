"""``milvus-rerank index``: write a file, a folder or stdin into a Milvus collection."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from milvus_rerank.choices import DEFAULT_URI
from milvus_rerank.cli import options, output
from milvus_rerank.cli.config import ConfigOption
from milvus_rerank.records import Form

if TYPE_CHECKING:
    from milvus_rerank.indexing.embedders import Embedder


def index(
    source: Annotated[
        Path,
        typer.Argument(
            help="A JSONL, JSON, CSV, TSV or Parquet file, a BEIR folder, a folder of .txt, .md, .html and .pdf files, "
            "or - for stdin.",
            show_default=False,
        ),
    ],
    uri: options.Uri = DEFAULT_URI,
    token: options.Token = "",
    db_name: options.DbName = "",
    collection: Annotated[
        str | None, typer.Option(help="The collection. (default: the file's or folder's name)", show_default=False)
    ] = None,
    embedder: options.IndexEmbedder = None,
    input_format: Annotated[
        Form, typer.Option("--input", help="The form of the file; auto looks at its name and its beginning.")
    ] = "auto",
    text_field: Annotated[str, typer.Option(help="The key or column of the text.")] = "text",
    id_field: Annotated[
        str | None,
        typer.Option(
            help="The key or column of the id; @row numbers the records. (default: _id or id)", show_default=False
        ),
    ] = None,
    fields: Annotated[
        list[str] | None,
        typer.Option(
            help="The other keys or columns to store, separated by commas. (default: all)", show_default=False
        ),
    ] = None,
    split_tokens: Annotated[
        int | None,
        typer.Option(help="Split texts into parts of at most so many of the embedder's tokens.", min=1),
    ] = None,
    overlap: Annotated[int, typer.Option(help="Tokens that a part shares with the part before it.", min=0)] = 0,
    prune: Annotated[
        bool, typer.Option("--prune", help="Delete the passages of the collection that the source lacks.")
    ] = False,
    batch_size: Annotated[int, typer.Option(help="Passages per call to Milvus.", min=1)] = 256,
    timeout: options.Timeout = 30.0,
    config: ConfigOption = None,
    as_json: options.Json = False,
) -> None:
    """Embed texts and store them in Milvus.

    Run it again after a crash or a change of the source: it writes only new and changed passages. Objects and tables
    need a text and an id, and may have a title; all other keys become fields.
    """
    from milvus_rerank.indexing import CorpusOptions, index_passages, open_client, open_corpus

    if overlap and not split_tokens:
        raise typer.BadParameter("overlap is of the parts of split texts; add --split-tokens", param_hint="--overlap")
    stdin = _stdin(source)
    if stdin and collection is None:
        raise typer.BadParameter("stdin has no name: name the collection", param_hint="--collection")
    name = collection or options.collection_name(source)
    output.calm_milvus()
    with output.spinner("Loading the embedder"):
        encoder = _load_embedder(embedder, name, uri, token, db_name, timeout)
    split = None
    if split_tokens:
        from milvus_rerank.indexing.split import make_splitter, tokenizer_of

        split = make_splitter(tokenizer_of(encoder), split_tokens, overlap)
        if (most := getattr(encoder, "max_tokens", None)) and split_tokens > most:
            output.note(
                f"--split-tokens {split_tokens} is more than the {most} tokens that the embedder "
                f"{encoder.model_name!r} reads: its vectors leave out the end of longer parts. "
                f"Pass --split-tokens {most}, or less."
            )
    chosen = options.split_commas(fields)
    corpus_options = CorpusOptions(input_format, text_field, id_field, None if chosen is None else tuple(chosen), split)
    with open_corpus(source, corpus_options, sys.stdin.buffer if stdin else None) as corpus:
        _note_unread(source)
        with open_client(uri, token=token, db_name=db_name, timeout=timeout) as client, output.progress_bars() as bars:
            task = bars.add_task("Indexing", total=corpus.total)
            report = index_passages(
                client,
                name,
                corpus,
                encoder,
                prune=prune,
                batch_size=batch_size,
                timeout=timeout,
                progress=lambda done: bars.advance(task, done),
            )
    if not report.bm25:
        output.note(
            "This Milvus has no BM25, which needs version 2.5 or later: search the collection with --mode dense only."
        )
    if report.total > report.read:
        output.note(
            f"The collection holds {report.total - report.read} more that {source} lacks; --prune deletes them."
        )
    if as_json:
        output.print_json({"uri": uri, **report.to_dict()})
    else:
        deleted = f", {report.deleted} deleted" if report.deleted else ""
        print(
            f"{report.collection}: {report.read} passages read, {report.written} written, {report.unchanged} there "
            f"already{deleted}; the collection holds {report.total} ({uri})"
        )


def _load_embedder(
    embedder: str | None, collection: str, uri: str, token: str, db_name: str, timeout: float
) -> "Embedder":
    """Load the embedder that was named, or that the collection remembers, before the corpus is read."""
    from milvus_rerank.indexing import index_embedder, load_embedder, open_client

    if embedder is not None:
        return load_embedder(embedder)
    if uri.endswith(".db") and not Path(uri).expanduser().exists():
        return load_embedder(options.DEFAULT_EMBEDDER)
    with open_client(uri, token=token, db_name=db_name, timeout=timeout) as client:
        return index_embedder(client, collection, timeout)


def _stdin(source: Path) -> bool:
    """Return whether the source is stdin; raise a usage error if it is a terminal, or closed."""
    if str(source) != "-":
        return False
    if sys.stdin is None or sys.stdin.isatty():  # None if the shell has closed it with <&-
        raise typer.BadParameter("stdin is a terminal; pipe a file into the command", param_hint="SOURCE")
    return True


def _note_unread(source: Path) -> None:
    """Print a note on the files of a folder of documents that are not read."""
    from milvus_rerank.indexing.corpus import is_folder_of_documents
    from milvus_rerank.indexing.documents import unread

    if is_folder_of_documents(source) and (text := unread(source)):
        output.note(text)
