"""``milvus-rerank eval``: measure first stages and rerankers on the queries of a collection."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from milvus_rerank.choices import DEFAULT_CANDIDATES, DEFAULT_TOP_K
from milvus_rerank.cli import options, output
from milvus_rerank.cli.config import ConfigOption
from milvus_rerank.cli.eval_options import chosen_rerankers, read_modes, read_prices
from milvus_rerank.cli.eval_source import EvalSource
from milvus_rerank.errors import HitError, InputError
from milvus_rerank.requirements import require

if TYPE_CHECKING:
    from milvus_rerank.evaluation import JudgedQueries

MilvusUri = Annotated[
    str | None,
    typer.Option(
        help="A Milvus Lite file (*.db), or a server: http://host:19530. "
        "(default: ./milvus.db; a temporary file for a BEIR folder without --collection)",
        show_default=False,
    ),
]


def eval(  # the name of the command
    judged: Annotated[
        Path | None,
        typer.Option(
            help='Judged queries: lines such as {"query": "who", "relevant": ["id 7"]}, a BEIR folder, or TREC\'s '
            "judgments with --queries.",
            show_default=False,
        ),
    ] = None,
    queries: Annotated[
        Path | None,
        typer.Option(
            help="Queries: JSON lines, or lines of id, tab and text. Without --judged, rankings are compared alone.",
            show_default=False,
        ),
    ] = None,
    uri: MilvusUri = None,
    token: options.Token = "",
    db_name: options.DbName = "",
    collection: options.Collection = None,
    first_stage: Annotated[
        list[str] | None,
        typer.Option(
            help="dense, bm25 or hybrid; repeatable. (default: vectors, or BM25 where there are none)",
            show_default=False,
        ),
    ] = None,
    reranker: Annotated[
        list[str] | None,
        typer.Option(
            help="A model or a registered reranker with its options, NAME?key=value&key=value; a config file, *.toml; "
            "or the address of a service. LABEL=NAME... names it in the report. Repeatable. (default: builtin/rerank)",
            show_default=False,
        ),
    ] = None,
    candidates: options.Candidates = DEFAULT_CANDIDATES,
    top_k: Annotated[int, typer.Option("--top-k", "-k", help="How many ranks count.", min=1)] = DEFAULT_TOP_K,
    expression: options.Filter = "",
    instruction: options.Instruction = None,
    text_field: options.SearchTextField = None,
    vector_field: options.VectorField = None,
    embedder: options.SearchEmbedder = None,
    reference: Annotated[
        str | None,
        typer.Option(
            help="The reranker that counts as right where there are no judgments. (default: the last)",
            show_default=False,
        ),
    ] = None,
    price: Annotated[
        list[str] | None,
        typer.Option(
            help="NAME=PRICE of 1,000 queries with a reranker, or hour=PRICE of this machine; repeatable.",
            show_default=False,
        ),
    ] = None,
    report: Annotated[
        Path | None, typer.Option(help="Write a page with plots to this HTML file.", show_default=False)
    ] = None,
    runs: Annotated[
        Path | None, typer.Option(help="Write each ranking to this folder in TREC's format.", show_default=False)
    ] = None,
    cache: Annotated[
        Path | None,
        typer.Option(help="The file that keeps scores. (default: in the user's cache folder)", show_default=False),
    ] = None,
    timeout: options.Timeout = 30.0,
    config: ConfigOption = None,
    as_json: options.Json = False,
) -> None:
    """Measure rerankers on your own collection: quality, significance, latency and cost.

    Run it again after Ctrl-C, or with one more reranker: what was scored is kept.
    """
    if judged is None and queries is None:
        raise typer.BadParameter("give judged queries, or --queries to compare rankings alone", param_hint="--judged")
    prices, modes, chosen = read_prices(price), read_modes(first_stage), chosen_rerankers(config, reranker)
    require("an evaluation", "pymilvus", "ir_measures", "scipy", *(("jinja2", "matplotlib") if report else ()))
    if report is not None and not report.absolute().parent.is_dir():
        raise InputError(f"cannot write {report}: the folder {report.absolute().parent} does not exist")
    from milvus_rerank.evaluation import EvaluationCache, default_cache, evaluate

    asked = _read(judged, queries)
    source = EvalSource(
        judged if judged and collection is None and (judged / "corpus.jsonl").is_file() else None,
        uri,
        token,
        db_name,
        collection,
        embedder,
        modes,
        text_field,
        vector_field,
        timeout,
    )
    output.calm_milvus()
    path = cache or default_cache()
    with _explain_stops(path), EvaluationCache(path) as kept, source.open() as searches:
        rerankers = {label: options.make_reranker(item) for label, item in chosen.items()}
        with _progress() as progress:
            result = evaluate(
                searches,
                asked,
                rerankers=rerankers,
                candidates=max(candidates, top_k),
                k=top_k,
                filter=expression,
                instruction=instruction,
                timeout=timeout,
                cache=kept,
                prices=prices,
                reference=reference,
                progress=progress,
            )
    if as_json:
        output.print_json(result.to_dict())
    else:
        from milvus_rerank.cli.eval_report import show_evaluation

        show_evaluation(result)
    if runs is not None:
        result.write_runs(runs)
    if report is not None:
        with output.spinner("Drawing"):
            result.to_html(report)


def _read(judged: Path | None, queries: Path | None) -> "JudgedQueries":
    from milvus_rerank.evaluation import load_judged_queries, load_queries

    if judged is not None:
        return load_judged_queries(judged, queries)
    assert queries is not None  # noqa: S101  one of the two was given
    return load_queries(queries)


@contextmanager
def _explain_stops(cache: Path) -> Iterator[None]:
    """Say how to go on after Ctrl-C, and which option chooses another text field."""
    try:
        yield
    except HitError as error:  # the error's own advice is for callers of the function
        raise InputError(f"{error.problem}. Choose one with --text-field") from error
    except KeyboardInterrupt:
        output.note(f"Interrupted. {cache} keeps what was scored: type the same command again to go on.")
        raise


@contextmanager
def _progress() -> Iterator[Callable[[str, int, int], None]]:
    """Yield a function that shows the finished queries of each system, and the time left for it."""
    with output.progress_bars() as bars:
        tasks: dict[str, Any] = {}

        def show(step: str, done: int, total: int) -> None:
            if step not in tasks:
                tasks[step] = bars.add_task(step, total=total)
            bars.update(tasks[step], completed=done)

        yield show
