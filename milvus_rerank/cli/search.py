"""``milvus-rerank search``: run a two-stage search over a collection."""

from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

import typer

from milvus_rerank.choices import DEFAULT_CANDIDATES, DEFAULT_TOP_K, DEFAULT_URI, MAX_CANDIDATES
from milvus_rerank.cli import options, output
from milvus_rerank.cli.config import ConfigOption
from milvus_rerank.errors import HitError, InputError

if TYPE_CHECKING:
    from milvus_rerank.search import SearchAnswer
    from milvus_rerank.text_field import TextField

OutputFields = Annotated[
    list[str] | None, typer.Option(help="Fields to print, separated by commas. (default: all)", show_default=False)
]


def search(
    query: options.Query,
    uri: options.Uri = DEFAULT_URI,
    token: options.Token = "",
    db_name: options.DbName = "",
    collection: options.Collection = None,
    candidates: options.Candidates = DEFAULT_CANDIDATES,
    top_k: options.TopK = DEFAULT_TOP_K,
    threshold: options.Threshold = None,
    expression: options.Filter = "",
    output_fields: OutputFields = None,
    text_field: options.SearchTextField = None,
    vector_field: options.VectorField = None,
    mode: options.SearchMode = None,
    instruction: options.Instruction = None,
    rerank: Annotated[bool, typer.Option(help="Rerank, or print the first stage's order.")] = True,
    reranker: options.Reranker = None,
    model: options.Model = None,
    device: options.Device = None,
    dtype: options.Precision = None,
    engine: options.Engine = None,
    threads: options.Threads = None,
    option: options.RerankerOption = None,
    embedder: options.SearchEmbedder = None,
    timeout: options.Timeout = 30.0,
    config: ConfigOption = None,
    as_json: options.Json = False,
    as_jsonl: options.Jsonl = False,
) -> None:
    """Search a Milvus collection, and rerank its hits."""
    options.check_output(as_json, as_jsonl)
    _check(top_k, threshold, rerank)
    chosen = options.choose_reranker(
        config, reranker, option, model_name=model, device=device, dtype=dtype, engine=engine, threads=threads
    )
    from milvus_rerank.indexing import (
        absent_keys,
        count_rows,
        describe,
        embedder_of,
        load,
        only_collection,
        open_client,
        open_search,
        without_scores,
    )
    from milvus_rerank.search.filters import missing_field, names_in

    output.calm_milvus()
    with open_client(uri, token=token, db_name=db_name, timeout=timeout, must_exist=True) as client:
        info = describe(client, collection or only_collection(client, timeout), timeout)
        two_stage = open_search(
            client,
            info,
            mode=mode,
            reranker=options.make_reranker(chosen) if rerank else None,
            embedder=partial(embedder_of, info, embedder),
            text_field=options.read_text_field(text_field),
            vector_field=vector_field,
            steps=config.config.steps if config and rerank else (),
        )
        mode = mode or ("bm25" if getattr(two_stage.first_stage, "field", "") in info.bm25 else "dense")
        load(client, info, timeout)
        fields = options.split_commas(output_fields)
        for name in absent_keys(client, info, fields or [], timeout):
            raise InputError(missing_field("--output-fields", name, info.names))
        absent = absent_keys(client, info, names_in(expression), timeout)
        try:
            answer: SearchAnswer[Any] = two_stage(
                query,
                top_k=top_k,
                candidates=max(candidates, top_k),
                threshold=threshold,
                filter=expression,
                output_fields=fields or list(info.fields),
                timeout=timeout,
                instruction=instruction if rerank else None,
            )
        except HitError as error:  # the error's own advice is for callers of the function
            raise InputError(f"{error.problem}. Choose one with --text-field") from error
        is_empty = not len(answer) and count_rows(client, info.name, timeout) == 0
    for name in absent if not is_empty else ():
        problem = missing_field(f"the filter {expression!r}", name, info.names)
        if not len(answer):
            raise InputError(problem)
        output.note(f"No row has {name!r}: {problem}")
    answer = answer if rerank else without_scores(answer)
    if as_json or as_jsonl:
        _print_json({"collection": info.name, "mode": mode, **answer.to_dict()}, as_jsonl)
        return
    if not len(answer):
        output.note("The collection is empty." if is_empty else "Nothing found.")
    _print_table(answer, two_stage.text_field)


def _check(top_k: int, threshold: float | None, rerank: bool) -> None:
    """Raise a usage error for values that cannot be obeyed."""
    if top_k > MAX_CANDIDATES:
        raise typer.BadParameter(
            f"Milvus returns at most {MAX_CANDIDATES} hits of a search, got {top_k}", param_hint="--top-k"
        )
    if threshold is not None and not rerank:
        raise typer.BadParameter("a threshold is for scores; leave out --no-rerank", param_hint="--threshold")


def _print_json(answer: dict[str, Any], as_lines: bool) -> None:
    answer["results"] = [{"rank": rank, **result} for rank, result in enumerate(answer["results"], 1)]
    if not as_lines:
        output.print_json(answer)
        return
    for result in answer["results"]:
        output.print_json(result, indent=None)


def _print_table(answer: "SearchAnswer[Any]", text_field: "TextField") -> None:
    from rich.text import Text

    from milvus_rerank.text_field import read_text_field

    columns = ("#", "score", "was", "distance", "id", "text and fields")
    rows: list[tuple[str | Text, ...]] = []
    for rank, result in enumerate(answer, 1):
        entity = result.entity or {}
        shown = Text(" ".join(result.text.split()))
        title = entity.get("title")
        if isinstance(title, str) and result.text.startswith(title):
            shown.stylize("bold", 0, len(" ".join(title.split())))
        others = {
            key: value
            for key, value in entity.items()
            if key not in (*read_text_field(text_field).names, "title", "id")
        }
        if others:
            shown.append("\n" + " ".join(f"{key}={value}" for key, value in others.items()), "dim")
        ranks = [f"{result.score:.4f}", str(result.index + 1)] if answer.reranked else []
        distance = "" if result.distance is None else f"{result.distance:.4f}"
        rows.append((str(rank), *ranks, distance, str(result.id), shown))
    if rows:
        output.print_table([name for name in columns if answer.reranked or name not in ("score", "was")], rows)
    stages = ("embed", "search", "rerank") if answer.reranked else ("embed", "search")
    output.note(" · ".join(f"{name} {output.milliseconds(getattr(answer.timings, name))}" for name in stages))
