"""The JSON of each service whose clients may ask: what they send, and what they expect back.

A body says what it asks for as a :class:`Call` and puts scores into its own answer. Unknown keys are ignored, as those
services do, because clients send more than they document.

Sources: Milvus' model rankers (internal/util/function/models), text-embeddings-inference (router/src/http/types.rs),
vLLM (vllm/entrypoints), infinity, the cohere and voyageai SDKs, the API references of Jina, SiliconFlow and DashScope.
"""

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag
from typing_extensions import NotRequired, TypedDict

from milvus_rerank.results import json_safe
from milvus_rerank.scoring.scorer import TokenLimits

Scale = Literal["model", "sigmoid", "raw"]
"""Which scores are asked for: those this package gives for the model, between 0 and 1, or logits."""

Count = Annotated[int | None, Field(ge=0, description="How many results; 0 or absent for all.")]
Tokens = Annotated[int | None, Field(ge=1, description="The most tokens; absent for the model's limit.")]


@dataclass(frozen=True, slots=True)
class Call:
    """What a body asks for, in this package's words.

    :param model: the model's name; None for the server's first.
    :param query: the query.
    :param documents: the documents' texts.
    :param top_k: how many results to return; None for all.
    :param scale: which scores.
    :param limits: limits of this request; None for the model's own.
    """

    model: str | None
    query: str
    documents: list[str]
    top_k: int | None = None
    scale: Scale = "model"
    limits: TokenLimits | None = None


@dataclass(frozen=True, slots=True)
class Scored:
    """What the model said.

    :param model: the model's name.
    :param scores: one for each document, in their order.
    :param order: the documents to return, best first.
    :param tokens: how many tokens were read.
    """

    model: str
    scores: Sequence[float]
    order: Sequence[int]
    tokens: int


class Body(BaseModel):
    """A request's JSON."""

    model_config = ConfigDict(extra="ignore")


class TextDocument(BaseModel):
    """A document as an object; Cohere v1 and Jina take these beside strings."""

    model_config = ConfigDict(extra="allow")
    text: str = ""


class Usage(TypedDict):
    """Tokens that were read."""

    prompt_tokens: int
    total_tokens: int


class TeiResult(TypedDict):
    """One result of text-embeddings-inference."""

    index: int
    score: float
    text: NotRequired[str]


class Result(TypedDict):
    """One result of all others."""

    index: int
    relevance_score: float
    document: NotRequired[dict[str, Any] | str]


class RerankAnswer(TypedDict):
    """The answer of Jina, vLLM, infinity, SiliconFlow and Cohere."""

    id: str
    object: str
    model: str
    results: list[Result]
    usage: Usage
    meta: dict[str, Any]


class VoyageAnswer(TypedDict):
    """The answer of Voyage."""

    object: str
    data: list[Result]
    model: str
    usage: dict[str, int]


class DashScopeAnswer(TypedDict):
    """The answer of DashScope."""

    request_id: str
    output: dict[str, list[Result]]
    usage: dict[str, int]


class TeiRequest(Body):
    """text-embeddings-inference's ``/rerank``; Milvus' ``tei`` provider sends it.

    Texts that are too long are always limits, whatever ``truncate`` says: to fail helps nobody who searches.
    """

    query: str
    texts: list[str]
    raw_scores: bool = False
    return_text: bool = False
    truncate: bool = False
    truncation_direction: Literal["Left", "Right", "left", "right"] = "Right"

    def call(self) -> Call:
        """Return what is asked for."""
        limits = TokenLimits(left=True) if self.truncation_direction.lower() == "left" else None
        return Call(None, self.query, self.texts, scale="raw" if self.raw_scores else "sigmoid", limits=limits)

    def answer(self, scored: Scored) -> list[TeiResult]:
        """Return what the client expects."""
        made: list[TeiResult] = [{"index": place, "score": scored.scores[place]} for place in scored.order]
        if self.return_text:
            for row in made:
                row["text"] = self.texts[row["index"]]
        return made


class RerankRequest(Body):
    """``/rerank`` and ``/v1/rerank`` of Jina, vLLM, infinity, SiliconFlow and Cohere v1.

    Milvus' ``vllm`` and ``siliconflow`` providers send it.
    """

    query: str
    documents: list[str | TextDocument]
    model: str | None = None
    top_n: Count = None
    return_documents: bool | None = None
    rank_fields: list[str] | None = None
    raw_scores: bool = False
    max_tokens_per_doc: Tokens = None
    truncate_prompt_tokens: Annotated[int | None, Field(ge=-1, description="vLLM's; -1 for the model's limit.")] = None

    def call(self) -> Call:
        """Return what is asked for."""
        texts = [_text(document, self.rank_fields) for document in self.documents]
        pair = None if self.truncate_prompt_tokens == -1 else self.truncate_prompt_tokens
        limits = (
            None if self.max_tokens_per_doc is None and pair is None else TokenLimits(self.max_tokens_per_doc, pair)
        )
        return Call(self.model, self.query, texts, self.top_n or None, "raw" if self.raw_scores else "model", limits)

    def answer(self, scored: Scored) -> RerankAnswer:
        """Return what the client expects."""
        results = _results(scored)
        if self.return_documents:
            for row in results:
                given = self.documents[row["index"]]
                row["document"] = {"text": given} if isinstance(given, str) else json_safe(given.model_dump())
        return _rerank_answer(scored, results)


