"""What scoring needs of whatever turns pairs of texts into batches."""

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, TypeAlias

from milvus_rerank.engines.base import Batch
from milvus_rerank.errors import InputError
from milvus_rerank.validation import check_choice, check_count, check_limit

Pair: TypeAlias = tuple[str, str]
Row: TypeAlias = Any
"""A pair as an encoder holds it: token ids, or texts for a library that tokenises itself."""

Span: TypeAlias = tuple[int, int]
OfWindows = Literal["max", "mean", "first"]


@dataclass(frozen=True, slots=True)
class Chunks:
    """Read a long document in windows instead of cutting it off.

    :param score: which of the windows' logits is the document's: the largest (``max``), their ``mean``, or that of the
        ``first``.
    :param tokens: the most document tokens in a window; None for as many as fit beside the query.
    :param overlap: how many tokens a window shares with the one before it.
    :raises InputError: for an unknown ``score``, or a window no longer than its overlap.
    """

    score: OfWindows = "max"
    tokens: int | None = None
    overlap: int = 64

    def __post_init__(self) -> None:
        check_choice(self.score, "score", ("max", "mean", "first"))
        check_limit(self.overlap, "overlap")
        if self.tokens is not None and check_count(self.tokens, "tokens") <= self.overlap:
            raise InputError(f"windows of {self.tokens} tokens cannot share {self.overlap}; use a smaller overlap")


def starts(length: int, room: int, chunks: Chunks) -> list[int]:
    """Return where the windows over a document begin; each is ``min(length, room)`` tokens long.

    The last one ends with the document, so that it is as full as the others.

    :param length: the document's tokens.
    :param room: the most tokens of a window.
    :param chunks: how they overlap.
    :returns: first tokens, at least one.
    """
    if length <= room:
        return [0]
    if chunks.score == "first":
        return [0]
    # Where the query leaves less room than the overlap takes, half a window is shared: there must be progress.
    step = room - min(chunks.overlap, room // 2)
    return [*range(0, length - room, step), length - room]


FILLERS = ("0", "1 2 3 4", "a b", "Z", "?")
"""Texts that share neither a first token nor a last one, to find out which tokens around them never change."""


def common(rows: Sequence[Sequence[Any]]) -> int:
    """Return how many items all rows begin with that are the same."""
    first, *others = rows
    count = 0
    while all(count < len(row) and count < len(first) and row[count] == first[count] for row in others):
        count += 1
    return count


class Encoder(Protocol):
    """Turns pairs of texts into rows, and rows into batches. Safe to share by threads."""

    @property
    def max_length(self) -> int:
        """The most tokens of a pair."""
        ...

    def rows(self, pairs: Sequence[Pair], stop: threading.Event) -> list[Row]:
        """Prepare pairs.

        :param pairs: queries and documents.
        :param stop: when set, the work ends early.
        :returns: one row per pair.
        :raises StoppedError: if ``stop`` was set.
        """
        ...

    def length(self, row: Row) -> int:
        """Return the true length of a row's pair in tokens, special ones included, cut as it will be."""
        ...

    def padded_length(self, length: int) -> int:
        """Return the width of a batch whose longest pair has so many tokens."""
        ...

    def batch(self, rows: Sequence[Row]) -> Batch:
        """Put rows together for an engine, padded to the longest or a little more."""
        ...

    def shorten(self, row: Row, *, document_tokens: int | None, pair_tokens: int | None, left: bool) -> Row:
        """Return what is left of a row under limits of one request.

        :param row: the pair.
        :param document_tokens: the most tokens of the document; None for no limit of its own.
        :param pair_tokens: the most tokens of the pair, special ones included; the document gives way. None for no more
            limit than ``max_length``.
        :param left: cut at the beginning of texts instead of their end.
        :returns: a row that :meth:`batch` need not cut.
        """
        ...

    def windows(self, row: Row, chunks: Chunks) -> list[Row]:
        """Return a row for each window over the document; the row itself where all of it fits.

        :param row: the pair.
        :param chunks: how to cut.
        :returns: rows that :meth:`batch` need not cut, in the document's order.
        """
        ...

    def span(self, pair: Pair, window: int, chunks: Chunks) -> Span | None:
        """Return where a window lies in the document's text.

        :param pair: the texts.
        :param window: the window's number.
        :param chunks: how the document was cut.
        :returns: its first character and the one after its last; None if the tokenizer does not tell.
        """
        ...
