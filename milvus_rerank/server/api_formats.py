"""Request and response JSON of each rerank service whose clients the server answers.

Each request class converts itself to a :class:`Call` and formats the scores as its service does. Unknown keys are
ignored, as those services do, because clients send more keys than the services document.

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
from milvus_rerank.scoring.prepared import TokenLimits

Scale = Literal["model", "sigmoid", "raw"]
"""The requested scores: the model's default scores in this package, scores between 0 and 1, or logits."""

Count = Annotated[int | None, Field(ge=0, description="How many results; 0 or absent for all.")]
Tokens = Annotated[int | None, Field(ge=1, description="The most tokens; absent for the model's limit.")]


@dataclass(frozen=True, slots=True)
class Call:
    """A rerank request in one form, independent of the service's format.

    :param model: the model's name; None for the server's first model.
    :param query: the query.
    :param documents: the documents' texts.
    :param top_k: the number of results to return; None for all.
    :param scale: the scores to return.
    :param limits: token limits of this request; None for the model's limits.
    """

    model: str | None
    query: str
    documents: list[str]
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


class Body(BaseModel):
    """Base class of all request bodies."""

    model_config = ConfigDict(extra="ignore")


class TextDocument(BaseModel):
    """A document as an object; Cohere v1 and Jina accept objects as well as strings."""

    model_config = ConfigDict(extra="allow")
    text: str = ""


class Usage(TypedDict):
    """Number of tokens that the model read."""

    prompt_tokens: int
    total_tokens: int


class TeiResult(TypedDict):
    """One result of text-embeddings-inference."""

    index: int
    score: float
    text: NotRequired[str]


class Result(TypedDict):
    """One result of all other services."""

    index: int
    relevance_score: float
    document: NotRequired[dict[str, Any] | str]


class RerankAnswer(TypedDict):
    """The response of Jina, vLLM, infinity, SiliconFlow and Cohere."""

    id: str
    object: str
    model: str
    results: list[Result]
    usage: Usage
    meta: dict[str, Any]


class VoyageAnswer(TypedDict):
    """The response of Voyage."""

    object: str
    data: list[Result]
    model: str
    usage: dict[str, int]


class DashScopeAnswer(TypedDict):
    """The response of DashScope."""

    request_id: str
    output: dict[str, list[Result]]
    usage: dict[str, int]


class TeiRequest(Body):
    """Request to text-embeddings-inference's ``/rerank``; Milvus' ``tei`` provider sends it.

    Texts that are too long are always truncated, even with ``truncate`` false: an error would not help a search.
    """

    query: str
    texts: list[str]
    raw_scores: bool = False
    return_text: bool = False
    truncate: bool = False
    truncation_direction: Literal["Left", "Right", "left", "right"] = "Right"

    def call(self) -> Call:
        """Convert the request to a :class:`Call`."""
        limits = TokenLimits(left=True) if self.truncation_direction.lower() == "left" else None
        return Call(None, self.query, self.texts, scale="raw" if self.raw_scores else "sigmoid", limits=limits)

    def answer(self, scored: Scored) -> list[TeiResult]:
        """Format the scores as the client expects them."""
        made: list[TeiResult] = [{"index": place, "score": scored.scores[place]} for place in scored.order]
        if self.return_text:
            for row in made:
                row["text"] = self.texts[row["index"]]
        return made


class RerankRequest(Body):
    """Request to ``/rerank`` and ``/v1/rerank`` of Jina, vLLM, infinity, SiliconFlow and Cohere v1.

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
        """Convert the request to a :class:`Call`."""
        texts = [_text(document, self.rank_fields) for document in self.documents]
        pair = None if self.truncate_prompt_tokens == -1 else self.truncate_prompt_tokens
        limits = (
            None if self.max_tokens_per_doc is None and pair is None else TokenLimits(self.max_tokens_per_doc, pair)
        )
        return Call(self.model, self.query, texts, self.top_n or None, "raw" if self.raw_scores else "model", limits)

    def answer(self, scored: Scored) -> RerankAnswer:
        """Format the scores as the client expects them."""
        results = _results(scored)
        if self.return_documents:
            for row in results:
                given = self.documents[row["index"]]
                row["document"] = {"text": given} if isinstance(given, str) else json_safe(given.model_dump())
        return _rerank_answer(scored, results)


class CohereRequest(Body):
    """Request to Cohere's ``/v2/rerank``; Milvus' and Milvus Lite's ``cohere`` provider send it."""

    query: str
    documents: list[str]
    model: str | None = None
    top_n: Count = None
    max_tokens_per_doc: Tokens = None

    def call(self) -> Call:
        """Convert the request to a :class:`Call`."""
        limits = None if self.max_tokens_per_doc is None else TokenLimits(self.max_tokens_per_doc)
        return Call(self.model, self.query, self.documents, self.top_n or None, limits=limits)

    def answer(self, scored: Scored) -> RerankAnswer:
        """Format the scores as the client expects them."""
        return _rerank_answer(scored, _results(scored))


class VoyageRequest(Body):
    """Request to Voyage's ``/v1/rerank``, served here under ``/voyage``; Milvus' ``voyageai`` provider sends it."""

    query: str
    documents: list[str]
    model: str | None = None
    top_k: Count = None
    return_documents: bool = False

    def call(self) -> Call:
        """Convert the request to a :class:`Call`."""
        return Call(self.model, self.query, self.documents, self.top_k or None)

    def answer(self, scored: Scored) -> VoyageAnswer:
        """Format the scores as the client expects them."""
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
    """Request to DashScope's text-rerank; Milvus' ``ali`` provider sends it."""

    input: DashScopeInput
    model: str | None = None
    parameters: DashScopeParameters = DashScopeParameters()

    def call(self) -> Call:
        """Convert the request to a :class:`Call`."""
        return Call(self.model, self.input.query, self.input.documents, self.parameters.top_n or None)

    def answer(self, scored: Scored) -> DashScopeAnswer:
        """Format the scores as the client expects them."""
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
    """Request to Hugging Face's sentence-similarity pipeline; Milvus' ``huggingface`` provider sends it."""

    inputs: SimilarityInputs

    def call(self, model: str) -> Call:
        """Convert the request to a :class:`Call`; the URL path holds the model's name."""
        return Call(model, self.inputs.source_sentence, self.inputs.sentences)

    def answer(self, scored: Scored) -> list[float]:
        """Return the scores in the order of the sentences, as the client expects them."""
        return list(scored.scores)


def _kind(body: Any) -> str:
    texts = "texts" in body if isinstance(body, Mapping) else isinstance(body, TeiRequest)
    return "texts" if texts else "documents"


AnyRequest = Annotated[
    Annotated[TeiRequest, Tag("texts")] | Annotated[RerankRequest, Tag("documents")], Discriminator(_kind)
]
"""The body of ``/rerank``: with ``texts`` in the format of text-embeddings-inference, else in that of the others."""


def _text(document: str | TextDocument, fields: Sequence[str] | None) -> str:
    """Return a document's text; with ``rank_fields``, the values of those fields of an object, one per line."""
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
