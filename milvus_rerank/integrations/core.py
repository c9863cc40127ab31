"""Adapters' shared part: load a reranker, check the framework's version, rerank a framework's documents."""

import re
from collections.abc import Callable, Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any, TypeVar

from milvus_rerank.errors import InputError, MissingDependencyError, install_command
from milvus_rerank.registry import load
from milvus_rerank.reranker.base import BaseRerankFunction
from milvus_rerank.reranker.custom import Scorer, wrap
from milvus_rerank.results import RerankResult
from milvus_rerank.validation import describe

DEFAULT_MODEL = "builtin/rerank"
Item = TypeVar("Item")
Reranker = BaseRerankFunction | Scorer | str
"""A rerank function, an object with ``score(query, texts)``, or a name for :func:`milvus_rerank.load`."""


def require_framework(purpose: str, distribution: str, oldest: str, extra: str) -> None:
    """Raise if a framework is missing or too old. Call it before the framework is imported.

    :param purpose: the adapter, such as ``the LangChain adapter``.
    :param distribution: the framework's name on the package index.
    :param oldest: the oldest version that works.
    :param extra: the extra of milvus-rerank that installs it.
    :raises MissingDependencyError: if it is missing; with the pip command to type.
    :raises InputError: if it is too old; with the pip command to type.
    """
    try:
        installed = version(distribution)
    except PackageNotFoundError:
        raise MissingDependencyError([distribution], [extra], purpose) from None
    if _numbers(installed) < _numbers(oldest):
        command = install_command(extra).replace("install", "install --upgrade", 1)
        raise InputError(f"{purpose} needs {distribution} {oldest} or newer, got {installed}. Type: {command}")


def _numbers(release: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", release)[:3])


def open_reranker(reranker: Reranker, **options: Any) -> BaseRerankFunction:
    r"""Return a rerank function.

    :param reranker: a rerank function, an object with ``score(query, texts)``, or a name.
    :param \**options: options of :func:`milvus_rerank.load`, for a name.
    :returns: the rerank function.
    :raises InputError: for any other value, or options without a name.
    """
    if isinstance(reranker, str):
        return load(reranker, **options)
    if isinstance(reranker, type) or not callable(getattr(reranker, "score", None)):
        raise InputError(
            f"reranker must be a name such as {DEFAULT_MODEL!r}, a rerank function such as "
            f"CrossEncoderRerankFunction(), or have a method score(query, texts), got {describe(reranker)}"
        )
    if options:
        raise InputError(f"options {sorted(options)} need a reranker's name, got {describe(reranker)}")
    return wrap(reranker, type(reranker).__name__)


def rerank_items(
    reranker: BaseRerankFunction,
    query: str,
    items: Sequence[Item],
    text: Callable[[Item], object],
    top_k: int | None,
    threshold: float | None,
    instruction: str | None = None,
) -> list[tuple[Item, RerankResult]]:
    """Rerank a framework's documents.

    :param reranker: the rerank function.
    :param query: the query.
    :param items: the documents; they are not changed.
    :param text: returns a document's text.
    :param top_k: the most documents to return; 0 or None for all.
    :param threshold: the least score to return.
    :param instruction: says what is relevant, for a reranker that takes instructions.
    :returns: documents with their results, best first.
    :raises InputError: for a document without text; the message names it.
    """
    texts = read_texts(items, text)
    results = reranker.rerank(query, texts, top_k, threshold, instruction=instruction)
    return [(items[result.index], result) for result in results]


async def arerank_items(
    reranker: BaseRerankFunction,
    query: str,
    items: Sequence[Item],
    text: Callable[[Item], object],
    top_k: int | None,
    threshold: float | None,
    instruction: str | None = None,
) -> list[tuple[Item, RerankResult]]:
    """Like :func:`rerank_items`, off the event loop."""
    texts = read_texts(items, text)
    results = await reranker.arerank(query, texts, top_k, threshold, instruction=instruction)
    return [(items[result.index], result) for result in results]


def read_texts(items: Sequence[Item], text: Callable[[Item], object]) -> list[str]:
    """Return the documents' texts; raise InputError, which names the document, if one is no string."""
    texts = []
    for index, item in enumerate(items):
        content = text(item)
        if not isinstance(content, str):
            name = getattr(item, "id", None) or getattr(item, "id_", None) or getattr(item, "node_id", None)
            named = f" (id {name!r})" if name else ""
            raise InputError(
                f"documents[{index}]{named} has no text to rerank, got {describe(content)}; "
                "rerank documents with text only"
            )
        texts.append(content)
    return texts


def score_metadata(result: RerankResult[Any]) -> dict[str, Any]:
    """Return a result's metadata: ``relevance_score``, and ``relevance_span`` for a part of a long document.

    The span is ``[start, end]`` in the document's text.
    """
    span = {} if result.span is None else {"relevance_span": list(result.span)}
    return {"relevance_score": result.score, **span}
