"""``milvus-rerank batch``: rerank files of queries with Ray."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from milvus_rerank.choices import DEFAULT_CANDIDATES
from milvus_rerank.cli import options, output
from milvus_rerank.cli.config import ConfigOption
from milvus_rerank.errors import InputError

if TYPE_CHECKING:
    from milvus_rerank.cluster import BatchReport
    from milvus_rerank.cluster.merge import OutputFormat


_FIRST_STAGE = {
    "db_name": "--db-name",
    "collection": "--collection",
    "candidates": "--candidates",
    "expression": "--filter",
    "mode": "--mode",
    "vector_field": "--vector-field",
    "embedder": "--embedder",
    "clients": "--milvus-clients",
    "rate": "--milvus-rate",
}


def batch(
    context: typer.Context,
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
    text_field: Annotated[
        str | None,
        typer.Option(
            help="The key of a document's text (default: text); with --uri, a field of the collection.",
            show_default=False,
        ),
    ] = None,
    uri: Annotated[
        str | None,
        typer.Option(
            help="A Milvus server to search for the documents; the input then has queries alone.", show_default=False
        ),
    ] = None,
    token: options.Token = "",
    db_name: options.DbName = "",
    collection: options.Collection = None,
    candidates: options.Candidates = DEFAULT_CANDIDATES,
    expression: options.Filter = "",
    mode: options.SearchMode = None,
    vector_field: options.VectorField = None,
    embedder: options.SearchEmbedder = None,
    timeout: options.Timeout = 30.0,
    clients: Annotated[
        int, typer.Option("--milvus-clients", help="How many workers search, each one call at a time.", min=1)
    ] = 2,
    rate: Annotated[
        float | None,
        typer.Option(
            "--milvus-rate",
            help="The most queries a second that all workers search together. (default: no limit)",
            min=0.001,
            callback=options.check_number,
            show_default=False,
        ),
    ] = None,
    instruction: options.Instruction = None,
    reranker: options.Reranker = None,
    model: options.Model = None,
    device: options.Device = None,
    dtype: options.Precision = None,
    engine: options.Engine = None,
    threads: options.Threads = None,
    option: options.RerankerOption = None,
    config: ConfigOption = None,
    as_json: options.Json = False,
) -> None:
    """Rerank the documents of many queries, on all CPUs or on a Ray cluster.

    A row has a query and a list of texts, or of objects with id and text; with --uri it has a query, and Milvus is
    searched for its documents. Ids and scores are written best first; rows that cannot be reranked go to failed.jsonl
    with the reason. Run it again after a crash: what is done is kept.
    """
    if workers != "auto" and not workers.isdecimal():
        raise typer.BadParameter(f"expected a number or auto, got {workers!r}", param_hint="--workers")
    if output_format not in ("parquet", "jsonl"):
        raise typer.BadParameter(f"expected parquet or jsonl, got {output_format!r}", param_hint="--format")
    from milvus_rerank.cluster import MilvusFirstStage, QueryFields, RerankerSpec, rerank_files

    chosen_reranker = options.choose_reranker(
        config, reranker, option, model_name=model, device=device, dtype=dtype, engine=engine, threads=threads
    )
    given = dict(chosen_reranker.options)
    spec = RerankerSpec(chosen_reranker.name, given.pop("model_name", None), given, instruction)
    first_stage = None
    if uri is None:
        _check_no_first_stage(context)
    else:
        first_stage = MilvusFirstStage(
            uri,
            collection,
            candidates,
            filter=expression,
            mode=mode,
            embedder=embedder,
            text_field=options.read_text_field(text_field) or (config and config.config.collection.text_field),
            vector_field=vector_field,
            db_name=db_name,
            token=token,
            timeout=timeout,
            clients=clients,
            rate=rate,
        )
    chosen: OutputFormat = "jsonl" if output_format == "jsonl" else "parquet"
    with output.progress_bars() as bars:
        task = bars.add_task("Reranking", total=None)
        report = rerank_files(
            sources,
            output_folder,
            spec,
            fields=QueryFields(query_id_field, query_field, documents_field, id_field, text_field or "text"),
            first_stage=first_stage,
            workers=None if workers == "auto" else int(workers),
            cpus=cpus,
            gpus=gpus,
            address=address,
            output_format=chosen,
            progress=lambda done, total: bars.update(task, completed=done, total=total),
        )
    if as_json:
        output.print_json({"output": str(output_folder), **asdict(report)})
    else:
        _show(report, output_folder)
    if report.queries and report.failed == report.queries:
        raise InputError(f"no row could be reranked; see {output_folder / 'failed.jsonl'}")


def _check_no_first_stage(context: typer.Context) -> None:
    """Raise a usage error if the command line has an option of the first stage, which only ``--uri`` turns on."""
    for name, flag in _FIRST_STAGE.items():
        source = context.get_parameter_source(name)
        if source is not None and source.name == "COMMANDLINE":
            raise typer.BadParameter("documents come from Milvus only with --uri http://host:19530", param_hint=flag)


def _show(report: "BatchReport", folder: Path) -> None:
    """Print the counts and the rates of a job."""
    print(
        f"{report.queries} queries read = {report.results} with results + {report.failed} failed; "
        f"{report.pairs} pairs ({folder})"
    )
    if report.scored:
        searched = ""
        if report.searched:
            searched = f"searched Milvus for {report.searched} queries, {report.queries_per_second:.0f} a second, and "
        output.note(
            f"This run {searched}scored {report.scored} pairs in {report.score_seconds:.1f} s, "
            f"{report.pairs_per_second:.0f} a second; {report.seconds:.1f} s in all."
        )
    if report.failed:
        output.note(f"{folder / 'failed.jsonl'} says why rows failed.")
