"""The rerankers and the prices that ``milvus-rerank eval`` is given."""

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args
from urllib.parse import unquote

import typer

from milvus_rerank.choices import Mode
from milvus_rerank.cli import options
from milvus_rerank.cli.options import ChosenReranker

if TYPE_CHECKING:
    from milvus_rerank.cli.config import ConfigFile
    from milvus_rerank.evaluation import Prices

MACHINE = "hour"
"""The name of the price of this machine."""


def chosen_rerankers(file: "ConfigFile | None", texts: list[str] | None) -> dict[str, ChosenReranker]:
    """Return the rerankers of the command line by the names that the report has for them.

    :param file: the config file, whose reranker is used if the command line has none; None without one.
    :param texts: the values of ``--reranker``.
    :returns: the rerankers, in their order.
    """
    if not texts:
        chosen = options.choose_reranker(file, None, None)
        return {chosen.label: chosen}
    rerankers: dict[str, ChosenReranker] = {}
    for text in texts:
        label, chosen = read_reranker(text)
        if label in rerankers:
            raise typer.BadParameter(f"{label!r} is given twice", param_hint="--reranker")
        rerankers[label] = chosen
    return rerankers


def read_reranker(text: str) -> tuple[str, ChosenReranker]:
    """Return the name in the report, and the reranker, of one value of ``--reranker``.

    :param text: ``NAME``, ``NAME?key=value&key=value``, ``FILE.toml``, or ``http://host``; each with ``LABEL=`` before
        it to name it in the report. A value that is JSON is read as that, any other is a string; ``%26`` is an
        ampersand.
    :returns: both.
    """
    label, equals, spec = text.partition("=")
    if not equals or "?" in label or "/" in label:
        label, spec = "", text
    if spec.endswith(".toml"):
        from milvus_rerank.config import read_config

        table = read_config(spec).reranker
        return label or Path(spec).stem, ChosenReranker(table.name, table.to_options(), Path(spec))
    if spec.startswith(("http://", "https://")):
        return label or spec.partition("?")[0], ChosenReranker("http", {"url": spec})
    name, _, query = spec.partition("?")
    if not name or (equals and not label and spec != text):
        raise typer.BadParameter(f"expected NAME or NAME?key=value, got {text!r}", param_hint="--reranker")
    values = _read_query(query, text)
    from milvus_rerank.registry import available

    if name not in {entry.name for entry in available()}:
        return label or spec, ChosenReranker(None, {"model_name": name, **values})
    return label or spec, ChosenReranker(name, values)


def _read_query(query: str, text: str) -> dict[str, Any]:
    """Return the options of ``key=value&key=value``."""
    values: dict[str, Any] = {}
    for pair in filter(None, query.split("&")):
        key, equals, value = pair.partition("=")
        if not equals or not key.isidentifier():
            raise typer.BadParameter(
                f"expected NAME?key=value&key=value, got {pair!r} in {text!r}", param_hint="--reranker"
            )
        if key in values:
            raise typer.BadParameter(f"{key!r} is given twice in {text!r}", param_hint="--reranker")
        try:
            values[key] = json.loads(unquote(value))
        except ValueError:
            values[key] = unquote(value)
    return values


def read_modes(texts: list[str] | None) -> tuple[Mode, ...]:
    """Return the first stages of ``--first-stage``."""
    known = {str(mode): mode for mode in get_args(Mode)}
    for text in texts or ():
        if text not in known:
            raise typer.BadParameter(f"expected {', '.join(known)}, got {text!r}", param_hint="--first-stage")
    return tuple(known[text] for text in texts or ())


def read_prices(texts: list[str] | None) -> "Prices":
    """Return the prices of ``--price NAME=PRICE``."""
    from milvus_rerank.evaluation.prices import Prices

    prices: dict[str, float] = {}
    for text in texts or ():
        name, equals, number = text.rpartition("=")
        try:
            value = float(number)
        except ValueError:
            value = math.nan
        if not equals or not name or not math.isfinite(value) or value < 0:
            raise typer.BadParameter(f"expected NAME=PRICE, such as cohere=2.0, got {text!r}", param_hint="--price")
        if name in prices:
            raise typer.BadParameter(f"{name!r} is given twice", param_hint="--price")
        prices[name] = value
    hour = prices.pop(MACHINE, None)
    return Prices(prices, hour)
