"""``milvus-rerank size``: machines and money for a number of pairs a day."""

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from milvus_rerank.cli import options, output

if TYPE_CHECKING:
    from milvus_rerank.sizing import Size


def size(
    pairs_per_day: Annotated[
        float,
        typer.Option(
            help="Pairs of query and document in a day: queries x candidates, such as 1e9.",
            callback=options.check_number,
            show_default=False,
        ),
    ],
    tokens: Annotated[
        float, typer.Option(help="Mean tokens of a pair, query and document.", callback=options.check_number)
    ] = 200,
    model: Annotated[str, typer.Option(help="The model, with or without its organization.")] = options.DEFAULT_MODEL,
    pairs_per_second: Annotated[
        float | None,
        typer.Option(
            help="The speed that you measured on your machine, with pairs of --tokens tokens; its kind is 'own'.",
            callback=options.check_number,
            show_default=False,
        ),
    ] = None,
    utilisation: Annotated[
        float, typer.Option(help="The share of the time in which machines have work.", callback=options.check_number)
    ] = 0.7,
    price: Annotated[
        list[str] | None,
        typer.Option(help="The price of an hour of a kind of machine, such as h100=2.10; repeatable."),
    ] = None,
    as_json: options.Json = False,
) -> None:
    """Tell how many machines rerank a number of pairs a day, and what they cost, for kinds with a measured speed."""
    from milvus_rerank.sizing import FORMULA, Load, own_speed, price_note, sizes, speeds_of

    load = Load(pairs_per_day, tokens, utilisation)
    speeds = speeds_of(model) if pairs_per_second is None else [own_speed(model, pairs_per_second, tokens)]
    rows_by_cost = sizes(load, speeds, _read_prices(price))
    if as_json:
        rows = [asdict(each) for each in rows_by_cost]
        output.print_json({"model": model, **asdict(load), "formula": FORMULA, "prices": price_note(), "sizes": rows})
        return
    columns = ("machines", "kind", "dtype", "pairs/s", "a day", "a million pairs", "an hour", "measured")
    output.print_table(columns, [_cells(each) for each in rows_by_cost])
    output.note(f"{pairs_per_day:,.0f} pairs a day of {tokens:g} tokens, {model}, utilisation {utilisation:g}.")
    output.note(FORMULA)
    if any(each.speed.tokens is None for each in rows_by_cost):
        output.note("* the source does not tell the tokens of a pair; the speed is not scaled to yours.")
    output.note(f"Prices in {price_note()}. Replace them: --price KIND=PRICE.")


def _cells(size: "Size") -> tuple[str, ...]:
    def money(amount: float | None) -> str:
        return "" if amount is None else f"{amount:,.2f}"

    speed = size.speed
    measured = ", ".join(filter(None, [speed.engine, speed.source, speed.date]))
    return (
        f"{size.machines:,}",
        speed.kind,
        speed.dtype,
        f"{size.pairs_per_second:,.0f}{'' if speed.tokens is not None else '*'}",
        money(size.cost_per_day),
        money(size.cost_per_million),
        money(size.price_per_hour),
        measured,
    )


def _read_prices(pairs: list[str] | None) -> dict[str, float]:
    prices: dict[str, float] = {}
    for pair in pairs or ():
        kind, equals, text = pair.partition("=")
        try:
            amount = float(text)
        except ValueError:
            amount = float("nan")
        if not equals or not kind or amount != amount:
            raise typer.BadParameter(f"expected KIND=PRICE, such as h100=2.10, got {pair!r}", param_hint="--price")
        prices[kind] = amount
    return prices
