"""``milvus-rerank tune``: choose a reranker and its settings for a target, and write them as a config file."""

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_args

import typer

from milvus_rerank.choices import DEFAULT_URI, Dtype, EngineName
from milvus_rerank.cli import options, output
from milvus_rerank.errors import HitError, InputError

if TYPE_CHECKING:
    from milvus_rerank.config import Config
    from milvus_rerank.evaluation.tuning import FrontierRow, TuneReport

Targets = Annotated[
    list[str] | None,
    typer.Option(
        "--target",
        help="'p95 under 200 ms', 'within 1% of the best nDCG' or 'under 2 GB'; repeatable, one of each. "
        "(default: within 1%)",
        show_default=False,
    ),
]
Rerankers = Annotated[
    list[str] | None,
    typer.Option("--reranker", help="A model or a registered reranker; repeatable. (default: lexical, builtin/rerank)"),
]
Counts = Annotated[
    list[str] | None,
    typer.Option(
        "--candidates", help="Hits of the first stage to try, separated by commas. (default: 10,20,30,50,100)"
    ),
]
Engines = Annotated[
    list[str] | None, typer.Option("--engine", help="auto, torch, onnx or openvino to try; repeatable. (default: auto)")
]
Dtypes = Annotated[
    list[str] | None,
    typer.Option(
        "--dtype", help="float32, bfloat16, float16, int8 or auto to try; repeatable. (default: float32, auto)"
    ),
]
Lengths = Annotated[
    list[str] | None,
    typer.Option(
        "--max-length",
        help="The most tokens of a pair to try, separated by commas; 0 for the model's limit. (default: 0,256,128)",
    ),
]
Longs = Annotated[
    list[str] | None,
    typer.Option("--long", help="truncate or chunk long documents; repeatable. (default: truncate)"),
]


def tune(
    judged: options.Judged,
    output_file: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            metavar="FILE",
            help="Write the chosen settings to this config file; one that exists keeps its other keys.",
            show_default=False,
        ),
    ] = None,
    queries: options.JudgedQueryTexts = None,
    target: Targets = None,
    reranker: Rerankers = None,
    candidates: Counts = None,
    engine: Engines = None,
    dtype: Dtypes = None,
    max_length: Lengths = None,
    long: Longs = None,
    device: options.Device = None,
    threads: options.Threads = None,
    uri: options.Uri = DEFAULT_URI,
    token: options.Token = "",
    db_name: options.DbName = "",
    collection: options.Collection = None,
    expression: options.Filter = "",
    mode: options.SearchMode = None,
    text_field: options.SearchTextField = None,
    vector_field: options.VectorField = None,
    embedder: options.SearchEmbedder = None,
    memory: Annotated[bool, typer.Option(help="Measure the memory of each reported setting.")] = True,
    seed: Annotated[int, typer.Option(help="The seed of the division of the queries.", min=0)] = 0,
    cache: Annotated[
        Path | None,
        typer.Option(help="Keep scores in this file: after Ctrl-C, the same command goes on.", show_default=False),
    ] = None,
    timeout: options.Timeout = 30.0,
    as_json: options.Json = False,
) -> None:
    """Choose a reranker, its precision, length and candidates for a target, on judged queries.

    Half of the queries choose, the others report. Most of the grid is not scored: the worse half of the rerankers is
    dropped after a few queries, and fewer candidates and cascades follow from the scores of the most.
    """
    counts = _numbers(candidates, "--candidates", 1) or [10, 20, 30, 50, 100]
    lengths: list[int | None] = [number or None for number in _numbers(max_length, "--max-length", 0) or [0, 256, 128]]
    _check_words(long, ("truncate", "chunk"), "--long")
    _check_words(engine, get_args(EngineName), "--engine")
    _check_words(dtype, get_args(Dtype), "--dtype")
    from milvus_rerank.evaluation import EvaluationCache, load_judged_queries
    from milvus_rerank.evaluation.tuning import TuneOptions, make_variants, read_target
    from milvus_rerank.evaluation.tuning import tune as tune_search
    from milvus_rerank.indexing import describe, embedder_of, load, only_collection, open_client, open_search

    goal = read_target(target or [])
    variants = make_variants(
        reranker or ["lexical", options.DEFAULT_MODEL],
        engines=engine or [None],
        dtypes=dtype or ["float32", "auto"],
        max_lengths=lengths,
        longs=long or [None],
        device=device,
        threads=threads,
    )
    judged_queries = load_judged_queries(judged, queries)
    output.calm_milvus()
    with (
        EvaluationCache(cache) as kept,
        open_client(uri, token=token, db_name=db_name, timeout=timeout, must_exist=True) as client,
    ):
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
        base = _base_config(
            output_file,
            min(counts),
            {
                "milvus": {"uri": uri, "db_name": db_name or None},
                "collection": {
                    "name": info.name,
                    "text_field": options.read_text_field(text_field),
                    "vector_field": vector_field,
                    "mode": mode,
                },
                "embedder": {"name": embedder},
                "search": {"filter": expression or None},
            },
        )
        with output.progress_bars() as bars:
            tasks: dict[str, Any] = {}

            def progress(step: str, done: int, total: int) -> None:
                if step not in tasks:
                    tasks[step] = bars.add_task(step, total=total)
                bars.update(tasks[step], completed=done)

            try:
                report = tune_search(
                    search,
                    judged_queries,
                    variants,
                    goal,
                    TuneOptions(candidates=tuple(counts), memory=memory, seed=seed),
                    filter=expression or None,
                    timeout=timeout,
                    cache=kept,
                    progress=progress,
                )
            except HitError as error:  # the error's own advice is for callers of the function
                raise InputError(f"{error.problem}. Choose one with --text-field") from error
    if output_file is not None:
        report.to_config(base).write(output_file)
    if as_json:
        output.print_json(report.to_dict())
    else:
        _print(report, output_file)


