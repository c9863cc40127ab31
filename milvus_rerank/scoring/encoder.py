"""Interface of encoders, which turn pairs of texts into batches."""

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, TypeAlias

from milvus_rerank.engines.base import Batch
from milvus_rerank.errors import InputError
from milvus_rerank.validation import check_choice, check_count

Pair: TypeAlias = tuple[str, str]
Row: TypeAlias = Any
"""Pair as an encoder holds it: token ids, or texts for a library that tokenises them itself."""

Span: TypeAlias = tuple[int, int]
OfWindows = Literal["max", "mean", "first"]


@dataclass(frozen=True, slots=True)
class Chunks:
    """Read a long document in windows instead of truncating it.

    :param score: the document's logit, from the logits of its windows: the largest (``max``), the ``mean``, or that of
        the ``first`` window.
    :param tokens: the most document tokens in a window; None for as many as fit next to the query.
    :param overlap: the number of tokens that a window shares with the window before it.
    :raises InputError: for an unknown ``score``, or a window no longer than its overlap.
    """

    score: OfWindows = "max"
    tokens: int | None = None
    overlap: int = 64

    def __post_init__(self) -> None:
        check_choice(self.score, "score", ("max", "mean", "first"))
        check_count(self.overlap, "overlap", least=0)
        if self.tokens is not None and check_count(self.tokens, "tokens") <= self.overlap:
            raise InputError(f"windows of {self.tokens} tokens cannot share {self.overlap}; use a smaller overlap")


def starts(length: int, room: int, chunks: Chunks) -> list[int]:
    """Return the first token of each window over a document; each window is ``min(length, room)`` tokens long.

    The last window ends with the document, so that it is as full as the others.

    :param length: the number of tokens of the document.
    :param room: the most tokens of a window.
    :param chunks: the overlap of windows.
    :returns: positions of first tokens, at least one.
    """
    if length <= room:
        return [0]
    if chunks.score == "first":
        return [0]
    # If the query leaves less room than the overlap takes, windows share half their tokens, so that each one advances.
    step = room - min(chunks.overlap, room // 2)
    return [*range(0, length - room, step), length - room]


FILLERS = ("0", "1 2 3 4", "a b", "Z", "?")
"""Texts that share neither a first nor a last token. They reveal which tokens around a text never change."""


def common(rows: Sequence[Sequence[Any]]) -> int:
    """Return the length of the beginning that all rows share."""
    first, *others = rows
    count = 0
    while all(count < len(row) and count < len(first) and row[count] == first[count] for row in others):
        count += 1
    return count


class Encoder(Protocol):
    """Encoder that turns pairs of texts into rows, and rows into batches. Encoders are thread-safe."""

    @property
    def max_length(self) -> int:
        """Most tokens of a pair."""
        ...

    def rows(self, pairs: Sequence[Pair], stop: threading.Event, *, whole: bool = False) -> list[Row]:
        """Prepare pairs.

        :param pairs: queries and documents.
        :param stop: an event that ends the work early.
        :param whole: whether all of a long document is wanted, for windows or its end; else only what fits a pair.
        :returns: one row per pair.
        :raises StoppedError: if ``stop`` was set.
        """
        ...

    def length(self, row: Row) -> int:
        """Return the true length of a row's pair in tokens after truncation, special tokens included."""
        ...

    def padded_length(self, length: int) -> int:
        """Return the width of a batch whose longest pair has ``length`` tokens."""
        ...

    def batch(self, rows: Sequence[Row]) -> Batch:
        """Combine rows into a batch for an engine, padded to the longest row or slightly more."""
        ...

    def shorten(self, row: Row, *, document_tokens: int | None, pair_tokens: int | None, left: bool) -> Row:
        """Shorten a row to the limits of one request.

        :param row: the pair.
        :param document_tokens: the most tokens of the document; None for no separate limit.
        :param pair_tokens: the most tokens of the pair, special tokens included; the document is shortened to fit. None
            leaves only the limit ``max_length``.
        :param left: whether to cut texts at the beginning instead of the end.
        :returns: a row that :meth:`batch` need not truncate.
        """
        ...

    def windows(self, row: Row, chunks: Chunks) -> list[Row]:
        """Return a row for each window over the document; the row itself if the whole document fits.

        :param row: the pair.
        :param chunks: the size and overlap of windows.
        :returns: rows that :meth:`batch` need not truncate, in the document's order.
        """
        ...

    def span(self, pair: Pair, window: int, chunks: Chunks) -> Span | None:
        """Return the position of a window in the document's text.

        :param pair: the texts.
        :param window: the window's number.
        :param chunks: the size and overlap of windows.
        :returns: its first character and the character after its last; None if the tokenizer reports no positions.
        """
        ...
