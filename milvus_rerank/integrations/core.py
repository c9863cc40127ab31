"""Adapters' shared part: check the framework's version, open a reranker, rerank a framework's documents."""

import re
import threading
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Generic, TypeVar

from milvus_rerank.concurrency import off_loop
from milvus_rerank.errors import InputError, MissingDependencyError, install_command
from milvus_rerank.integrations.steps import run_steps
from milvus_rerank.registry import load
from milvus_rerank.reranker.base import BaseRerankFunction
from milvus_rerank.reranker.custom import Scorer, wrap
from milvus_rerank.results import RerankResult
from milvus_rerank.steps import Pipeline
from milvus_rerank.validation import describe

DEFAULT_MODEL = "builtin/rerank"
_STEP = 64  # documents between two reports of progress
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


class LazyReranker:
    """Open a reranker at its first use; concurrent first calls open it once.

    :param reranker: as for :func:`open_reranker`.
    :param options: options of :func:`milvus_rerank.load`, for a name.
    """

    def __init__(self, reranker: Reranker, options: dict[str, Any]) -> None:
        self._source, self._options = reranker, options
        self._opened: BaseRerankFunction | None = None
        self._opening = threading.Lock()

    def open(self) -> BaseRerankFunction:
        """Return the reranker; raise as :func:`open_reranker` does."""
        with self._opening:
            if self._opened is None:
                self._opened = open_reranker(self._source, **self._options)
            return self._opened

    async def aopen(self) -> BaseRerankFunction:
        """Like :meth:`open`, without blocking the event loop."""
        return self._opened or await off_loop(self.open)


def _no_fields(item: object) -> Mapping[str, Any]:
    return {}


@dataclass(frozen=True, slots=True)
class ItemCall(Generic[Item]):
    """A call that reranks a framework's documents, which it does not change.

    :param query: the query.
    :param items: the documents.
    :param text: returns a document's text.
    :param copy: returns a copy of a document with its result.
    :param top_k: the most documents to return; 0 or None for all.
    :param threshold: the least score of the reranker to return.
    :param instruction: says what is relevant, for a reranker that takes instructions.
    :param steps: steps after the reranker, None for none; they see all documents that the threshold leaves, and
        ``top_k`` cuts after them.
    :param fields: returns a document's metadata, which are the fields that the steps read.
    :param distance: returns the score of a document's retriever, for ``fuse``; None if there is none.
    """

    query: str
    items: Sequence[Item]
    text: Callable[[Item], object]
    copy: Callable[[Item, RerankResult], Item]
    top_k: int | None = None
    threshold: float | None = None
    instruction: str | None = None
    steps: Pipeline | None = None
    fields: Callable[[Item], Mapping[str, Any]] = _no_fields
    distance: Callable[[Item], float | None] | None = None

    def run(self, reranker: BaseRerankFunction) -> list[Item]:
        """Return the copies, best first; raise InputError for a document without text, with its position and id."""
        texts = read_texts(self.items, self.text)
        results = reranker.rerank(self.query, texts, self._keep, self.threshold, instruction=self.instruction)
        return self._copies(results)

    async def arun(self, reranker: BaseRerankFunction) -> list[Item]:
        """Like :meth:`run`, off the event loop."""
        texts = read_texts(self.items, self.text)
        results = await reranker.arerank(self.query, texts, self._keep, self.threshold, instruction=self.instruction)
        return self._copies(results)

    @property
    def _keep(self) -> int | None:
        return None if self.steps and self.steps.steps else self.top_k

    def _copies(self, results: Sequence[RerankResult[Any]]) -> list[Item]:
        if self.steps and self.steps.steps:
            results = run_steps(self.steps, self.items, results, self.fields, self.top_k, self.distance)
        return [self.copy(self.items[result.index], result) for result in results]


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


def span_metadata(result: RerankResult[Any], content: str) -> dict[str, Any]:
    """Return ``relevance_span``, the part of a long document that its score belongs to; nothing for the whole document.

    :param result: the document's result; its text may have more than the content, such as a title.
    :param content: the document's content.
    :returns: the metadata; the span is ``[start, end]`` in the content.
    """
    if result.span is None:
        return {}
    stripped = content.strip()  # as LlamaIndex strips the text that it makes
    before, offset = len(content) - len(content.lstrip()), result.text.rfind(stripped)
    start, end = (min(max(position - offset, 0), len(stripped)) + before for position in result.span)
    return {"relevance_span": [start, end]} if offset >= 0 and start < end else {}


def score_metadata(result: RerankResult[Any], content: str) -> dict[str, Any]:
    """Return a document's metadata: ``relevance_score``, and :func:`span_metadata`."""
    return {"relevance_score": result.score, **span_metadata(result, content)}


async def arerank_in_steps(
    reranker: BaseRerankFunction,
    query: str,
    documents: Sequence[str],
    report: Callable[[int], Awaitable[None]],
    **options: Any,
) -> list[RerankResult]:
    r"""Rerank texts in steps of 64, to report progress; at once if their scores depend on each other.

    :param reranker: the rerank function.
    :param query: the query.
    :param documents: the texts.
    :param report: takes the number of texts that have scores.
    :param \**options: ``threshold`` and ``instruction``, as in a call of the reranker.
    :returns: all results, best first.
    """
    results: list[RerankResult] = []
    step = _STEP if reranker.pointwise else max(len(documents), 1)
    for start in range(0, len(documents), step):
        await report(start)
        part = await reranker.arerank(query, documents[start : start + step], None, **options)
        results += [replace(result, index=result.index + start) for result in part]
    await report(len(documents))
    return sorted(results, key=lambda result: (-result.score, result.index)) if reranker.pointwise else results