def _base_config(file: Path | None, least: int, given: dict[str, dict[str, Any]]) -> "Config":
    """Return the keys of a config file that exists, with what the command line gives, checked before any work."""
    from milvus_rerank.config import Config, read_config

    if file is not None and not file.absolute().parent.is_dir():
        raise InputError(f"cannot write {file}: the folder {file.absolute().parent} does not exist")
    tables = read_config(file).to_dict() if file is not None and file.exists() else Config().to_dict()
    for name, values in given.items():
        chosen = {key: value for key, value in values.items() if value is not None}
        tables[name] = {**tables.get(name, {}), **chosen}
    tables.get("search", {}).pop("candidates", None)  # the number to choose
    config = read_config(tables)
    if (config.search.top_k or 0) > least:
        raise InputError(
            f"{file} has top_k = {config.search.top_k}, more than {least} candidates; try only more: --candidates"
        )
    return config


def _check_words(values: list[str] | None, known: tuple[str, ...], flag: str) -> None:
    """Raise a usage error for an unknown word: typer knows no lists of them."""
    for word in values or ():
        if word not in known:
            raise typer.BadParameter(f"expected {', '.join(known)}, got {word!r}", param_hint=flag)


def _numbers(values: list[str] | None, flag: str, least: int) -> list[int]:
    """Return the integers of an option that takes several, separated by commas."""
    numbers = []
    for text in options.split_commas(values) or ():
        if not text.isdecimal() or int(text) < least:
            raise typer.BadParameter(f"expected integers of at least {least}, got {text!r}", param_hint=flag)
        numbers.append(int(text))
    return numbers


def _print(report: "TuneReport", file: Path | None) -> None:
    from rich.text import Text

    from milvus_rerank.evaluation.tuning.report import marks

    metric = f"nDCG@{report.k}"
    columns = ("", "setting", "candidates", metric, "95% interval", "p50", "p95", "pairs/s", "memory")
    rows = [
        (f"{'> ' if row is report.chosen else ''}{mark}", *_cells(row))
        for mark, row in zip(marks(len(report.rows)), report.rows, strict=True)
    ]
    output.print_table(columns, rows)
    screen = output.console()
    screen.print(Text(report.plot()))
    chosen = report.chosen
    screen.print(
        f"{report.target}: {chosen.name} of {chosen.candidates} candidates, {metric} {chosen.ndcg:.4f} and p95 "
        f"{output.milliseconds(chosen.p95)} on {report.held_out} held-out queries",
        soft_wrap=True,
    )
    output.note(
        f"{report.settings} settings; {report.pairs} pairs scored to choose, {report.grid_pairs} are the full grid."
    )
    for line in report.notes:
        output.note(line)
    if file is not None:
        screen.print(f"wrote {file}; type: milvus-rerank search QUERY --config {file}", soft_wrap=True)


def _cells(row: "FrontierRow") -> tuple[str, ...]:
    low, high = row.interval or (row.ndcg, row.ndcg)
    return (
        row.name,
        "" if row.setting is None else str(row.candidates),
        f"{row.ndcg:.4f}",
        f"{low:.3f} to {high:.3f}",
        output.milliseconds(row.p50),
        output.milliseconds(row.p95),
        "" if row.pairs_per_second is None else f"{row.pairs_per_second:.0f}",
        "" if row.memory is None else f"{row.memory / 1e9:.2f} GB",
    )
