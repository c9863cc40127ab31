"""``milvus-rerank batch``: rerank files of queries with Ray."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from milvus_rerank.cli import options, output
from milvus_rerank.errors import InputError

if TYPE_CHECKING:
    from milvus_rerank.cluster.merge import OutputFormat


def batch(
    sources: Annotated[
        list[str],
        typer.Argument(
            help="Parquet or JSONL files, folders of them, or addresses such as s3://...", show_default=False
        ),
    ],
    output_folder: Annotated[
        Path, typer.Option("--output", "-o", help="The folder for the results, which all machines share.")
    ],
    workers: Annotated[str, typer.Option(help="How many workers; auto for as many as there is room for.")] = "auto",
    cpus: Annotated[int, typer.Option(help="CPUs of a worker.", min=1)] = 1,
    gpus: Annotated[float, typer.Option(help="GPUs of a worker.", min=0, callback=options.check_number)] = 0,
    address: Annotated[
        str | None,
        typer.Option(help="A Ray cluster, or auto for the one of this machine. (default: start Ray for this job)"),
    ] = None,
    output_format: Annotated[
        str, typer.Option("--format", help="The format of the results: parquet or jsonl.")
    ] = "parquet",
    query_id_field: Annotated[str, typer.Option(help="The column of the query's id.")] = "query_id",
    query_field: Annotated[str, typer.Option(help="The column of the query.")] = "query",
    documents_field: Annotated[str, typer.Option(help="The column of the list of documents.")] = "documents",
    id_field: Annotated[str, typer.Option(help="The key of a document's id.")] = "id",
    text_field: Annotated[str, typer.Option(help="The key of a document's text.")] = "text",
    reranker: options.Reranker = None,
    model: options.Model = None,
    device: options.Device = None,
    dtype: options.Precision = None,
    engine: options.Engine = None,
    threads: options.Threads = None,
    option: options.RerankerOption = None,
    as_json: options.Json = False,
) -> None:
    """Rerank the documents of many queries, on all CPUs or on a Ray cluster.

    A row has a query and a list of texts, or of objects with id and text. Ids and scores are written best first; rows
    that cannot be reranked go to failed.jsonl with the reason. Run it again after a crash: what is done is kept.
    """
    if workers != "auto" and not workers.isdecimal():
        raise typer.BadParameter(f"expected a number or auto, got {workers!r}", param_hint="--workers")
    if output_format not in ("parquet", "jsonl"):
        raise typer.BadParameter(f"expected parquet or jsonl, got {output_format!r}", param_hint="--format")
    from milvus_rerank.cluster import QueryFields, RerankerSpec, rerank_files

    given = options.choose_reranker(
        None, reranker, option, model_name=model, device=device, dtype=dtype, engine=engine, threads=threads
    ).options
    spec = RerankerSpec(reranker, given.pop("model_name", None), given)
    chosen: OutputFormat = "jsonl" if output_format == "jsonl" else "parquet"
    with output.progress_bars() as bars:
        task = bars.add_task("Reranking", total=None)
        report = rerank_files(
            sources,
            output_folder,
            spec,
            fields=QueryFields(query_id_field, query_field, documents_field, id_field, text_field),
            workers=None if workers == "auto" else int(workers),
            cpus=cpus,
            gpus=gpus,
            address=address,
            output_format=chosen,
            progress=lambda done, total: bars.update(task, completed=done, total=total),
        )
    if as_json:
        output.print_json({"output": str(output_folder), **asdict(report)})
        return
    print(
        f"{report.queries} queries read = {report.results} with results + {report.failed} failed; "
        f"{report.pairs} pairs ({output_folder})"
    )
    if report.scored:
        output.note(
            f"This run scored {report.scored} pairs in {report.score_seconds:.1f} s, {report.pairs_per_second:.0f} a "
            f"second; {report.seconds:.1f} s in all."
        )
    if report.failed:
        output.note(f"{output_folder / 'failed.jsonl'} says why rows failed.")
    if report.queries and report.failed == report.queries:
        raise InputError(f"no row could be reranked; see {output_folder / 'failed.jsonl'}")
