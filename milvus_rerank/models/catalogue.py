"""Model cards: known facts about rerank models, with the source of each fact. Models without a card work, too."""

import json
import os
import re
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

from milvus_rerank.errors import install_command
from milvus_rerank.models.source import BUILTIN

SERVICE = "service"
"""Family of hosted models."""

MULTILINGUAL = "multilingual"
"""Placeholder for a list of languages that is too long to give."""

_FILE = Path(__file__).with_name("catalogue.json")
_HUB_CACHE = "models--"  # the hub client's prefix of ORG--NAME in its cache


@dataclass(frozen=True, slots=True)
class Family:
    """Models that are loaded and scored in the same way.

    :param name: ``cross-encoder``, ``bge-llm``, ``bge-layerwise``, ``bge-lightweight``, ``causal`` or ``service``.
    :param title: the title on a page.
    :param text: a description in Markdown.
    :param example: the name of a model of the family.
    """

    name: str
    title: str
    text: str
    example: str


@dataclass(frozen=True, slots=True)
class Recommendation:
    """A model for a need.

    :param need: the need, in a few words.
    :param name: the model's name.
    """

    need: str
    name: str


@dataclass(frozen=True, slots=True)
class ModelCard:
    """Known facts about one model. None means that no source was found.

    :param name: the value to pass as ``model_name``.
    :param family: the name of its :class:`Family`.
    :param function: the class of this package that reranks with it.
    :param options: further arguments that this class needs, as pairs of name and value.
    :param extra: the extra of milvus-rerank that is certain to run it; "" for milvus-rerank alone.
    :param languages: ISO 639-1 codes, or ``multilingual`` alone.
    :param parameters: the number of parameters, rounded where the source rounds it.
    :param max_length: the most tokens of query and document together.
    :param max_documents: the most documents of a request to a service.
    :param licence: the licence of the weights, as an SPDX identifier if it has one; None for a service.
    :param scores: the scale of the scores that ``function`` returns: ``logit`` or ``0 to 1``.
    :param ndcg10: published nDCG@10 on MTEB(eng, v2) Retrieval: the mean over the first 100 hits of six embedders.
    :param note: other useful facts, in a sentence or two.
    :param source: the sources of the facts: URLs, or files of this repository.
    :param aliases: other names of the model.
    """

    name: str
    family: str
    function: str
    options: tuple[tuple[str, str | int | bool], ...] = ()
    extra: str = ""
    languages: tuple[str, ...] = ()
    parameters: int | None = None
    max_length: int | None = None
    max_documents: int | None = None
    licence: str | None = None
    scores: str | None = None
    ndcg10: float | None = None
    note: str | None = None
    source: tuple[str, ...] = ()
    aliases: tuple[str, ...] = ()

    @property
    def code(self) -> str:
        """Line of Python that loads the model."""
        arguments = [f'"{self.name}"', *(f"{name}={value!r}" for name, value in self.options)]
        return f"{self.function}({', '.join(arguments)})"

    @property
    def install(self) -> str:
        """Command that installs the packages that run the model."""
        return install_command(self.extra)

    @property
    def size(self) -> str | None:
        """Number of parameters in short form, such as ``22.7M`` or ``2.51B``."""
        if self.parameters is None:
            return None
        unit, letter = (1e9, "B") if self.parameters >= 1e9 else (1e6, "M")
        return f"{self.parameters / unit:.3g}{letter}"

    @property
    def trust_remote_code(self) -> bool:
        """Tell whether the model needs Python code that comes with it."""
        return ("trust_remote_code", True) in self.options

    def to_dict(self) -> dict[str, Any]:
        """Return the card as JSON-safe Python values, with its line of code and its install command."""
        return {**asdict(self), "options": dict(self.options), "code": self.code, "install": self.install}


def find_card(name: str | os.PathLike[str]) -> ModelCard | None:
    """Return the card of a model.

    :param name: the model's name in any case, with or without ``-`` and ``_``, so that ``...-L-6-v2`` finds
        ``...-L6-v2``; or a folder whose last part is that name, or which lies in the hub's cache.
    :returns: the card; None for a model without a card, which works all the same.
    """
    text = str(name).strip()
    card = _cards_by_key().get(_key(text))
    parts = [part for part in re.split(r"[/\\]", text) if part]
    if card is not None or not parts or _is_hub_name(text):
        return card
    for part in parts:
        if part.startswith(_HUB_CACHE):
            return _cards_by_key().get(_key(part.removeprefix(_HUB_CACHE).replace("--", "/")))
    return _cards_by_last_part().get(_key(parts[-1]))


def all_cards() -> tuple[ModelCard, ...]:
    """Return every card, family by family."""
    return _read()[1]


def recommendations() -> tuple[Recommendation, ...]:
    """Return a model for each usual need."""
    data = json.loads(_FILE.read_text("utf-8"))
    return tuple(Recommendation(**entry) for entry in data["recommended"])


def families() -> tuple[Family, ...]:
    """Return the families in the order of their cards."""
    return _read()[0]


def looked_up() -> str:
    """Return the month in which the sources were read, such as ``November 2026``."""
    return _read()[2]


@cache
def _read() -> tuple[tuple[Family, ...], tuple[ModelCard, ...], str]:
    data = json.loads(_FILE.read_text("utf-8"))
    families = tuple(Family(name, **values) for name, values in data["families"].items())
    return families, tuple(_card(values, data["sources"]) for values in data["cards"]), data["looked_up"]


def _card(values: dict[str, Any], sources: dict[str, str]) -> ModelCard:
    lists: dict[str, Any] = {name: tuple(values.get(name, ())) for name in ("languages", "aliases")}
    lists["options"] = tuple(values.get("options", {}).items())
    lists["source"] = tuple(sources[key] for key in values["source"])
    return ModelCard(**(values | lists))


@cache
def _cards_by_key() -> dict[str, ModelCard]:
    return {_key(name): card for card in all_cards() for name in (card.name, *card.aliases)}


@cache
def _cards_by_last_part() -> dict[str, ModelCard]:
    """Return the cards of models that a folder can hold, by the last part of their names."""
    downloaded = [card for card in all_cards() if card.family != SERVICE and not card.name.startswith(BUILTIN)]
    return {_key(card.name.rpartition("/")[2]): card for card in downloaded}


def _key(name: str) -> str:
    return re.sub(r"[-_]", "", name).lower()


def _is_hub_name(text: str) -> bool:
    """Tell a hub name such as ``ORG/NAME`` from a folder: the same name under another owner is another model."""
    return text.count("/") == 1 and text[0] not in "./~" and "\\" not in text and not os.path.isdir(text)
