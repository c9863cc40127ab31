"""``milvus-rerank export``: write a model as a folder that runs without torch, and check it on the user's texts."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from milvus_rerank.cli import options, output
from milvus_rerank.onnx_graphs.files import GraphDtype, GraphEngine, Int8Method

if TYPE_CHECKING:
    from milvus_rerank.export.fidelity import Fidelity
    from milvus_rerank.export.run import ExportReport

FLOOR = 9.5  # export.run.FLOOR, which a help text must not import; a test checks that they agree
QUERIES = 50


def export(
    model: Annotated[str, typer.Argument(help="A built-in model, a folder, or a name on the model hub.")],
    folder: Annotated[Path, typer.Argument(help="The folder to write.", show_default=False)],
    engine: Annotated[
        GraphEngine | None, typer.Option(help="What it is for. (default: openvino if installed, else onnx)")
    ] = None,
    dtype: Annotated[GraphDtype, typer.Option(help="float32 is exact; both engines read it.")] = "float32",
    method: Annotated[
        Int8Method | None,
        typer.Option(
            help="How int8 is made: calibrated fixes the scales of activations too, is faster and less exact, and for "
            "openvino only. (default: dynamic)",
            show_default=False,
        ),
    ] = None,
    texts: Annotated[
        str | None,
        typer.Option(
            help='Check on these texts, as int8 must be: JSON lines of {"query": ..., "documents": [...]}, a BEIR '
            "folder (for nDCG too), or builtin.",
            show_default=False,
        ),
    ] = None,
    queries: Annotated[int, typer.Option(help="Check with this many queries at most.", min=1)] = QUERIES,
    floor: Annotated[
        float, typer.Option(help="Write nothing if fewer of the 10 best documents stay the same.", min=0, max=10)
    ] = FLOOR,
    max_length: Annotated[
        int | None, typer.Option(help="The most tokens of a pair in the check. (default: the model's)", min=1)
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Write below the floor too.")] = False,
    as_json: options.Json = False,
) -> None:
    """Write a model as a folder that loads without torch, in float32 or int8.

    The folder must be new or empty, or an export of the same model, which then holds both. It is written whole or not
    at all. Load it with CrossEncoderRerankFunction("FOLDER", dtype="int8").
    """
    from milvus_rerank.export.run import ExportOptions, default_engine, export_model
    from milvus_rerank.models import ModelSource

    if method is not None and dtype == "float32":
        raise typer.BadParameter("is for --dtype int8; float32 is exact", param_hint="--method")
    chosen = ExportOptions(
        engine=engine or default_engine(),
        dtype=dtype,
        method=method or "dynamic",
        texts=texts,
        queries=queries,
        floor=floor,
        max_length=max_length,
        force=force,
    )
    with output.progress_bars() as bars:
        tasks = {
            stage: bars.add_task(f"Scoring, {stage}", start=False, total=None) for stage in ("float32", "exported")
        }
        report = export_model(
            ModelSource(model),
            folder,
            chosen,
            lambda stage, done, total: bars.update(tasks[stage], completed=done, total=total),
        )
    if as_json:
        output.print_json(report.to_dict())
    else:
        _print(report)
    if not report.written:
        output.print_error(_advice(report))
        raise typer.Exit(1)


def _print(report: "ExportReport") -> None:
    from rich.filesize import decimal
    from rich.text import Text

    console, chosen = output.out(), report.options
    how = f", {chosen.method}" if chosen.dtype == "int8" else ""
    if report.fidelity is None:
        console.print(Text(f"{report.model} in float32, not checked: add --texts to compare it with torch", "dim"))
    else:
        console.print(
            Text.assemble(
                (f"{report.model} in {chosen.dtype}{how}, {chosen.engine}", "bold"), f" against {report.reference}"
            )
        )
        _print_fidelity(report, report.fidelity)
    if report.written:
        console.print(
            Text.assemble("wrote ", (f"{report.folder}/{chosen.file}", "bold"), f", {decimal(report.size)}"),
            soft_wrap=True,
        )


def _print_fidelity(report: "ExportReport", fidelity: "Fidelity") -> None:
    from rich.table import Table
    from rich.text import Text

    other = f"; calibrated on {report.calibration_queries} other queries" if report.calibration_queries else ""
    good = fidelity.top_10 >= report.options.floor
    rows = [
        ("texts", Text(f"{report.texts}: {fidelity.queries} queries, {fidelity.pairs} pairs{other}")),
        (
            "top 10 shared",
            Text.assemble(
                (f"{fidelity.top_10:.2f}", "green" if good else "red"),
                f" of 10, floor {report.options.floor:g}; least of a query {fidelity.least_top_10}",
            ),
        ),
        ("Spearman", Text(f"{fidelity.spearman:.4f}")),
        ("largest difference of a score", Text(f"{fidelity.difference:.2g}")),
    ]
    if fidelity.ndcg_change is not None:
        figures = f"{fidelity.ndcg_before:.4f} -> {fidelity.ndcg_after:.4f} ({fidelity.ndcg_change:+.4f})"
        rows.append(("nDCG@10", Text(figures)))
    table = Table(box=None, pad_edge=False, show_header=False)
    for name, value in rows:
        table.add_row(Text(name, "dim"), value)
    output.out().print(table)


def _advice(report: "ExportReport") -> str:
    """Return a suggestion for an int8 model with too low fidelity."""
    chosen = report.options
    tries = [
        'no export but dtype="auto" when loading, which is bfloat16 where the CPU has it',
        "--force to write it anyway",
    ]
    if chosen.engine == "onnx":
        tries.insert(0, "--engine openvino, whose int8 is more exact")
    elif chosen.method == "calibrated":
        tries.insert(0, "--method dynamic, which is more exact")
    found = report.fidelity.top_10 if report.fidelity else 0.0
    return (
        f"{found:.2f} of the 10 best documents are the same, fewer than the floor of {chosen.floor:g}: nothing is "
        f"written. Try: {'; '.join(tries)}"
    )
