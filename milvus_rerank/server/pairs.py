"""Request and response of vLLM's ``/score``: pairs instead of one query with its documents."""

import time
import uuid

from pydantic import PrivateAttr, model_validator
from typing_extensions import TypedDict

from milvus_rerank.scoring import Request
from milvus_rerank.server.api_formats import Usage
from milvus_rerank.server.body import Call, Scored, Texts, VllmBody

Side = str | Texts
SIDES = (("queries", "documents"), ("queries", "items"), ("text_1", "text_2"), ("data_1", "data_2"))
"""The names of queries and documents in vLLM's request; clients send one pair of them."""


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


class ScoreRequest(VllmBody):
    """Request to ``/score``: one query with one or many documents, or equally many queries and documents."""

    queries: Side | None = None
    documents: Side | None = None
    items: Side | None = None
    text_1: Side | None = None
    text_2: Side | None = None
    data_1: Side | None = None
    data_2: Side | None = None

    _requests: list[Request] = PrivateAttr()  # one query with all documents, or query by query

    @model_validator(mode="after")
    def _pair_up(self) -> "ScoreRequest":
        given = {name: side for names in SIDES for name in names if (side := getattr(self, name)) is not None}
        if tuple(given) not in SIDES:
            pairs = ", ".join(" and ".join(map(repr, names)) for names in SIDES)
            got = " and ".join(map(repr, given)) or "none of them"
            raise ValueError(f"expected one pair of {pairs}; got {got}")
        queries, documents = ([side] if isinstance(side, str) else side for side in given.values())
        if len(queries) not in (1, len(documents)):
            raise ValueError(f"got {len(queries)} queries for {len(documents)} documents; expected 1, or as many")
        if len(queries) == 1:
            self._requests = [(queries[0], documents)]
        else:
            self._requests = [(query, [text]) for query, text in zip(queries, documents, strict=True)]
        return self

    def call(self) -> Call:
        """Convert the request to a :class:`Call`."""
        return self.call_for(self._requests)

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
