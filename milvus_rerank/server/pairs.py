"""Request and response of vLLM's ``/score``: pairs instead of one query with its documents."""

import time
import uuid

from pydantic import PrivateAttr, model_validator
from typing_extensions import TypedDict

from milvus_rerank.scoring import Request
from milvus_rerank.server.api_formats import Usage
from milvus_rerank.server.body import Body, Call, Scored, Texts

Side = str | Texts


class ScoreResult(TypedDict):
    """Score of one pair."""

    index: int
    object: str
    score: float


class ScoreAnswer(TypedDict):
    """The response of vLLM's ``/score``."""

    id: str
    object: str
    created: int
    model: str
    data: list[ScoreResult]
    usage: Usage


class ScoreRequest(Body):
    """Request to ``/score``: one query with one or many documents, or equally many queries and documents."""

    queries: Side | None = None
    documents: Side | None = None
    text_1: Side | None = None
    text_2: Side | None = None
    items: Side | None = None

    _requests: list[Request] = PrivateAttr()  # one query with all documents, or query by query

    @model_validator(mode="after")
    def _pair_up(self) -> "ScoreRequest":
        first = next((side for side in (self.queries, self.text_1) if side is not None), None)
        second = next((side for side in (self.documents, self.items, self.text_2) if side is not None), None)
        if first is None or second is None:
            raise ValueError("expected queries and documents, or text_1 and text_2")
        queries, documents = ([side] if isinstance(side, str) else side for side in (first, second))
        if len(queries) not in (1, len(documents)):
            raise ValueError(f"got {len(queries)} queries for {len(documents)} documents; expected 1, or as many")
        pairs = zip(queries, documents, strict=False)
        self._requests = [(queries[0], documents)] if len(queries) == 1 else [(query, [text]) for query, text in pairs]
        return self

    def call(self) -> Call:
        """Convert the request to a :class:`Call`."""
        return Call(self._requests)

    def answer(self, scored: Scored) -> ScoreAnswer:
        """Format the scores as the client expects them."""
        return {
            "id": f"score-{uuid.uuid4().hex}",
            "object": "list",
            "created": int(time.time()),
            "model": scored.model,
            "data": [{"index": index, "object": "score", "score": score} for index, score in enumerate(scored.scores)],
            "usage": {"prompt_tokens": scored.tokens, "total_tokens": scored.tokens},
        }
