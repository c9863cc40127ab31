"""CascadeRerankFunction: a cheap reranker scores all documents, a strong reranker the best of them.

This module depends on the registry because stages may be given by name.
"""

import copy
import os
import sys
import threading
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from milvus_rerank.errors import InputError, ScoreError, StageError, StoppedError
from milvus_rerank.registry import load
from milvus_rerank.reranker.base import NO_SPANS, BaseRerankFunction
from milvus_rerank.reranker.custom import Scorer, wrap
from milvus_rerank.results import DocumentScores, RerankResult, check_scores
from milvus_rerank.scoring import Request, check_stop
from milvus_rerank.validation import check_count, check_list

if TYPE_CHECKING:
    from typing_extensions import Self

    from milvus_rerank.tracing import Recorder

Reranker = BaseRerankFunction | Scorer | str | os.PathLike[str]


@dataclass(frozen=True, slots=True)
class Stage:
    """A stage of a cascade.

    :param reranker: a rerank function, any object with ``score(query, texts)``, or a name that
        :func:`milvus_rerank.registry.load` knows: ``lexical``, ``builtin/rerank``, a folder, a name on the model hub.
    :param keep: the number of documents of each query that the next stage gets. For the last stage, the most results of
        a call; None for all.
    :raises InputError: if ``keep`` is not a positive integer.
    """

    reranker: Reranker
    keep: int | None = None

    def __post_init__(self) -> None:
        if self.keep is not None:
            object.__setattr__(self, "keep", check_count(self.keep, "keep"))


class CascadeRerankFunction(BaseRerankFunction):
    """Rerank in stages: each scores only what the stage before kept, so a strong reranker scores few documents.

    Results of the last stage come first, then those that the stage before did not pass on, and so on. Each result's
    ``stage`` says which stage its score is from; scores are comparable only within a stage. ``threshold`` is on the
    last stage's scale and drops results of earlier stages. A call returns ``top_k`` results, or all for 0 or None, but
    never more than the last stage's ``keep``. A cascade in a cascade counts as one stage, with the scores that its
    ``score()`` returns.

    :param stages: :class:`Stage` values or ``(reranker, keep)`` pairs, the cheapest first.
    :raises InputError: for an invalid stage; the message names it.
    """

    pointwise = False

    def __init__(self, stages: Sequence[Stage | tuple[Reranker, int | None]]) -> None:
        items = check_list(stages, "stages", "stages")
        checked = [_read(item, f"stages[{number}]") for number, item in enumerate(items)]
        _check_keeps(checked)
        self.keeps = tuple(stage.keep for stage in checked)
        self.rerankers = tuple(ready(stage.reranker, f"stages[{number}]") for number, stage in enumerate(checked))

    def score_documents(
        self, requests: Sequence[Request], top_k: int | None, stop: threading.Event
    ) -> list[DocumentScores]:
        """Score with each stage the documents that the stage before kept, all queries in one pass.

        :param requests: checked queries, each with its documents; no list of documents is empty.
        :param top_k: the most documents of each query to return; None for all.
        :param stop: as for :meth:`score_requests`.
        :returns: one value per request, with the last stage that scored each document.
        :raises StageError: if a stage fails; the message names it.
        """
        tables = [_Table(len(texts)) for _, texts in requests]
        for number, passed in enumerate(self.keeps):
            check_stop(stop)
            last = number + 1 == len(self.keeps)
            # Documents that a stage does not pass on are results, too, if the caller wants more than it keeps.
            wanted = top_k if last or top_k is None else max(top_k, passed or 0)
            self._run_stage(number, requests, tables, wanted, stop)
        return [DocumentScores(table.scores, table.spans, table.stages, table.limit) for table in tables]

    def score_requests(self, requests: Sequence[Request], stop: threading.Event) -> list[list[float]]:
        """Score in stages, and shift the scores of earlier stages below those of later stages to keep the ranking."""
        filled = [request for request in requests if request[1]]
        scores = iter([documents.flat() for documents in self.score_documents(filled, None, stop)])
        return [next(scores) if texts else [] for _, texts in requests]

    def _run_stage(
        self,
        number: int,
        requests: Sequence[Request],
        tables: Sequence["_Table"],
        keep: int | None,
        stop: threading.Event,
    ) -> None:
        """Score the remaining documents of each query, and keep the best."""
        reranker = self.rerankers[number]
        remaining = [
            (query, [texts[index] for index in table.left])
            for (query, texts), table in zip(requests, tables, strict=True)
        ]
        left, passed = [table.left for table in tables], self.keeps[number] or keep
        try:
            with _spans(number, reranker, remaining, left, passed) as record:
                scores = reranker.score_documents(remaining, keep, stop) if remaining else []
                if len(scores) != len(tables):
                    raise ScoreError(f"the reranker returned scores for {len(scores)} queries, expected {len(tables)}")
                for query, (table, documents) in enumerate(zip(tables, scores, strict=True)):
                    table.note(number, documents, self.keeps[number], f" of query {query}" if len(tables) > 1 else "")
                if record is not None:
                    record(_results(remaining, left, scores, passed))
        except StoppedError:
            raise
        except Exception as error:  # a plugin may raise any exception, and the message must name the stage
            raise StageError(f"stages[{number}], {reranker!r}, failed: {type(error).__name__}: {error}") from error

    @property
    def takes_instruction(self) -> bool:
        """True if one of the stages takes instructions."""
        return any(reranker.takes_instruction for reranker in self.rerankers)

    def _instructed(self, instruction: str) -> "Self":
        """Return a cascade with an instruction for those stages that take one."""
        other = copy.copy(self)
        other.rerankers = tuple(
            reranker.with_instruction(instruction) if reranker.takes_instruction else reranker
            for reranker in self.rerankers
        )
        return other

    def __repr__(self) -> str:
        stages = ", ".join(f"({item!r}, {keep})" for item, keep in zip(self.rerankers, self.keeps, strict=True))
        return f"CascadeRerankFunction([{stages}])"


