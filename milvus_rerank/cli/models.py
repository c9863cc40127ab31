"""``milvus-rerank models``: what can rerank on this machine."""

from typing import TYPE_CHECKING, Annotated

import typer

from milvus_rerank.cli import options, output

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.text import Text

    from milvus_rerank.inventory import Inventory


def models(
    load: Annotated[bool, typer.Option("--load", help="Load every model, not only look at its files.")] = False,
    as_json: options.Json = False,
) -> None:
    """List the rerankers, the models on this machine, and what to install for the rest."""
    from milvus_rerank.inventory import load_model, take_inventory

    with output.spinner("Looking around"):
        inventory = take_inventory(load_model if load else None)
    if as_json:
        output.print_json(inventory.to_dict())
    else:
        _print(inventory)


def _print(inventory: "Inventory") -> None:
    from rich.filesize import decimal

    rerankers = [(one.name, one.origin, _state(one.problem)) for one in inventory.rerankers]
    _print_table("Rerankers (--reranker)", ("name", "from", "loads"), rerankers)
    models = [
        (model.name, model.kind, model.origin, decimal(model.size), _state(model.problem)) for model in inventory.models
    ]
    _print_table("Models here (--model, --embedder)", ("name", "kind", "from", "size", "usable"), models)
    packages = [
        (one.name, one.version or "missing", one.purpose, one.install if one.version is None else "")
        for one in inventory.packages
    ]
    _print_table("Optional packages", ("name", "version", "for", "to install"), packages)


def _print_table(title: str, columns: "Sequence[str]", rows: "Sequence[Sequence[str | Text]]") -> None:
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="dim")
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*(cell if isinstance(cell, Text) else Text(cell) for cell in row))  # no markup: [torch] is text
    console = output.out()
    console.print(Text(title, "bold"))
    console.print(table if rows else Text("none", "dim"))
    console.print()


def _state(problem: str | None) -> "Text":
    from rich.text import Text

    return Text("yes", "green") if problem is None else Text(f"no: {problem}", "red")
