"""``milvus-rerank calibrate``: make a model's scores probabilities of relevance."""

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from milvus_rerank.choices import DEFAULT_CANDIDATES, DEFAULT_URI
from milvus_rerank.cli import options, output

if TYPE_CHECKING:
    from milvus_rerank.evaluation.calibrate import Bin, CalibrationReport

_WIDTH = 40  # of a bar


def calibrate(
    judged: options.Judged,
    queries: options.JudgedQueryTexts = None,
    model: options.Model = None,
    uri: options.Uri = DEFAULT_URI,
    token: options.Token = "",
    db_name: options.DbName = "",
    collection: options.Collection = None,
    candidates: options.Candidates = DEFAULT_CANDIDATES,
    mode: options.SearchMode = None,
    text_field: options.SearchTextField = None,
    vector_field: options.VectorField = None,
    embedder: options.SearchEmbedder = None,
    timeout: options.Timeout = 30.0,
    precision: Annotated[
        float | None,
        typer.Option(
            help="Print the threshold with which this share of the kept documents is relevant.",
            min=0.01,
            max=1,
            callback=options.check_number,
            show_default=False,
        ),
    ] = None,
    grade: Annotated[int, typer.Option(help="The least relevance that counts as relevant.", min=1)] = 1,
    judged_only: Annotated[
        bool, typer.Option("--judged-only", help="Leave out unjudged hits; they count as not relevant else.")
    ] = False,
    output_file: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            help="The file to write. (default: calibration.json in the model's folder)",
            show_default=False,
        ),
    ] = None,
    device: options.Device = None,
    dtype: options.Precision = None,
    engine: options.Engine = None,
    threads: options.Threads = None,
    option: options.RerankerOption = None,
    as_json: options.Json = False,
) -> None:
    """Make a model's scores probabilities of relevance, from judged queries of a collection.

    Figures are of queries that were left out while fitting. Rerankers use the file with calibration=FILE, or
    activation_fct=calibrated if it lies beside the model; then a threshold is a probability.
    """
    from milvus_rerank.errors import InputError
    from milvus_rerank.evaluation import load_judged_queries
    from milvus_rerank.evaluation.calibrate import calibrate as fit_calibration
    from milvus_rerank.evaluation.calibrate import label_hits
    from milvus_rerank.indexing import describe, embedder_of, load, only_collection, open_client, open_search
    from milvus_rerank.models import model_folder
    from milvus_rerank.models.calibration import FILE
    from milvus_rerank.reranker.local import EngineRerankFunction

    name = model or options.DEFAULT_MODEL
    folder = None if name.startswith("builtin/") else model_folder(name)
    if output_file is None and folder is None:
        raise typer.BadParameter(f"the files of {name} are not yours: give a file to write", param_hint="--output")
    target = output_file or Path(str(folder)) / FILE
    judged_queries = load_judged_queries(judged, queries)
    chosen = options.choose_reranker(
        None, None, option, model_name=name, device=device, dtype=dtype, engine=engine, threads=threads
    )
    output.calm_milvus()
    with open_client(uri, token=token, db_name=db_name, timeout=timeout, must_exist=True) as client:
        info = describe(client, collection or only_collection(client, timeout), timeout)
        search = open_search(
            client,
            info,
            mode=mode,
            embedder=partial(embedder_of, info, embedder),
            text_field=options.read_text_field(text_field),
            vector_field=vector_field,
        )
        load(client, info, timeout)
        reranker = options.make_reranker(chosen)
        if not isinstance(reranker, EngineRerankFunction):
            raise InputError(f"{name} is not a local model: nothing to calibrate")
        with output.progress_bars() as bars:
            tasks = {step: bars.add_task(step, total=None) for step in ("Searching", "Scoring")}

            def progress(step: str, done: int, total: int) -> None:
                bars.update(tasks[step], completed=done, total=total)

            labelled = label_hits(
                search,
                judged_queries,
                candidates,
                grade=grade,
                judged_only=judged_only,
                timeout=timeout,
                progress=progress,
            )
            report = fit_calibration(reranker, labelled, precision=precision, progress=progress)
    report.write(target)
    if as_json:
        output.print_json(report.to_dict())
        return
    _print(report, target)


def _print(report: "CalibrationReport", target: Path) -> None:
    from rich.text import Text

    screen = output.console()
    screen.print(
        f"{report.queries} queries, {report.pairs} pairs, {report.relevant} relevant; held-out figures, "
        f"{report.calibration.method}",
        style="bold",
    )
    rows = [
        ("expected calibration error", f"{report.ece_before:.4f}", f"{report.ece_after:.4f}"),
        ("Brier score", f"{report.brier_before:.4f}", f"{report.brier_after:.4f}"),
    ]
    output.print_table(("", "sigmoid", "calibrated"), rows)
    bars = [(f"{bin_.predicted:.2f}", f"{bin_.observed:.2f}", str(bin_.count), _bar(bin_)) for bin_ in report.bins]
    output.print_table(("probability", "relevant", "pairs", "relevant (#) and probability (|)"), bars)
    if report.precision is not None:
        reached = "no threshold reaches it"
        if report.threshold is not None:
            reached = f"--threshold {report.threshold:.4f} keeps {report.recall:.1%} of the relevant documents"
        screen.print(f"precision {report.precision:g}: {reached}")
    screen.print(Text.assemble("wrote ", (str(target), "bold")), soft_wrap=True)


def _bar(bin_: "Bin") -> str:
    filled, mark = round(bin_.observed * _WIDTH), min(_WIDTH - 1, round(bin_.predicted * _WIDTH))
    line = list("#" * filled + " " * (_WIDTH - filled))
    line[mark] = "|"
    return "".join(line).rstrip()
