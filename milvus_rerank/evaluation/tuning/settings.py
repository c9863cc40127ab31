"""Settings to choose from: rerankers with options, numbers of candidates, cascades."""

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

from milvus_rerank.cascade import CascadeRerankFunction
from milvus_rerank.config import Config, RerankerTable
from milvus_rerank.registry import available, load
from milvus_rerank.reranker.base import BaseRerankFunction

_KEYS = ("engine", "dtype", "device", "threads")
"""Options that the config file has keys for."""


@dataclass(frozen=True, slots=True)
class Variant:
    """A reranker with options.

    :param name: a registered reranker, or a model.
    :param options: its options, as pairs of name and value.
    """

    name: str
    options: tuple[tuple[str, Any], ...] = ()

    def __str__(self) -> str:
        return " ".join([self.name, *(f"{key}={value}" for key, value in self.options)])

    def load(self) -> BaseRerankFunction:
        """Load the reranker."""
        return load(self.name, **dict(self.options))

    def to_table(self) -> RerankerTable:
        """Return the reranker as the config file has it."""
        options = dict(self.options)
        known = {key: options.pop(key) for key in _KEYS if key in options}
        name = {"name" if self.name in {entry.name for entry in available()} else "model": self.name}
        return RerankerTable.model_validate({**name, **known, "options": options})


@dataclass(frozen=True, slots=True)
class Setting:
    """A reranker, the hits that it reranks, and for a cascade its first reranker.

    :param variant: the reranker, or the last one of a cascade.
    :param candidates: the number of hits of the first stage.
    :param first: the first reranker of a cascade; None without a cascade.
    :param keep: the documents that the first reranker of a cascade passes on.
    """

    variant: Variant
    candidates: int
    first: Variant | None = None
    keep: int | None = None

    def __str__(self) -> str:
        return str(self.variant) if self.first is None else f"{self.first}, best {self.keep} by {self.variant}"

    def load(self) -> BaseRerankFunction:
        """Load the reranker, or the cascade."""
        if self.first is None:
            return self.variant.load()
        return CascadeRerankFunction([(self.first.load(), self.keep), (self.variant.load(), self.keep)])

    def to_config(self, base: Config) -> Config:
        """Return a config with this reranker and number of candidates, and all else as in another config."""
        table = self.variant.to_table()
        if self.first is not None:
            stages = [[self.first.name, self.keep], [self.variant.name, self.keep]]
            table = RerankerTable(name="cascade", options={"stages": stages})
        search = base.search.model_copy(update={"candidates": self.candidates})
        return base.model_copy(update={"reranker": table, "search": search})


def make_variants(
    rerankers: Sequence[str],
    *,
    engines: Sequence[str | None] = (None,),
    dtypes: Sequence[str | None] = (None,),
    max_lengths: Sequence[int | None] = (None,),
    longs: Sequence[str | None] = (None,),
    device: str | None = None,
    threads: int | None = None,
) -> list[Variant]:
    """Return each reranker with each combination of the options that it takes; None leaves an option out.

    :param rerankers: registered rerankers, or models.
    :param engines: the engines.
    :param dtypes: the precisions.
    :param max_lengths: the most tokens of a pair.
    :param longs: ``truncate`` or ``chunk`` long documents.
    :param device: the device of all models.
    :param threads: the most CPU threads of all models.
    :returns: the variants, each once.
    """
    names = ("engine", "dtype", "max_length", "long", "device", "threads")
    variants: dict[Variant, None] = {}
    for reranker in rerankers:
        taken = _parameters(reranker)
        for values in product(engines, dtypes, max_lengths, longs, [device], [threads]):
            pairs = zip(names, values, strict=True)
            options = tuple((key, value) for key, value in pairs if value is not None and key in taken)
            variants[Variant(reranker, options)] = None
    return list(variants)


def _parameters(reranker: str) -> frozenset[str]:
    """Return the options that a registered reranker takes; for a model those of a cross-encoder."""
    entries = {entry.name: entry for entry in available()}
    return frozenset(inspect.signature(entries.get(reranker, entries["cross-encoder"]).load()).parameters)


def make_settings(
    variants: Sequence[Variant], pointwise: frozenset[Variant], candidates: Sequence[int], k: int
) -> list[Setting]:
    """Return the settings whose rankings follow from scores of the most candidates.

    :param variants: the rerankers, the fastest first.
    :param pointwise: those whose score of a document does not depend on the others: only they get fewer candidates.
    :param candidates: the numbers of candidates, in rising order.
    :param k: the ranks that count: a cascade keeps at least as many.
    :returns: the settings. A cascade needs two rerankers without options, since the config file names its stages.
    """
    most = candidates[-1]
    settings = [
        Setting(variant, count)
        for variant in variants
        for count in (candidates if variant in pointwise else candidates[-1:])
    ]
    stages = [variant for variant in variants if variant in pointwise and not variant.options]
    return settings + [
        Setting(last, most, first, keep)
        for index, first in enumerate(stages)
        for last in stages[index + 1 :]
        for keep in candidates[:-1]
        if keep >= k
    ]
