"""API formats of rerank services: build the JSON of requests, and read scores from answers.

Sources: the API references of Cohere, Jina, Voyage, SiliconFlow and DashScope, text-embeddings-inference
(router/src/http/types.rs), vLLM and infinity. Every request asks for the scores of all documents: some gateways return
only a few by default, and a document without a score would be lost.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

_MAX_SHOWN = 60


class InvalidAnswerError(ValueError):
    """An answer does not follow its API format; the message says where."""


@dataclass(frozen=True, slots=True)
class ApiFormat:
    """The JSON of one kind of service."""

    name: str
    path: str  # the route, relative to the service's address
    max_documents: int  # the default for the most documents of a request
    results: tuple[str, ...] = ("results",)  # the path of keys to the list of results in an answer
    score: str = "relevance_score"
    documents: str = "documents"
    count: str | None = "top_n"  # the key of the number of results; None if the service always returns all
    options: Mapping[str, Any] = field(default_factory=lambda: {"return_documents": False})
    nested: bool = False  # the texts are below "input", the rest is below "parameters"
    takes_model: bool = True

    def body(
        self, query: str, documents: Sequence[str], model: str | None, parameters: Mapping[str, Any]
    ) -> dict[str, Any]:
        """Return the JSON of a request."""
        texts: dict[str, Any] = {"query": query, self.documents: list(documents)}
        options = {**({self.count: len(documents)} if self.count else {}), **self.options, **parameters}
        body = {"input": texts, "parameters": options} if self.nested else texts | options
        return {"model": model, **body} if self.takes_model and model is not None else body

    def read(self, answer: Any, count: int, redact: Callable[[str], str] = str) -> list[float]:
        """Return a finite score for each of ``count`` documents, in input order, or raise InvalidAnswerError."""

        def show(value: Any) -> str:
            text = redact(repr(value))
            return text if len(text) <= _MAX_SHOWN else text[: _MAX_SHOWN - 3] + "..."

        scores: dict[int, float] = {}
        for position, result in enumerate(self._results(answer, redact)):
            if not isinstance(result, dict):
                raise InvalidAnswerError(f"its result {position} is {show(result)}, expected an object")
            index = result.get("index")
            if type(index) is not int or not 0 <= index < count:
                expected = f"expected 0 to {count - 1}"
                raise InvalidAnswerError(f"its result {position} has the index {show(index)}, {expected}")
            if index in scores:
                raise InvalidAnswerError(f"it has document {index} twice")
            score = _as_finite(result.get(self.score))
            if score is None:
                given = show(result.get(self.score))
                raise InvalidAnswerError(f"the {self.score} of document {index} is {given}, expected a finite number")
            scores[index] = score
        missing = [index for index in range(count) if index not in scores]
        if missing:
            listed = ", ".join(map(str, missing[:5])) + (f" and {len(missing) - 5} more" if len(missing) > 5 else "")
            raise InvalidAnswerError(f"{len(missing)} of {count} documents have no score: {listed}")
        return [scores[index] for index in range(count)]

    def _results(self, answer: Any, redact: Callable[[str], str]) -> list[Any]:
        results = answer
        for key in self.results:
            results = results.get(key) if isinstance(results, dict) else None
        if isinstance(results, list):
            return results
        keys = f"an object with {', '.join(map(repr, answer)) or 'no keys'}" if isinstance(answer, dict) else ""
        expected = f"the list {'.'.join(self.results)!r}" if self.results else "a list"
        raise InvalidAnswerError(f"expected {expected} of results, got {redact(keys or repr(answer))[:200]}")


COHERE = ApiFormat("cohere", "v2/rerank", 1000, options={})
JINA = ApiFormat("jina", "v1/rerank", 1000)
VOYAGE = ApiFormat("voyage", "v1/rerank", 1000, ("data",), count="top_k")
TEI = ApiFormat(
    "tei", "rerank", 32, (), "score", "texts", count=None, options={"return_text": False}, takes_model=False
)
DASHSCOPE = ApiFormat(
    "dashscope", "api/v1/services/rerank/text-rerank/text-rerank", 500, ("output", "results"), nested=True
)

API_FORMATS: Mapping[str, ApiFormat] = {
    **{api_format.name: api_format for api_format in (COHERE, JINA, VOYAGE, TEI, DASHSCOPE)},
    **dict.fromkeys(("vllm", "infinity", "siliconflow"), JINA),  # these services use Jina's JSON
}
"""The API formats by the names that users may type."""


def _as_finite(value: Any) -> float | None:
    try:
        number = float(value) if type(value) in (int, float) else math.nan
    except OverflowError:  # an integer in JSON may have any number of digits
        return None
    return number if math.isfinite(number) else None
