"""Base of the request bodies: the keys that they may have, and the form that all of them are converted to."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from functools import cache
from typing import Annotated, Any, Literal

from pydantic import AliasChoices, BaseModel, Field, field_validator, model_validator

from milvus_rerank.scoring import Request
from milvus_rerank.scoring.encoder import Span
from milvus_rerank.scoring.prepared import TokenLimits

Scale = Literal["model", "sigmoid", "raw"]
"""The requested scores: the model's default scores in this package, scores between 0 and 1, or logits."""

Texts = Annotated[list[str], Field(fail_fast=True)]
"""Texts; the check stops at the first that is none, for each error takes more memory than a text."""
Count = Annotated[int | None, Field(ge=0, description="How many results; 0 or absent for all.")]
TOP_N: Any = Field(None, validation_alias=AliasChoices("top_n", "top_k"))
RETURN_DOCUMENTS: Any = Field(None, validation_alias=AliasChoices("return_documents", "return_text"))
INSTRUCTION: Any = Field(None, validation_alias=AliasChoices("instruction", "instruct"))
Tokens = Annotated[int | None, Field(ge=0, description="The most tokens; 0 or absent for the model's limit.")]


@dataclass(frozen=True, slots=True)
class Call:
    """A request in one form, independent of the service's format.

    :param requests: queries with their documents.
    :param top_k: the number of results to return; None for all.
    :param scale: the scores to return.
    :param limits: token limits of this request; None for the model's limits.
    :param instruction: says what is relevant; None or empty for the model's default.
    :param with_spans: whether to return the parts of long documents that have their scores.
    """

    requests: list[Request]
    top_k: int | None = None
    scale: Scale = "model"
    limits: TokenLimits | None = None
    instruction: str | None = None
    with_spans: bool = False


@dataclass(frozen=True, slots=True)
class Scored:
    """Scores of a request's documents.

    :param model: the model's name.
    :param scores: one score per document, in input order.
    :param order: positions of the documents to return, best first.
    :param tokens: the number of tokens that the model read.
    :param spans: for the positions of long documents in ``order``, the part that has the score, if it was asked for.
    """

    model: str
    scores: Sequence[float]
    order: Sequence[int]
    tokens: int
    spans: Mapping[int, Span] = field(default_factory=dict)


IGNORED = frozenset(
    {
        "cache_salt", "encoding_format", "id", "late_interaction", "max_chunk_per_doc", "max_chunks_per_doc", "options",
        "overlap", "overlap_tokens", "priority", "request_id", "timeout", "truncate", "truncation", "user",
    }
)  # fmt: skip
"""Keys of services that change nothing here: the server truncates texts that are too long."""

_OWN_PROMPT = "scores are those of the model's own prompt"
REFUSED = {
    "chat_template": _OWN_PROMPT,
    "chat_template_kwargs": _OWN_PROMPT,
    "max_tokens_per_query": "queries are cut at the model's limit alone",
    "mm_processor_kwargs": "documents are texts",
    "padding": "texts are padded as little as possible",
    "prompt_name": _OWN_PROMPT,
    "return_embeddings": "a reranker has none",
}
"""Keys of services that would change the answer and cannot be obeyed, with the reason. Their defaults are taken."""
_DEFAULTS = (None, False, 0, "", "do_not_pad")  # 0: no limit; an empty object counts, too

ENGINE_KEYS = frozenset(
    {
        "max_tokens_per_doc", "raw_scores", "truncate_prompt_tokens", "truncation_direction", "truncation_side",
        "use_activation",
    }
)  # fmt: skip
"""Fields that only a model can obey for which the server itself tokenises and activates."""


class Checked(BaseModel):
    """Base class of JSON objects whose keys are checked."""

    @model_validator(mode="before")
    @classmethod
    def _check_keys(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        names = _names(cls)
        for key, value in values.items():
            if key in REFUSED and key not in names:
                if value not in _DEFAULTS and value != {}:
                    raise ValueError(f"the key {key!r} cannot be obeyed: {REFUSED[key]}; leave it out")
            elif key not in names and key not in IGNORED:
                near = get_close_matches(key[:50], names, 1)
                advice = f"did you mean {near[0]!r}?" if near else f"expected {', '.join(sorted(names))}"
                raise ValueError(f"unknown key {key[:50]!r}; {advice}")
        for same in _same_names(cls):
            given = [name for name in same if values.get(name) is not None]
            if len(given) > 1 and values[given[0]] != values[given[1]]:
                raise ValueError(f"{given[0]!r} and {given[1]!r} mean the same and differ; send one of them")
            if given:  # pydantic takes the first name, also if it is null
                values = {key: value for key, value in values.items() if key not in same or value is not None}
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


def set_keys(body: Checked) -> set[str]:
    """Return the names of the fields that a request sets, those of its parts included."""
    parts = [value for name in body.model_fields_set if isinstance(value := getattr(body, name), Checked)]
    return body.model_fields_set.union(*map(set_keys, parts))


class Body(Checked):
    """Base class of all request bodies.

    :param model: the model's name; None for the server's first model.
    :param instruction: says what is relevant, for a model that takes instructions; None or empty for its default.
    """

    model: str | None = None
    instruction: str | None = INSTRUCTION

    def call(self) -> Call:
        """Convert the request to a :class:`Call`."""
        raise NotImplementedError

    def answer(self, scored: Scored) -> Any:
        """Format the scores as the client expects them."""
        raise NotImplementedError


class VllmBody(Body):
    """Base class of the requests that vLLM answers, too.

    :param max_tokens_per_doc: the most tokens of a document.
    :param truncate_prompt_tokens: the most tokens of a query with a document.
    :param truncation_side: the end at which texts that are too long are cut; None for the end of the text.
    :param use_activation: whether scores go through the model's activation; False for logits, None for the scores that
        the reranker gives in Python.
    """

    max_tokens_per_doc: Tokens = None
    truncate_prompt_tokens: Annotated[int | None, Field(ge=-1, description="-1 for the model's limit.")] = None
    truncation_side: Literal["left", "right"] | None = None
    use_activation: bool | None = Field(
        None, validation_alias=AliasChoices("use_activation", "activation", "softmax")
    )  # the later names are those of vLLM before 0.15

    @field_validator("truncate_prompt_tokens")
    @classmethod
    def _check_truncate(cls, tokens: int | None) -> int | None:
        if tokens == 0:
            raise ValueError("0 would leave no text; -1 or absent is the model's limit")
        return tokens

    def call_for(self, requests: list[Request], top_k: int | None = None) -> Call:
        """Return the :class:`Call` for queries with their documents, with this request's scale and token limits."""
        pair = None if self.truncate_prompt_tokens == -1 else self.truncate_prompt_tokens
        limits = TokenLimits(self.max_tokens_per_doc or None, pair, self.truncation_side == "left")
        scale: Scale = "raw" if self.use_activation is False else "model"
        return Call(requests, top_k or None, scale, None if limits == TokenLimits() else limits)