class _Table:
    """Scores of a query's documents while they go through the stages."""

    def __init__(self, count: int) -> None:
        self.left = list(range(count))  # positions of the remaining documents, in input order
        self.scores, self.stages = [0.0] * count, [0] * count
        self.spans: list[tuple[int, int] | None] = [None] * count
        self.limit: int | None = None

    def note(self, stage: int, documents: DocumentScores, keep: int | None, of_query: str) -> None:
        """Record a stage's scores of the remaining documents, and keep the best."""
        left = self.left
        scores = check_scores(documents.flat(), len(left), lambda position: f"document {left[position]}{of_query}")
        for position, index in enumerate(left):
            self.scores[index], self.stages[index] = scores[position], stage
            self.spans[index] = documents.spans[position] if documents.spans else None
        self.left = sorted(left[position] for position in documents.rank(keep))
        self.limit = min((count for count in (keep, documents.limit) if count is not None), default=None)


def _spans(
    number: int,
    reranker: BaseRerankFunction,
    requests: Sequence[Request],
    left: Sequence[Sequence[int]],
    keep: int | None,
) -> "AbstractContextManager[Recorder | None]":
    """Return the spans of a stage; nothing unless the cascade's own call has spans, which import the module."""
    if "milvus_rerank.tracing" not in sys.modules:
        return NO_SPANS
    from milvus_rerank.tracing import reranking

    def document(query: int, position: int) -> RerankResult[Any]:
        return RerankResult(requests[query][1][position], None, left[query][position])

    return reranking(reranker, requests, document, keep, stage=number)


def _results(
    requests: Sequence[Request], left: Sequence[Sequence[int]], scores: Sequence[DocumentScores], keep: int | None
) -> list[list[RerankResult[Any]]]:
    """Return a stage's results for its span: documents with their positions in the call and their scores."""
    return [
        [
            RerankResult(texts[position], documents.scores[position], indices[position])
            for position in documents.rank(keep)
        ]
        for (_, texts), indices, documents in zip(requests, left, scores, strict=True)
    ]


def _read(item: object, name: str) -> Stage:
    if isinstance(item, Stage):
        return item
    if not isinstance(item, (tuple, list)) or len(item) != 2:
        raise InputError(f"{name} must be Stage(reranker, keep) or a pair (reranker, keep), got {item!r}")
    try:
        return Stage(*item)
    except InputError as error:
        raise InputError(f"{name}: {error}") from error


def _check_keeps(stages: Sequence[Stage]) -> None:
    if not stages:
        raise InputError('stages must hold at least one stage, such as ("builtin/rerank", None); got an empty list')
    for number, (stage, following) in enumerate(pairwise(stages)):
        if stage.keep is None:
            raise InputError(f"stages[{number}] needs a number of documents to keep for stages[{number + 1}], got None")
        if following.keep is not None and following.keep > stage.keep:
            raise InputError(
                f"stages[{number + 1}] cannot keep {following.keep} of the {stage.keep} that stages[{number}] keeps"
            )


def ready(reranker: object, name: str) -> BaseRerankFunction:
    """Return a rerank function that was given as one, as an object that scores, or by a name.

    :param reranker: the caller's value.
    :param name: its name in an error.
    :returns: the rerank function.
    :raises InputError: for any other value.
    """
    if isinstance(reranker, (str, os.PathLike)):
        return load(reranker)
    if not callable(getattr(reranker, "score", None)) or isinstance(reranker, type):
        raise InputError(
            f"{name} must hold a rerank function such as CrossEncoderRerankFunction(), an object with a method "
            f"score(query, texts), or a name such as 'builtin/rerank', got {reranker!r}"
        )
    return wrap(reranker, type(reranker).__name__)
