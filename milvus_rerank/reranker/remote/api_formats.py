"""The JSON of rerank services: what each is sent, and how its answer is read.

Sources: the API references of Cohere, Jina, Voyage, SiliconFlow and DashScope, text-embeddings-inference
(router/src/http/types.rs), vLLM and infinity. All documents are always asked for, by their number where a service takes
one: some gateways return only a few unless told, and a document without a score would be lost.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

_SHOWN = 60


class UnreadableError(ValueError):
    """An answer is not what its dialect says; the message is what is wrong with it."""


@dataclass(frozen=True, slots=True)
class Question:
    """One query with some documents.

    :param query: the query.
    :param documents: the documents' texts.
    :param model: the model's name; None to leave it to the service.
    :param parameters: more keys, of the service's own.
    """

    query: str
    documents: Sequence[str]
    model: str | None
    parameters: Mapping[str, Any]

    @property
    def named(self) -> dict[str, Any]:
        """The model's name as JSON, if there is one."""
        return {} if self.model is None else {"model": self.model}


@dataclass(frozen=True, slots=True)
class Dialect:
    """How a kind of service is asked.

    :param name: what users type.
    :param path: its route, below the address of the service.
    :param max_documents: how many documents one request may have where nothing else is known.
    :param body: makes a request's JSON.
    :param rows: the keys that lead to the list of results in an answer.
    :param score: the key of a result's score.
    """

    name: str
    path: str
    max_documents: int
    body: Callable[[Question], dict[str, Any]]
    rows: tuple[str, ...]
    score: str = "relevance_score"

    def read(self, answer: Any, count: int) -> list[float]:
        """Return the scores in an answer, in the order of the documents.

        :param answer: the JSON, parsed.
        :param count: how many documents were sent.
        :returns: one finite number for each.
        :raises UnreadableError: if it has another form, or not one score for each document.
        """
        scores: dict[int, float] = {}
        for place, row in enumerate(self._rows(answer)):
            if not isinstance(row, dict):
                raise UnreadableError(f"its result {place} is {_show(row)}, expected an object")
            index = row.get("index")
            if type(index) is not int or not 0 <= index < count:
                raise UnreadableError(f"its result {place} has the index {_show(index)}, expected 0 to {count - 1}")
            if index in scores:
                raise UnreadableError(f"it has document {index} twice")
            scores[index] = _number(row.get(self.score), f"{self.score} of document {index}")
        missing = [index for index in range(count) if index not in scores]
        if missing:
            named = ", ".join(map(str, missing[:5])) + (f" and {len(missing) - 5} more" if len(missing) > 5 else "")
            raise UnreadableError(f"{len(missing)} of {count} documents have no score: {named}")
        return [scores[index] for index in range(count)]

    def _rows(self, answer: Any) -> list[Any]:
        rows = answer
        for key in self.rows:
            rows = rows.get(key) if isinstance(rows, dict) else None
        if isinstance(rows, list):
            return rows
        held = f"an object with {', '.join(map(repr, answer)) or 'no keys'}" if isinstance(answer, dict) else ""
        wanted = f"the list {'.'.join(self.rows)!r}" if self.rows else "a list"
        raise UnreadableError(f"expected {wanted} of results, got {(held or _show(answer))[:200]}")


def _cohere(ask: Question) -> dict[str, Any]:
    found = {"query": ask.query, "documents": list(ask.documents), "top_n": len(ask.documents)}
    return ask.named | found | dict(ask.parameters)


def _jina(ask: Question) -> dict[str, Any]:
    return {"return_documents": False} | _cohere(ask)


def _voyage(ask: Question) -> dict[str, Any]:
    found = {"query": ask.query, "documents": list(ask.documents), "top_k": len(ask.documents)}
    return ask.named | found | {"return_documents": False} | dict(ask.parameters)


def _tei(ask: Question) -> dict[str, Any]:
    return {"query": ask.query, "texts": list(ask.documents), "return_text": False} | dict(ask.parameters)


def _dashscope(ask: Question) -> dict[str, Any]:
    given = {"query": ask.query, "documents": list(ask.documents)}
    parameters = {"top_n": len(ask.documents), "return_documents": False} | dict(ask.parameters)
    return ask.named | {"input": given, "parameters": parameters}


COHERE = Dialect("cohere", "v2/rerank", 1000, _cohere, ("results",))
JINA = Dialect("jina", "v1/rerank", 1000, _jina, ("results",))
VOYAGE = Dialect("voyage", "v1/rerank", 1000, _voyage, ("data",))
TEI = Dialect("tei", "rerank", 32, _tei, (), "score")
DASHSCOPE = Dialect(
    "dashscope", "api/v1/services/rerank/text-rerank/text-rerank", 500, _dashscope, ("output", "results")
)

DIALECTS: Mapping[str, Dialect] = {
    **{dialect.name: dialect for dialect in (COHERE, JINA, VOYAGE, TEI, DASHSCOPE)},
    **dict.fromkeys(("vllm", "infinity", "siliconflow"), JINA),  # they took over its JSON
}
"""The dialects by the names that users may type."""


def _number(value: Any, name: str) -> float:
    number = math.nan
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        try:
            number = float(value)
        except OverflowError:  # JSON's integers have no limit
            number = math.inf
    if not math.isfinite(number):
        raise UnreadableError(f"the {name} is {_show(value)}, expected a finite number")
    return number


def _show(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= _SHOWN else text[: _SHOWN - 3] + "..."
