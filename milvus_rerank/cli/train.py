"""``milvus-rerank train``: fine-tune a cross-encoder on the judged queries of a collection."""

from functools import partial
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Annotated

import typer

from milvus_rerank.choices import DEFAULT_CANDIDATES, DEFAULT_URI, Loss
from milvus_rerank.cli import options, output

if TYPE_CHECKING:
    from milvus_rerank.training import TrainingReport

Folds = Annotated[
    int | None,
    typer.Option(
        help="Test each of so many parts of the queries with a model that learnt from the others. (default: 5; 1, a "
        "single test on a fifth, from 500 queries on)",
        min=1,
        show_default=False,
    ),
]
Teacher = Annotated[
    str | None,
    typer.Option(help="Learn the scores of this stronger model, in place of the judgments.", show_default=False),
]
Margin = Annotated[
    float | None,
    typer.Option(
        help="Learn from no unjudged document whose probability of relevance is more than 1 - MARGIN times that of the "
        "relevant ones. (default: 0.05 with --teacher)",
        min=0,
        max=0.999,
        callback=options.check_number,
        show_default=False,
    ),
]


def train(
    judged: options.Judged,
    output_folder: Annotated[
        Path, typer.Option("--output", "-o", help="The folder for the trained model.", show_default=False)
    ],
    queries: options.JudgedQueryTexts = None,
    base: Annotated[str, typer.Option(help="The cross-encoder to begin with.")] = options.DEFAULT_MODEL,
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
    folds: Folds = None,
    loss: Annotated[
        Loss, typer.Option(help="binary keeps scores comparable across queries; lambda learns the order alone.")
    ] = "binary",
    epochs: Annotated[float, typer.Option(help="The most passes over the examples.", min=0.01)] = 3.0,
    learning_rate: Annotated[float, typer.Option(help="The highest step size.", min=1e-9)] = 2e-5,
    negatives: Annotated[int, typer.Option(help="Documents to tell from each relevant one.", min=1)] = 4,
    batch_size: Annotated[int, typer.Option(help="Pairs of a step.", min=1)] = 16,
    max_length: Annotated[int | None, typer.Option(help="The most tokens of a pair. (default: 512)", min=8)] = None,
    margin: Margin = None,
    teacher: Teacher = None,
    device: options.Device = None,
    seed: Annotated[int, typer.Option(help="The seed of all random choices.", min=0)] = 0,
    as_json: options.Json = False,
) -> None:
    """Fine-tune a cross-encoder on the judged queries of a collection.

    Other documents to learn from are hits of the collection's own search. Nothing is written unless the model is better
    than the base model on queries that it did not learn from, with the whole 95% interval above 0. Run the command
    again after Ctrl-C or a crash: what is done is kept.
    """
    from milvus_rerank.evaluation import load_judged_queries
    from milvus_rerank.indexing import describe, embedder_of, load, only_collection, open_client, open_search
    from milvus_rerank.reranker.cross_encoder import CrossEncoderRerankFunction
    from milvus_rerank.training import TrainingOptions
    from milvus_rerank.training import train as train_model

    chosen = TrainingOptions(
        candidates=candidates,
        negatives=negatives,
        folds=folds,
        loss=loss,
        epochs=epochs,
        learning_rate=learning_rate,
        batch_size=batch_size,
        max_length=max_length,
        margin=margin,
        seed=seed,
        device=device,
    )
    judged_queries = load_judged_queries(judged, queries)
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
        with output.progress_bars() as bars:
            tasks: dict[str, int] = {}

            def progress(step: str, done: int, total: int) -> None:
                if step not in tasks:
                    tasks[step] = bars.add_task(step, total=total)
                bars.update(tasks[step], completed=done, total=total)  # type: ignore[arg-type]

            report = train_model(
                search,
                judged_queries,
                base,
                output_folder,
                chosen,
                teacher=CrossEncoderRerankFunction(teacher, device=device, activation_fct="raw") if teacher else None,
                timeout=timeout,
                progress=progress,
            )
    if as_json:
        output.print_json(report.to_dict())
    else:
        _print(report)
    if not report.written:
        output.print_error(
            "the trained model is not certainly better than the base model on held-out queries: nothing is written. "
            "Judge more queries, or try another --base, --learning-rate, --epochs or --teacher"
        )
        raise typer.Exit(1)


def _print(report: "TrainingReport") -> None:
    low, high = report.interval
    rows = [
        (name, f"{fmean(values.values()):.4f}")
        for name, values in (
            ("first stage", report.first_stage),
            (report.base, report.before),
            ("fine-tuned", report.after),
        )
    ]
    output.print_table(("order", f"nDCG@10 of {len(report.after)} held-out queries"), rows)
    screen = output.console()
    screen.print(f"gain {report.gain:+.4f}, 95% interval {low:+.4f} to {high:+.4f}, p = {report.p_value:.3g}")
    for line in report.notes:
        output.note(line)
    if report.written:
        screen.print(
            f"wrote {report.output}; type: milvus-rerank rerank QUERY --model {report.output} ...", soft_wrap=True
        )
