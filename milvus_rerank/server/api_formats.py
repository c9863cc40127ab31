"""Request and response JSON of each rerank service whose clients the server answers.

Each request class converts itself to a :class:`Call` and formats the scores as its service does. A key that no service
has is an error, and so is one that would change the answer and cannot be obeyed (``REFUSED``); keys that services have
and that change nothing here are ignored (``IGNORED``).

Sources: Milvus' model rankers (internal/util/function/models), text-embeddings-inference (router/src/http/types.rs),
vLLM (vllm/entrypoints/pooling), infinity, the cohere and voyageai SDKs, the API references of Jina, SiliconFlow and
DashScope.
"""

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Annotated, Any, Literal

from pydantic import AliasChoices, Discriminator, Field, Tag
from typing_extensions import NotRequired, TypedDict

from milvus_rerank.errors import InputError
from milvus_rerank.scoring import Request
from milvus_rerank.scoring.prepared import TokenLimits
from milvus_rerank.server.body import (
    RETURN_DOCUMENTS,
    TOP_N,
    Body,
    Call,
    Checked,
    Count,
    Scale,
    Scored,
    Texts,
    VllmBody,
)

RANK_FIELDS = 100
"""The most fields of a document that make its text."""


Direction = Literal["Left", "Right", "left", "right"]
"""The end at which text-embeddings-inference cuts texts that are too long."""


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
    span: NotRequired[tuple[int, int]]


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
    texts: Texts
    top_n: Count = TOP_N
    raw_scores: bool = False
    return_text: Annotated[bool | None, RETURN_DOCUMENTS] = None
    truncate: bool | None = None
    truncation_direction: Direction = "Right"

    def call(self) -> Call:
        """Convert the request to a :class:`Call`."""
        limits = _direction(self.truncation_direction)
        scale: Scale = "raw" if self.raw_scores else "sigmoid"
        return Call([(self.query, self.texts)], self.top_n or None, scale, limits)

    def answer(self, scored: Scored) -> list[TeiResult]:
        """Format the scores as the client expects them."""
        results: list[TeiResult] = [{"index": index, "score": scored.scores[index]} for index in scored.order]
        if self.return_text:
            for result in results:
                result["text"] = self.texts[result["index"]]
        return results


class RerankRequest(VllmBody):
    """Request to ``/rerank`` and ``/v1/rerank`` of Jina, vLLM, infinity, SiliconFlow and Cohere v1.

    Milvus' ``vllm`` and ``siliconflow`` providers send it.
    """

    query: str
    documents: Annotated[list[str | dict[str, Any]], Field(fail_fast=True)]
    top_n: Count = TOP_N
    return_documents: bool | None = RETURN_DOCUMENTS
    rank_fields: Annotated[list[str], Field(min_length=1, max_length=RANK_FIELDS)] | None = None
    raw_scores: bool = False
    return_spans: bool = False

    def call(self) -> Call:
        """Convert the request to a :class:`Call`."""
        if self.raw_scores and self.use_activation:
            raise InputError("'raw_scores' and 'use_activation' contradict each other; send one of them")
        texts = [
            document if isinstance(document, str) else self._text(document, index)
            for index, document in enumerate(self.documents)
        ]
        call = self.call_for([(self.query, texts)], self.top_n)
        if not (self.raw_scores or self.return_spans):
            return call
        return replace(call, scale="raw" if self.raw_scores else call.scale, with_spans=self.return_spans)

    def answer(self, scored: Scored) -> RerankAnswer:
        """Format the scores as the client expects them."""
        documents = self.documents if self.return_documents else ()
        return _rerank_answer(scored, [{"text": text} if isinstance(text, str) else text for text in documents])

    def _text(self, document: dict[str, Any], index: int) -> str:
        """Return an object's text; with ``rank_fields``, the values of those fields, one per line."""
        fields = list(dict.fromkeys(self.rank_fields or ["text"]))
        values = [value for name in fields if (value := document.get(name)) is not None]
        if not values or not all(isinstance(value, (str, int, float)) for value in values):
            kind = "text" if not values else "text or number"
            keys = ", ".join(repr(key[:50]) for key in list(document)[:10]) or "none"
            raise InputError(
                f"documents[{index}] has no {kind} in {', '.join(map(repr, fields))[:200]}; its keys are {keys}. "
                "Send a string, an object with 'text', or 'rank_fields' with the names of the fields to read"
            )
        return "\n".join(map(str, values))


