"""``milvus-rerank search``: run a two-stage search over a collection."""

from enum import Enum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from milvus_rerank.cli import options, output
from milvus_rerank.errors import HitError, InputError

if TYPE_CHECKING:
    from milvus_rerank.search import SearchAnswer


class SearchMode(str, Enum):
    """Kind of first stage."""

    dense = "dense"
    bm25 = "bm25"
    hybrid = "hybrid"


def search(
    query: options.Query,
    uri: options.Uri = options.DEFAULT_URI,
    token: options.Token = "",
    collection: Annotated[
        str | None, typer.Option(help="The collection. (default: the only one there is)", show_default=False)
    ] = None,
    candidates: Annotated[int, typer.Option(help="How many hits the first stage may return.", min=1)] = 50,
    top_k: options.TopK = 10,
    expression: Annotated[str, typer.Option("--filter", help="Milvus' filter, such as 'year > 1950'.")] = "",
    output_fields: Annotated[
        list[str] | None, typer.Option(help="Fields to print, with commas between. (default: all)", show_default=False)
    ] = None,
    text_field: Annotated[str, typer.Option(help="The field to rerank by.")] = "text",
    mode: Annotated[SearchMode, typer.Option(help="What the first stage compares.")] = SearchMode.dense,
    rerank: Annotated[bool, typer.Option(help="Rerank, or print the first stage's order.")] = True,
    reranker: options.Reranker = options.DEFAULT_RERANKER,
    model: options.Model = None,
    device: options.Device = None,
    dtype: options.Dtype = None,
    embedder: options.EmbedderName = options.DEFAULT_EMBEDDER,
    timeout: options.Timeout = 30.0,
    as_json: options.Json = False,
) -> None:
    """Search a Milvus collection, and rerank what it finds."""
    from milvus_rerank.embedding import StaticEmbedder
    from milvus_rerank.indexing import describe, load, only_collection, open_client, open_search, without_scores

    output.calm_milvus()
    with open_client(uri, token=token, timeout=timeout, must_exist=True) as client:
        info = describe(client, collection or only_collection(client, timeout), timeout)
        two_stage = open_search(
            client,
            info,
            mode=mode.value,
            reranker=options.make_reranker(reranker, model, device, dtype) if rerank else None,
            embedder=None if mode is SearchMode.bm25 else StaticEmbedder(embedder),
            text_field=text_field,
        )
        load(client, info, timeout)
        fields = options.split_commas(output_fields) or list(info.fields)
        try:
            answer = two_stage(
                query,
                top_k=top_k,
                candidates=max(candidates, top_k),
                filter=expression,
                output_fields=fields,
                timeout=timeout,
            )
        except HitError as error:  # the error's own advice is for callers of the function
            raise InputError(f"{error.problem}. Choose one with --text-field") from error
    answer = answer if rerank else without_scores(answer)
    if as_json:
        output.print_json({"collection": info.name, "mode": mode.value, **_document(answer)})
    else:
        _print_table(answer, text_field)


def _document(answer: "SearchAnswer") -> dict[str, Any]:
    values = answer.to_dict()
    values["results"] = [{"rank": rank, **result} for rank, result in enumerate(values["results"], 1)]
    return values


def _print_table(answer: "SearchAnswer", text_field: str) -> None:
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="bold", expand=True)
    table.add_column("#", justify="right", style="dim")
    if answer.reranked:
        table.add_column("score", justify="right", style="cyan")
        table.add_column("was", justify="right", style="dim")
    table.add_column("distance", justify="right", style="dim")
    table.add_column("id", no_wrap=True, style="green", overflow="ellipsis", max_width=32)
    table.add_column("text and fields", overflow="ellipsis", no_wrap=True, ratio=1)
    for rank, result in enumerate(answer, 1):
        entity = result.entity or {}
        shown = Text(" ".join(result.text.split()))
        title = entity.get("title")
        if isinstance(title, str) and result.text.startswith(title):
            shown.stylize("bold", 0, len(" ".join(title.split())))
        others = {key: value for key, value in entity.items() if key not in (text_field, "title", "id")}
        if others:
            shown.append("\n" + " ".join(f"{key}={value}" for key, value in others.items()), "dim")
        ranks = [f"{result.score:.4f}", str(result.index + 1)] if answer.reranked else []
        distance = "" if result.distance is None else f"{result.distance:.4f}"
        table.add_row(str(rank), *ranks, distance, Text(str(result.id)), shown)
    if not len(answer):
        output.note("Nothing found.")
    else:
        output.out().print(table)
    times = answer.timings
    stages = [
        ("embed", times.embed),
        ("search", times.search),
        *([("rerank", times.rerank)] if answer.reranked else []),
    ]
    output.note(" · ".join(f"{name} {output.milliseconds(seconds)}" for name, seconds in stages))
