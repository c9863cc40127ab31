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

from milvus_rerank.scoring import Request
from milvus_rerank.scoring.prepared import TokenLimits

Scale = Literal["model", "sigmoid", "raw"]
"""The requested scores: the model's default scores in this package, scores between 0 and 1, or logits."""

Count = Annotated[int | None, Field(ge=0, description="How many results; 0 or absent for all.")]
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


class Body(BaseModel):
    """Base class of all request bodies.

    :param model: the model's name; None for the server's first model.
    """

    model_config = ConfigDict(extra="ignore")
    model: str | None = None

    def call(self) -> Call:
        """Convert the request to a :class:`Call`."""
        raise NotImplementedError

    def answer(self, scored: Scored) -> Any:
        """Format the scores as the client expects them."""
        raise NotImplementedError


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
        return Call([(self.query, self.texts)], scale="raw" if self.raw_scores else "sigmoid", limits=limits)

    def answer(self, scored: Scored) -> list[TeiResult]:
        """Format the scores as the client expects them."""
        results: list[TeiResult] = [{"index": index, "score": scored.scores[index]} for index in scored.order]
        if self.return_text:
            for result in results:
                result["text"] = self.texts[result["index"]]
        return results


class RerankRequest(Body):
    """Request to ``/rerank`` and ``/v1/rerank`` of Jina, vLLM, infinity, SiliconFlow and Cohere v1.

    Milvus' ``vllm`` and ``siliconflow`` providers send it.
    """

    query: str
    documents: list[str | dict[str, Any]]
    top_n: Count = None
    return_documents: bool | None = None
    rank_fields: list[str] | None = None
    raw_scores: bool = False
    max_tokens_per_doc: Tokens = None
    truncate_prompt_tokens: Annotated[int | None, Field(ge=-1, description="vLLM's; -1 for the model's limit.")] = None

    def call(self) -> Call:
        """Convert the request to a :class:`Call`."""
        texts = [self._text(document) for document in self.documents]
        pair = None if self.truncate_prompt_tokens == -1 else self.truncate_prompt_tokens
        return Call(
            [(self.query, texts)],
            self.top_n or None,
            "raw" if self.raw_scores else "model",
            _limits(self.max_tokens_per_doc, pair),
        )

    def answer(self, scored: Scored) -> RerankAnswer:
        """Format the scores as the client expects them."""
        documents = self.documents if self.return_documents else ()
        return _rerank_answer(scored, [{"text": text} if isinstance(text, str) else text for text in documents])

    def _text(self, document: str | dict[str, Any]) -> str:
        """Return a document's text; with ``rank_fields``, the values of those fields of an object, one per line."""
        if isinstance(document, str):
            return document
        values = [document.get(name) for name in self.rank_fields or ["text"]]
        return "\n".join(str(value) for value in values if value is not None)


class CohereRequest(Body):
    """Request to Cohere's ``/v2/rerank``; Milvus' and Milvus Lite's ``cohere`` provider send it."""

    query: str
    documents: list[str]
    top_n: Count = None
    max_tokens_per_doc: Tokens = None

    def call(self) -> Call:
        """Convert the request to a :class:`Call`."""
        return Call([(self.query, self.documents)], self.top_n or None, limits=_limits(self.max_tokens_per_doc))

    def answer(self, scored: Scored) -> RerankAnswer:
        """Format the scores as the client expects them."""
        return _rerank_answer(scored)


class VoyageRequest(Body):
    """Request to Voyage's ``/v1/rerank``, served here under ``/voyage``; Milvus' ``voyageai`` provider sends it."""

    query: str
    documents: list[str]
    top_k: Count = None
    return_documents: bool = False

    def call(self) -> Call:
        """Convert the request to a :class:`Call`."""
        return Call([(self.query, self.documents)], self.top_k or None)

    def answer(self, scored: Scored) -> VoyageAnswer:
        """Format the scores as the client expects them."""
        data = _results(scored, self.documents if self.return_documents else ())
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
    parameters: DashScopeParameters = DashScopeParameters()

    def call(self) -> Call:
        """Convert the request to a :class:`Call`."""
        return Call([(self.input.query, self.input.documents)], self.parameters.top_n or None)

    def answer(self, scored: Scored) -> DashScopeAnswer:
        """Format the scores as the client expects them."""
        documents = [{"text": text} for text in self.input.documents if self.parameters.return_documents]
        usage = {"total_tokens": scored.tokens}
        return {"request_id": str(uuid.uuid4()), "output": {"results": _results(scored, documents)}, "usage": usage}


class SimilarityInputs(BaseModel):
    """The texts of a sentence-similarity request."""

    source_sentence: str
    sentences: list[str]


class SimilarityRequest(Body):
    """Request to Hugging Face's sentence-similarity pipeline; Milvus' ``huggingface`` provider sends it.

    The URL path holds the model's name.
    """

    inputs: SimilarityInputs

    def call(self) -> Call:
        """Convert the request to a :class:`Call`."""
        return Call([(self.inputs.source_sentence, self.inputs.sentences)])

    def answer(self, scored: Scored) -> list[float]:
        """Return the scores in the order of the sentences, as the client expects them."""
        return list(scored.scores)


def _format_of(body: Any) -> str:
    has_texts = "texts" in body if isinstance(body, Mapping) else isinstance(body, TeiRequest)
    return "texts" if has_texts else "documents"


AnyRequest = Annotated[
    Annotated[TeiRequest, Tag("texts")] | Annotated[RerankRequest, Tag("documents")], Discriminator(_format_of)
]
"""The body of ``/rerank``: with ``texts`` in the format of text-embeddings-inference, else in that of the others."""


def _limits(document: int | None, pair: int | None = None) -> TokenLimits | None:
    return None if document is None and pair is None else TokenLimits(document, pair)


def _results(scored: Scored, documents: Sequence[Any] = ()) -> list[Result]:
    """Return the results, best first, with the documents if they are given."""
    results: list[Result] = [{"index": index, "relevance_score": scored.scores[index]} for index in scored.order]
    if documents:
        for result in results:
            result["document"] = documents[result["index"]]
    return results


def _rerank_answer(scored: Scored, documents: Sequence[Any] = ()) -> RerankAnswer:
    return {
        "id": f"rerank-{uuid.uuid4().hex}",
        "object": "rerank",
        "model": scored.model,
        "results": _results(scored, documents),
        "usage": {"prompt_tokens": scored.tokens, "total_tokens": scored.tokens},
        "meta": {"api_version": {"version": "2"}, "billed_units": {"search_units": 1}},
    }
