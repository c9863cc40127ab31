"""API formats of rerank services: build the JSON of requests, and read scores from answers.

Sources: the API references of Cohere, Jina, Voyage, SiliconFlow and DashScope, text-embeddings-inference
(router/src/http/types.rs), vLLM and infinity. Every request asks for the scores of all documents, and states their
number if the service accepts it: some gateways return only a few by default, and a document without a score would be
lost.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

_MAX_SHOWN = 60

BuildBody = Callable[[str, list[str], Mapping[str, Any]], dict[str, Any]]


class InvalidAnswerError(ValueError):
    """An answer does not follow its API format; the message says where."""


@dataclass(frozen=True, slots=True)
class ApiFormat:
    """The JSON of one kind of service.

    :param name: the format's name, as users type it.
    :param path: the route, relative to the service's address.
    :param max_documents: the default for the most documents of a request.
    :param build: a function that builds a request's JSON from query, documents and further parameters.
    :param results: the path of keys to the list of results in an answer.
    :param score: the key of a result's score.
    :param takes_model: whether a request names the model.
    """

    name: str
    path: str
    max_documents: int
    build: BuildBody
    results: tuple[str, ...]
    score: str = "relevance_score"
    takes_model: bool = True

    def body(
        self, query: str, documents: Sequence[str], model: str | None, parameters: Mapping[str, Any]
    ) -> dict[str, Any]:
        """Return the JSON of a request."""
        body = self.build(query, list(documents), parameters)
        return {"model": model, **body} if self.takes_model and model is not None else body

    def read(self, answer: Any, count: int) -> list[float]:
        """Return a finite score for each of ``count`` documents, in input order, or raise InvalidAnswerError."""
        scores: dict[int, float] = {}
        for position, result in enumerate(self._results(answer)):
            if not isinstance(result, dict):
                raise InvalidAnswerError(f"its result {position} is {_show(result)}, expected an object")
            index = result.get("index")
            if type(index) is not int or not 0 <= index < count:
                expected = f"expected 0 to {count - 1}"
                raise InvalidAnswerError(f"its result {position} has the index {_show(index)}, {expected}")
            if index in scores:
                raise InvalidAnswerError(f"it has document {index} twice")
            scores[index] = _finite(result.get(self.score), f"{self.score} of document {index}")
        missing = [index for index in range(count) if index not in scores]
        if missing:
            listed = ", ".join(map(str, missing[:5])) + (f" and {len(missing) - 5} more" if len(missing) > 5 else "")
            raise InvalidAnswerError(f"{len(missing)} of {count} documents have no score: {listed}")
        return [scores[index] for index in range(count)]

    def _results(self, answer: Any) -> list[Any]:
        results = answer
        for key in self.results:
            results = results.get(key) if isinstance(results, dict) else None
        if isinstance(results, list):
            return results
        keys = f"an object with {', '.join(map(repr, answer)) or 'no keys'}" if isinstance(answer, dict) else ""
        expected = f"the list {'.'.join(self.results)!r}" if self.results else "a list"
        raise InvalidAnswerError(f"expected {expected} of results, got {(keys or _show(answer))[:200]}")


def _cohere(query: str, documents: list[str], parameters: Mapping[str, Any]) -> dict[str, Any]:
    return {"query": query, "documents": documents, "top_n": len(documents), **parameters}


def _jina(query: str, documents: list[str], parameters: Mapping[str, Any]) -> dict[str, Any]:
    return _cohere(query, documents, {"return_documents": False, **parameters})


def _voyage(query: str, documents: list[str], parameters: Mapping[str, Any]) -> dict[str, Any]:
    size = len(documents)
    return {"query": query, "documents": documents, "top_k": size, "return_documents": False, **parameters}


def _tei(query: str, documents: list[str], parameters: Mapping[str, Any]) -> dict[str, Any]:
    return {"query": query, "texts": documents, "return_text": False, **parameters}


def _dashscope(query: str, documents: list[str], parameters: Mapping[str, Any]) -> dict[str, Any]:
    options = {"top_n": len(documents), "return_documents": False, **parameters}
    return {"input": {"query": query, "documents": documents}, "parameters": options}


COHERE = ApiFormat("cohere", "v2/rerank", 1000, _cohere, ("results",))
JINA = ApiFormat("jina", "v1/rerank", 1000, _jina, ("results",))
VOYAGE = ApiFormat("voyage", "v1/rerank", 1000, _voyage, ("data",))
TEI = ApiFormat("tei", "rerank", 32, _tei, (), "score", takes_model=False)
_DASHSCOPE_PATH = "api/v1/services/rerank/text-rerank/text-rerank"
DASHSCOPE = ApiFormat("dashscope", _DASHSCOPE_PATH, 500, _dashscope, ("output", "results"))

API_FORMATS: Mapping[str, ApiFormat] = {
    **{api_format.name: api_format for api_format in (COHERE, JINA, VOYAGE, TEI, DASHSCOPE)},
    **dict.fromkeys(("vllm", "infinity", "siliconflow"), JINA),  # these services use Jina's JSON
}
"""The API formats by the names that users may type."""


def _finite(value: Any, name: str) -> float:
    try:
        number = float(value) if type(value) in (int, float) else math.nan
    except OverflowError:  # an integer in JSON may have any number of digits
        number = math.inf
    if not math.isfinite(number):
        raise InvalidAnswerError(f"the {name} is {_show(value)}, expected a finite number")
    return number


def _show(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= _MAX_SHOWN else text[: _MAX_SHOWN - 3] + "..."
