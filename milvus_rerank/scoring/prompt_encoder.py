"""Pairs as prompts of a language model: one text made of query and document, tokenised as a whole.

A prompt cannot be put together from tokens of its parts as a pair of texts can: tokens reach across the seams. What all
prompts of a query have in common is found by comparing their tokens.
"""

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from milvus_rerank.engines.base import Batch
from milvus_rerank.errors import InputError
from milvus_rerank.scoring import check_stop
from milvus_rerank.scoring.caches import Ids
from milvus_rerank.scoring.encoder import FILLERS, Chunks, Pair, Span, common, starts
from milvus_rerank.scoring.pair_encoder import TOKENIZE_AT_ONCE, private_copy

Render: TypeAlias = Callable[[str, str], str]
"""From a query and a document to the whole prompt."""


@dataclass(frozen=True, slots=True)
class Prompt:
    """A pair as token ids.

    :param ids: the whole prompt, not cut.
    :param start: the document's first token.
    :param tail: how many tokens stand after the document.
    """

    ids: Ids
    start: int
    tail: int


@dataclass(frozen=True, slots=True)
class _Frame:
    """What stands around every document of a query: tokens before and after it, and characters before it."""

    start: int
    tail: int
    characters: int


class PromptEncoder:
    """Turn pairs into prompts, and those into batches padded on the right.

    A prompt that is too long loses the end of its document; what stands after the document is kept, as the answer is
    read there.

    :param tokenizer: a transformers tokenizer; a private copy is taken of a fast one's core.
    :param render: makes a prompt.
    :param max_length: the most tokens of a prompt.
    :param query_max_length: the most tokens of a query; None, or more than that, for three quarters of what the prompt
        leaves.
    :param pad_id: what batches are padded with.
    :raises InputError: if ``max_length`` leaves no room beside the prompt's own tokens.
    """

    def __init__(
        self,
        tokenizer: Any,
        render: Render,
        *,
        max_length: int,
        query_max_length: int | None = None,
        pad_id: int = 0,
    ) -> None:
        self._tokenizer = tokenizer
        self._fast = private_copy(tokenizer)
        self._render = render
        self._pad_id = pad_id
        self.max_length = max_length
        frame = self._frame("")
        own = frame.start + frame.tail
        if own + 1 >= max_length:
            raise InputError(
                f"max_length={max_length} leaves no room beside the prompt's own {own} tokens; use at least {own + 2}"
            )
        # A query that takes all of it would leave every document the same score.
        most = max(1, (max_length - own) * 3 // 4)
        self._query_max_length = most if query_max_length is None else min(query_max_length, most)

    def rows(self, pairs: Sequence[Pair], stop: threading.Event | None = None) -> list[Prompt]:
        """Return pairs of texts as prompts.

        :param pairs: queries and documents.
        :param stop: when set, the work ends early.
        :returns: one row per pair.
        :raises StoppedError: if ``stop`` was set.
        """
        frames: dict[str, _Frame] = {}
        rows = []
        for first in range(0, len(pairs), TOKENIZE_AT_ONCE):
            if stop is not None:
                check_stop(stop)
            some = [(self._query(query), document) for query, document in pairs[first : first + TOKENIZE_AT_ONCE]]
            for (query, _), ids in zip(some, self._tokenize([self._render(*pair) for pair in some]), strict=True):
                frame = frames.get(query)
                if frame is None:
                    frame = frames[query] = self._frame(query)
                rows.append(Prompt(ids, max(0, min(frame.start, len(ids) - frame.tail)), frame.tail))
        return rows

    def length(self, row: Prompt) -> int:
        """Return the length of a prompt in tokens, cut as it will be."""
        return min(len(row.ids), self.max_length)

    def padded_length(self, length: int) -> int:
        """Return the width of a batch whose longest prompt has so many tokens."""
        return length

    def batch(self, rows: Sequence[Prompt]) -> Batch:
        """Put prompts together, padded on the right to the longest.

        :param rows: prompts, as :meth:`rows` returns them.
        :returns: int64 arrays of shape ``(pairs, tokens)``, with the bounds of documents.
        """
        whole = [self._cut(row, self.max_length) for row in rows]
        lengths = np.array([len(ids) for ids in whole])
        input_ids = np.full((len(rows), int(lengths.max())), self._pad_id, dtype=np.int64)
        for place, ids in enumerate(whole):
            input_ids[place, : len(ids)] = ids
        mask = (np.arange(input_ids.shape[1]) < lengths[:, None]).astype(np.int64)
        ends = lengths - [row.tail for row in rows]
        bounds = np.stack([np.minimum([row.start for row in rows], ends), ends], axis=1)
        return Batch(input_ids, mask, None, bounds)

    def shorten(self, row: Prompt, *, document_tokens: int | None, pair_tokens: int | None, left: bool) -> Prompt:
        """Return what is left of a prompt under limits of one request; only its document is cut.

        :param row: the prompt.
        :param document_tokens: the most tokens of the document; None for no limit of its own.
        :param pair_tokens: the most tokens of the prompt; None for no more limit than ``max_length``.
        :param left: cut at the beginning of the document instead of its end.
        :returns: a shorter prompt.
        """
        document = len(row.ids) - row.start - row.tail
        limits = [self.max_length - row.start - row.tail]
        if pair_tokens is not None:
            limits.append(pair_tokens - row.start - row.tail)
        if document_tokens is not None:
            limits.append(document_tokens)
        kept = max(0, min(document, *limits))
        return self._window(row, document - kept if left else 0, kept)

    def windows(self, row: Prompt, chunks: Chunks) -> list[Prompt]:
        """Return a prompt for each window over the document; the row itself where all of it fits.

        :param row: the prompt.
        :param chunks: how to cut.
        :returns: prompts in the document's order.
        """
        document, room = len(row.ids) - row.start - row.tail, self._room(row, chunks)
        if room >= document or room < 1:
            return [row]
        return [self._window(row, start, room) for start in starts(document, room, chunks)]

    def span(self, pair: Pair, window: int, chunks: Chunks) -> Span | None:
        """Return where a window lies in the document's text; None if the tokenizer does not tell.

        :param pair: the texts.
        :param window: the window's number.
        :param chunks: how the document was cut.
        :returns: its first character and the one after its last.
        """
        if self._fast is None:
            return None
        [row] = self.rows([pair])
        room = self._room(row, chunks)
        start = row.start + starts(len(row.ids) - row.start - row.tail, room, chunks)[window]
        query = self._query(pair[0])
        prompt = self._render(query, pair[1])
        offsets = self._fast.encode(prompt, add_special_tokens=False).offsets[start : start + room]
        before = self._frame(query).characters
        return max(0, offsets[0][0] - before), min(len(pair[1]), offsets[-1][1] - before)

    def _tokenize(self, prompts: Sequence[str]) -> list[Ids]:
        if self._fast is not None:
            made = self._fast.encode_batch_fast(list(prompts), add_special_tokens=False)
            return [np.array(encoding.ids, dtype=np.int64) for encoding in made]
        rows = self._tokenizer(list(prompts), add_special_tokens=False)["input_ids"]
        return [np.array(row, dtype=np.int64) for row in rows]

    def _query(self, query: str) -> str:
        """Return as much of a query as a prompt may hold."""
        if len(query.encode()) < self._query_max_length:  # a text has no more tokens than bytes
            return query
        if self._fast is not None:
            ends = [end for _, end in self._fast.encode(query, add_special_tokens=False).offsets]
            return query if len(ends) <= self._query_max_length else query[: ends[self._query_max_length - 1]]
        ids = self._tokenize([query])[0]
        kept = ids[: self._query_max_length]
        return query if len(kept) == len(ids) else str(self._tokenizer.decode(kept.tolist()))

    def _frame(self, query: str) -> _Frame:
        prompts = [self._render(query, filler) for filler in FILLERS]
        rows = [ids.tolist() for ids in self._tokenize(prompts)]
        start = common(rows)
        # By two of them, as sentence-transformers finds what it keeps of a prompt that it cuts.
        tail = common([row[::-1] for row in rows[:2]])
        return _Frame(start, min(tail, min(map(len, rows)) - start), common(prompts))

    def _room(self, row: Prompt, chunks: Chunks) -> int:
        """Return how many document tokens a window holds."""
        room = self.max_length - row.start - row.tail
        return room if chunks.tokens is None else min(room, chunks.tokens)

    def _window(self, row: Prompt, start: int, length: int) -> Prompt:
        first = row.start + start
        end = len(row.ids) - row.tail
        parts = (row.ids[: row.start], row.ids[first : min(first + length, end)], row.ids[end:])
        return Prompt(np.concatenate(parts), row.start, row.tail)

    def _cut(self, row: Prompt, length: int) -> Ids:
        if len(row.ids) <= length:
            return row.ids
        return np.concatenate([row.ids[: length - row.tail], row.ids[len(row.ids) - row.tail :]])
