"""Machines and money for a number of pairs a day, from measured speeds and prices that the user may replace."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from milvus_rerank.errors import InputError
from milvus_rerank.validation import describe

DAY = 86_400
"""Seconds."""
OWN = "own"
"""The kind of a machine whose speed the user has measured."""
ALIASES = {"builtin/rerank": "ms-marco-MiniLM-L6-v2"}
"""Models of the same shape, and so of the same speed, as a measured one."""
FORMULA = (
    "machines = ceil(pairs_per_day / (86400 x utilisation x pairs_per_second x measured_tokens / tokens)); "
    "cost_per_day = machines x 24 x price_per_hour"
)
_FILE = Path(__file__).parent / "data" / "sizing.json"


@dataclass(frozen=True, slots=True)
class Speed:
    """A measured speed of a model on a kind of machine.

    :param model: the model's name, without its organization.
    :param kind: the kind of machine.
    :param dtype: the precision.
    :param pairs_per_second: pairs of query and document that one machine scores in a second.
    :param tokens: the mean tokens of a pair in the measurement; None if its source does not say.
    :param engine: what was measured.
    :param source: the file or page with the figure.
    :param date: its date.
    """

    model: str
    kind: str
    dtype: str
    pairs_per_second: float
    tokens: int | None
    engine: str
    source: str
    date: str


@dataclass(frozen=True, slots=True)
class Load:
    """The work of a day.

    :param pairs_per_day: pairs of query and document.
    :param tokens: the mean tokens of a pair.
    :param utilisation: the share of the time in which machines have work, above 0 and at most 1.
    :raises InputError: for a number that cannot be.
    """

    pairs_per_day: float
    tokens: float = 200.0
    utilisation: float = 0.7

    def __post_init__(self) -> None:
        for name, most in (("pairs_per_day", math.inf), ("tokens", math.inf), ("utilisation", 1.0)):
            value = getattr(self, name)
            if not isinstance(value, (int, float)) or not 0 < value <= most or math.isinf(value):
                limit = " of at most 1" if most == 1.0 else ""
                raise InputError(f"{name} must be a positive number{limit}, got {describe(value)}")


@dataclass(frozen=True, slots=True)
class Size:
    """The machines of one kind for a load.

    :param speed: the measured speed.
    :param title: the machine, in words.
    :param pairs_per_second: pairs in a second of one machine that is always at work, at the tokens of the load.
    :param scaled: whether the measured speed was scaled by tokens; False if its tokens are not known.
    :param machines: the number of machines.
    :param price_per_hour: of one machine; None if it is not known.
    :param cost_per_day: of all machines, which run all day; None without a price.
    :param cost_per_million: of a million pairs at the load's utilisation, without rounding up to whole machines.
    """

    speed: Speed
    title: str
    pairs_per_second: float
    scaled: bool
    machines: int
    price_per_hour: float | None
    cost_per_day: float | None
    cost_per_million: float | None


@cache
def _table() -> dict[str, Any]:
    table: dict[str, Any] = json.loads(_FILE.read_text("utf-8"))
    return table


def kinds() -> dict[str, str]:
    """Return the kinds of machines with their names in words."""
    return {name: kind["title"] for name, kind in _table()["kinds"].items()}


def price_note() -> str:
    """Return the date and the source of the prices."""
    facts = _table()["prices"]
    return f"{facts['currency']}, {facts['date']}: {facts['source']}"


def speeds_of(model: str) -> list[Speed]:
    """Return the measured speeds of a model.

    :param model: a name, with or without its organization; ``builtin/rerank`` has MiniLM-L6's shape.
    :returns: the speeds.
    :raises InputError: if there are none; it lists the models.
    """
    speeds = [Speed(**row) for row in _table()["speeds"]]
    name = ALIASES.get(model, model).rpartition("/")[2].casefold()
    found = [speed for speed in speeds if speed.model.casefold() == name]
    if not found:
        known = ", ".join(sorted({speed.model for speed in speeds} | ALIASES.keys()))
        raise InputError(
            f"no speed of {model!r} is known; known are {known}. Measure it on your machine, and pass "
            "--pairs-per-second with the --tokens that you measured with"
        )
    return found


def own_speed(model: str, pairs_per_second: float, tokens: float) -> Speed:
    """Return a speed that the user has measured, of the kind :data:`OWN`."""
    if not 0 < pairs_per_second < math.inf:
        raise InputError(f"pairs_per_second must be a positive number, got {describe(pairs_per_second)}")
    return Speed(model, OWN, "", pairs_per_second, round(tokens), "", "given", "")


def size(load: Load, speed: Speed, prices: Mapping[str, float]) -> Size:
    """Return the machines of one kind for a load.

    :param load: the work.
    :param speed: the speed of one machine.
    :param prices: prices of an hour by kind, which replace the table's.
    :returns: the machines, and their cost.
    """
    kind = _table()["kinds"].get(speed.kind, {"title": "your machine", "price_per_hour": None})
    rate = speed.pairs_per_second
    if speed.tokens is not None and speed.kind != OWN:
        rate *= speed.tokens / load.tokens
    busy = rate * load.utilisation
    machines = math.ceil(load.pairs_per_day / (DAY * busy))
    price = prices.get(speed.kind, kind["price_per_hour"])
    return Size(
        speed=speed,
        title=kind["title"],
        pairs_per_second=rate,
        scaled=speed.tokens is not None and speed.kind != OWN,
        machines=machines,
        price_per_hour=price,
        cost_per_day=None if price is None else machines * 24 * price,
        cost_per_million=None if price is None else 1e6 / (3600 * busy) * price,
    )


def sizes(load: Load, speeds: list[Speed], prices: Mapping[str, float]) -> list[Size]:
    """Return the machines of each kind, the cheapest first, and those without a price last.

    :param load: the work.
    :param speeds: the speeds.
    :param prices: as in :func:`size`.
    :returns: one value for each speed.
    :raises InputError: for a price of a kind that no speed has, or one below 0.
    """
    known = {speed.kind for speed in speeds}
    for kind, price in prices.items():
        if kind not in known:
            raise InputError(f"a price is given for {kind!r}, but the kinds here are {', '.join(sorted(known))}")
        if not 0 <= price < math.inf:
            raise InputError(f"the price of {kind} must be a number of at least 0, got {describe(price)}")
    found = [size(load, speed, prices) for speed in speeds]
    return sorted(found, key=lambda each: math.inf if each.cost_per_day is None else each.cost_per_day)