class CohereRequest(VllmBody):
    """Request to ``/v2/rerank`` of Cohere and vLLM; Milvus' and Milvus Lite's ``cohere`` provider send it."""

    query: str
    documents: Texts
    top_n: Count = TOP_N
    return_documents: bool | None = RETURN_DOCUMENTS

    def call(self) -> Call:
        """Convert the request to a :class:`Call`."""
        return self.call_for([(self.query, self.documents)], self.top_n)

    def answer(self, scored: Scored) -> RerankAnswer:
        """Format the scores as the client expects them; Cohere's API v2 itself returns no documents."""
        return _rerank_answer(scored, [{"text": text} for text in self.documents if self.return_documents])


class VoyageRequest(Body):
    """Request to Voyage's ``/v1/rerank``, served here under ``/voyage``; Milvus' ``voyageai`` provider sends it."""

    query: str
    documents: Texts
    top_k: Count = Field(None, validation_alias=AliasChoices("top_k", "top_n"))
    return_documents: bool | None = RETURN_DOCUMENTS

    def call(self) -> Call:
        """Convert the request to a :class:`Call`."""
        return Call([(self.query, self.documents)], self.top_k or None)

    def answer(self, scored: Scored) -> VoyageAnswer:
        """Format the scores as the client expects them."""
        data = _results(scored, self.documents if self.return_documents else ())
        return {"object": "list", "data": data, "model": scored.model, "usage": {"total_tokens": scored.tokens}}


class DashScopeInput(Checked):
    """The texts of a DashScope request."""

    query: str
    documents: Texts


class DashScopeParameters(Checked):
    """The options of a DashScope request."""

    top_n: Count = TOP_N
    return_documents: bool | None = RETURN_DOCUMENTS
    instruct: str | None = None


class DashScopeRequest(Body):
    """Request to DashScope's text-rerank; Milvus' ``ali`` provider sends it."""

    input: DashScopeInput
    parameters: DashScopeParameters = DashScopeParameters()

    def call(self) -> Call:
        """Convert the request to a :class:`Call`."""
        requests: list[Request] = [(self.input.query, self.input.documents)]
        return Call(requests, self.parameters.top_n or None, instruction=self.parameters.instruct)

    def answer(self, scored: Scored) -> DashScopeAnswer:
        """Format the scores as the client expects them."""
        documents = [{"text": text} for text in self.input.documents if self.parameters.return_documents]
        usage = {"total_tokens": scored.tokens}
        return {"request_id": str(uuid.uuid4()), "output": {"results": _results(scored, documents)}, "usage": usage}


class SimilarityInputs(Checked):
    """The texts of a sentence-similarity request."""

    source_sentence: str
    sentences: Texts


class SimilarityParameters(Checked):
    """The options of a sentence-similarity request."""

    truncate: bool | None = None
    truncation_direction: Direction = "Right"


class SimilarityRequest(Body):
    """Request to Hugging Face's sentence-similarity pipeline; Milvus' ``huggingface`` provider sends it.

    The URL path holds the model's name.
    """

    inputs: SimilarityInputs
    parameters: SimilarityParameters | None = None

    def call(self) -> Call:
        """Convert the request to a :class:`Call`."""
        limits = _direction(self.parameters.truncation_direction) if self.parameters else None
        return Call([(self.inputs.source_sentence, self.inputs.sentences)], limits=limits)

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


def _direction(direction: Direction) -> TokenLimits | None:
    return TokenLimits(left=True) if direction.lower() == "left" else None


def _results(scored: Scored, documents: Sequence[Any] = ()) -> list[Result]:
    """Return the results, best first, with the documents if they are given."""
    results: list[Result] = [{"index": index, "relevance_score": scored.scores[index]} for index in scored.order]
    if documents:
        for result in results:
            result["document"] = documents[result["index"]]
    for result in results if scored.spans else ():
        if result["index"] in scored.spans:
            result["span"] = scored.spans[result["index"]]
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