class CohereRequest(Body):
    """Cohere's ``/v2/rerank``; Milvus' and Milvus Lite's ``cohere`` provider send it."""

    query: str
    documents: list[str]
    model: str | None = None
    top_n: Count = None
    max_tokens_per_doc: Tokens = None

    def call(self) -> Call:
        """Return what is asked for."""
        limits = None if self.max_tokens_per_doc is None else TokenLimits(self.max_tokens_per_doc)
        return Call(self.model, self.query, self.documents, self.top_n or None, limits=limits)

    def answer(self, scored: Scored) -> RerankAnswer:
        """Return what the client expects."""
        return _rerank_answer(scored, _results(scored))


class VoyageRequest(Body):
    """Voyage's ``/v1/rerank``; Milvus' ``voyageai`` provider sends it. Here under ``/voyage``."""

    query: str
    documents: list[str]
    model: str | None = None
    top_k: Count = None
    return_documents: bool = False

    def call(self) -> Call:
        """Return what is asked for."""
        return Call(self.model, self.query, self.documents, self.top_k or None)

    def answer(self, scored: Scored) -> VoyageAnswer:
        """Return what the client expects."""
        data = _results(scored)
        if self.return_documents:
            for row in data:
                row["document"] = self.documents[row["index"]]
        return {"object": "list", "data": data, "model": scored.model, "usage": {"total_tokens": scored.tokens}}


class DashScopeInput(BaseModel):
    """The texts of a DashScope request."""

    query: str
    documents: list[str]


class DashScopeParameters(BaseModel):
    """The options of a DashScope request."""

    top_n: Count = None
    return_documents: bool = False


class DashScopeRequest(Body):
    """DashScope's text-rerank; Milvus' ``ali`` provider sends it."""

    input: DashScopeInput
    model: str | None = None
    parameters: DashScopeParameters = DashScopeParameters()

    def call(self) -> Call:
        """Return what is asked for."""
        return Call(self.model, self.input.query, self.input.documents, self.parameters.top_n or None)

    def answer(self, scored: Scored) -> DashScopeAnswer:
        """Return what the client expects."""
        results = _results(scored)
        if self.parameters.return_documents:
            for row in results:
                row["document"] = {"text": self.input.documents[row["index"]]}
        usage = {"total_tokens": scored.tokens}
        return {"request_id": str(uuid.uuid4()), "output": {"results": results}, "usage": usage}


class SimilarityInputs(BaseModel):
    """The texts of a sentence-similarity request."""

    source_sentence: str
    sentences: list[str]


class SimilarityRequest(Body):
    """Hugging Face's sentence-similarity pipeline; Milvus' ``huggingface`` provider sends it."""

    inputs: SimilarityInputs

    def call(self, model: str) -> Call:
        """Return what is asked for; the model's name is in the path."""
        return Call(model, self.inputs.source_sentence, self.inputs.sentences)

    def answer(self, scored: Scored) -> list[float]:
        """Return what the client expects: numbers in the order of the sentences."""
        return list(scored.scores)


def _kind(body: Any) -> str:
    texts = "texts" in body if isinstance(body, Mapping) else isinstance(body, TeiRequest)
    return "texts" if texts else "documents"


AnyRequest = Annotated[
    Annotated[TeiRequest, Tag("texts")] | Annotated[RerankRequest, Tag("documents")], Discriminator(_kind)
]
"""The body of ``/rerank``: one with ``texts`` is answered as text-embeddings-inference does, else as the others do."""


def _text(document: str | TextDocument, fields: Sequence[str] | None) -> str:
    """Return a document's text; with ``rank_fields`` those fields of an object, one a line."""
    if isinstance(document, str):
        return document
    if not fields:
        return document.text
    held = document.model_dump()
    return "\n".join(str(held[name]) for name in fields if held.get(name) is not None)


def _results(scored: Scored) -> list[Result]:
    return [{"index": place, "relevance_score": scored.scores[place]} for place in scored.order]


def _rerank_answer(scored: Scored, results: list[Result]) -> RerankAnswer:
    return {
        "id": f"rerank-{uuid.uuid4().hex}",
        "object": "rerank",
        "model": scored.model,
        "results": results,
        "usage": {"prompt_tokens": scored.tokens, "total_tokens": scored.tokens},
        "meta": {"api_version": {"version": "2"}, "billed_units": {"search_units": 1}},
    }
