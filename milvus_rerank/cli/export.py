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

Engine = Annotated[
    GraphEngine | None, typer.Option(help="The engine that runs it. (default: openvino if installed, else onnx)")
]
Method = Annotated[
    Int8Method | None,
    typer.Option(
        help="How to quantise to int8: dynamic, or calibrated (openvino only), which also fixes the scales of "
        "activations; it is faster and less exact. (default: dynamic)",
        show_default=False,
    ),
]
Texts = Annotated[
    str | None,
    typer.Option(
        help='Check the export on these texts; int8 requires it: JSON lines of {"query": ..., "documents": [...]}, a '
        "BEIR folder (reports nDCG, too), or builtin.",
        show_default=False,
    ),
]
Floor = Annotated[
    float, typer.Option(help="Write nothing if fewer of the 10 best documents stay the same.", min=0, max=10)
]
MaxLength = Annotated[
    int | None, typer.Option(help="The most tokens of a pair in the check. (default: the model's)", min=1)
]


def export(
    model: Annotated[str, typer.Argument(help="A built-in model, a folder, or a name on the model hub.")],
    folder: Annotated[Path, typer.Argument(help="The folder to write.", show_default=False)],
    engine: Engine = None,
    dtype: Annotated[GraphDtype, typer.Option(help="float32 is exact; both engines read it.")] = "float32",
    method: Method = None,
    texts: Texts = None,
    queries: Annotated[int, typer.Option(help="Check with this many queries at most.", min=1)] = QUERIES,
    floor: Floor = FLOOR,
    max_length: MaxLength = None,
    force: Annotated[bool, typer.Option("--force", help="Write it even below the floor.")] = False,
    as_json: options.Json = False,
) -> None:
    """Write a model as a folder that loads without torch, in float32 or int8.

    The folder must be new or empty, or an export of the same model, which then holds both. It is written whole or not
    at all. Load it with CrossEncoderRerankFunction("FOLDER", dtype="int8").
    """
    from milvus_rerank.export.run import ExportOptions, default_engine, export_model
    from milvus_rerank.models import ModelSource

    if method is not None and dtype == "float32":
        raise typer.BadParameter(
            "float32 is exact and has no method; leave it out, or add --dtype int8", param_hint="--method"
        )
    engine, method = engine or default_engine(), method or "dynamic"
    chosen = ExportOptions(engine, dtype, method, texts, queries, floor, max_length, force)
    with output.progress_bars() as bars:
        stages = ("float32", "exported")
        tasks = {stage: bars.add_task(f"Scoring, {stage}", start=False, total=None) for stage in stages}

        def progress(stage: str, done: int, total: int) -> None:
            bars.update(tasks[stage], completed=done, total=total)

        report = export_model(ModelSource(model), folder, chosen, progress)
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

    console, chosen = output.console(), report.options
    if report.fidelity is None:
        console.print(Text(f"{report.model} in float32, not checked: add --texts to compare it with torch", "dim"))
    else:
        form = ", ".join([chosen.dtype, *([chosen.method] if chosen.dtype == "int8" else []), chosen.engine])
        console.print(Text.assemble((f"{report.model} in {form}", "bold"), f" against {report.reference}"))
        _print_fidelity(report, report.fidelity)
    if report.written:
        line = Text.assemble("wrote ", (f"{report.folder}/{chosen.file}", "bold"), f", {decimal(report.size)}")
        console.print(line, soft_wrap=True)


def _print_fidelity(report: "ExportReport", fidelity: "Fidelity") -> None:
    from rich.text import Text

    floor = report.options.floor
    other = f"; calibrated on {report.calibration_queries} other queries" if report.calibration_queries else ""
    shared = Text(f"{fidelity.top_10:.2f}", "green" if fidelity.top_10 >= floor else "red")
    shared.append(f" of 10, floor {floor:g}; least of a query {fidelity.least_top_10}", "default")
    rows: dict[str, str | Text] = {
        "texts": f"{report.texts}: {fidelity.queries} queries, {fidelity.pairs} pairs{other}",
        "top 10 shared": shared,
        "Spearman": f"{fidelity.spearman:.4f}",
        "largest difference of a score": f"{fidelity.difference:.2g}",
    }
    if fidelity.ndcg_change is not None:
        change = f"({fidelity.ndcg_change:+.4f})"
        rows["nDCG@10"] = f"{fidelity.ndcg_before:.4f} -> {fidelity.ndcg_after:.4f} {change}"
    output.print_table(("name", ""), ((Text(name, "dim"), value) for name, value in rows.items()), show_header=False)


def _advice(report: "ExportReport") -> str:
    """Return the error for an export below the floor, with what else to type."""
    options, shared = report.options, report.fidelity.top_10 if report.fidelity else 0.0
    exact = "--engine openvino" if options.engine == "onnx" else "--method dynamic"
    advice = f"{exact}, which is more exact; " if (options.engine, options.method) != ("openvino", "dynamic") else ""
    return (
        f"{shared:.2f} of the 10 best documents are the same, fewer than the floor of {options.floor:g}: nothing is "
        f'written. Try: {advice}dtype="auto" when loading, without an export, which is bfloat16 if the CPU supports '
        "it; --force to write it anyway"
    )
