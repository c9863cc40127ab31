"""Request and response of vLLM's ``/score``: pairs instead of one query with its documents."""

import time
import uuid

from pydantic import model_validator
from typing_extensions import TypedDict

from milvus_rerank.server.api_formats import Body, Call, Scored, Usage

Side = str | list[str]


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

    @model_validator(mode="after")
    def _check_counts(self) -> "ScoreRequest":
        queries, documents = self._sides()
        if len(queries) not in (1, len(documents)):
            raise ValueError(f"got {len(queries)} queries for {len(documents)} documents; expected 1, or as many")
        return self

    def call(self) -> Call:
        """Convert the request to a :class:`Call`: one query with all documents, or query by query."""
        queries, documents = self._sides()
        if len(queries) == 1:
            return Call([(queries[0], documents)])
        return Call([(query, [document]) for query, document in zip(queries, documents, strict=True)])

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

    def _sides(self) -> tuple[list[str], list[str]]:
        """Return queries and documents, under any of their names."""
        first = next((side for side in (self.queries, self.text_1) if side is not None), None)
        second = next((side for side in (self.documents, self.items, self.text_2) if side is not None), None)
        if first is None or second is None:
            raise ValueError("expected queries and documents, or text_1 and text_2")
        return ([first] if isinstance(first, str) else first), ([second] if isinstance(second, str) else second)
