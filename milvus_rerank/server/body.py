"""Base of the request bodies: the keys that they may have, and the form that all of them are converted to."""

from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache
from typing import Annotated, Any, Literal

from pydantic import AliasChoices, BaseModel, Field, model_validator

from milvus_rerank.scoring import Request
from milvus_rerank.scoring.prepared import TokenLimits

Scale = Literal["model", "sigmoid", "raw"]
"""The requested scores: the model's default scores in this package, scores between 0 and 1, or logits."""

Texts = Annotated[list[str], Field(fail_fast=True)]
"""Texts; the check stops at the first that is none, for each error takes more memory than a text."""
Count = Annotated[int | None, Field(ge=0, description="How many results; 0 or absent for all.")]
TOP_N: Any = Field(None, validation_alias=AliasChoices("top_n", "top_k"))
RETURN_DOCUMENTS: Any = Field(None, validation_alias=AliasChoices("return_documents", "return_text"))
Tokens = Annotated[int | None, Field(ge=1, description="The most tokens; absent for the model's limit.")]


@dataclass(frozen=True, slots=True)
class Call:
    """A request in one form, independent of the service's format.

    :param requests: queries with their documents.
    :param top_k: the number of results to return; None for all.
    :param scale: the scores to return.
    :param limits: token limits of this request; None for the model's limits.
    """

    requests: list[Request]
    top_k: int | None = None
    scale: Scale = "model"
    limits: TokenLimits | None = None


@dataclass(frozen=True, slots=True)
class Scored:
    """Scores of a request's documents.

    :param model: the model's name.
    :param scores: one score per document, in input order.
    :param order: positions of the documents to return, best first.
    :param tokens: the number of tokens that the model read.
    """

    model: str
    scores: Sequence[float]
    order: Sequence[int]
    tokens: int


IGNORED = frozenset(
    {
        "encoding_format", "id", "instruct", "instruction", "late_interaction", "max_chunk_per_doc",
        "max_chunks_per_doc", "options", "overlap", "overlap_tokens", "parameters", "priority", "request_id",
        "return_embeddings", "timeout", "truncate", "truncation", "user",
    }
)  # fmt: skip
"""Keys of services that change nothing here: the server truncates texts that are too long, and reads no instruction."""


class Checked(BaseModel):
    """Base class of JSON objects whose keys are checked."""

    @model_validator(mode="before")
    @classmethod
    def _check_keys(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        names = _names(cls)
        for key in values:
            if key not in names and key not in IGNORED:
                near = get_close_matches(key[:50], names, 1)
                advice = f"did you mean {near[0]!r}?" if near else f"expected {', '.join(sorted(names))}"
                raise ValueError(f"unknown key {key[:50]!r}; {advice}")
        for same in _same_names(cls):
            given = [name for name in same if values.get(name) is not None]
            if len(given) > 1 and values[given[0]] != values[given[1]]:
                raise ValueError(f"{given[0]!r} and {given[1]!r} mean the same and differ; send one of them")
        return values


@cache
def _same_names(body: type[BaseModel]) -> tuple[tuple[str, ...], ...]:
    """Return the names of each field that has several."""
    aliases = (field.validation_alias for field in body.model_fields.values())
    return tuple(tuple(map(str, alias.choices)) for alias in aliases if isinstance(alias, AliasChoices))


@cache
def _names(body: type[BaseModel]) -> frozenset[str]:
    """Return the keys that an object may have."""
    return frozenset({*body.model_fields, *(name for same in _same_names(body) for name in same)})


class Body(Checked):
    """Base class of all request bodies.

    :param model: the model's name; None for the server's first model.
    """

    model: str | None = None

    def call(self) -> Call:
        """Convert the request to a :class:`Call`."""
        raise NotImplementedError

    def answer(self, scored: Scored) -> Any:
        """Format the scores as the client expects them."""
        raise NotImplementedError
