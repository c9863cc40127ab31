"""Pairs as prompts of a language model: one text made of query and document, tokenised as a whole.

A pair of texts can be assembled from the tokens of its parts. A prompt cannot: tokens reach across the borders of the
parts. The tokens that all prompts of a query share are found by comparing prompts.
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
from milvus_rerank.scoring.tokenizing import TOKENIZE_CHARACTERS, TokenizingEncoder, groups, private_copy

_MARGIN = 256  # tokens before the cut of a long document, which may differ from those of the whole

Render: TypeAlias = Callable[[str, str], str]
"""Function from a query and a document to the whole prompt."""


@dataclass(frozen=True, slots=True)
class Prompt:
    """Prompt of a pair as token ids.

    :param ids: the whole prompt, before truncation.
    :param start: the position of the document's first token.
    :param tail: the number of tokens after the document.
    """

    ids: Ids
    start: int
    tail: int


@dataclass(frozen=True, slots=True)
class _Frame:
    """Sizes around every document of a query: tokens before and after it, and characters before it."""

    start: int
    tail: int
    characters: int


class PromptEncoder(TokenizingEncoder):
    """Turn pairs into prompts, and prompts into batches padded on the right.

    A prompt that is too long loses the end of its document. The text after the document is kept: the model's answer is
    read there.

    :param tokenizer: a transformers tokenizer.
    :param render: the function that makes a prompt.
    :param max_length: the most tokens of a prompt.
    :param query_max_length: the most tokens of a query. The upper limit, and the value for None, is three quarters of
        the tokens that the prompt's fixed text leaves.
    :param pad_id: the token id for padding.
    :raises InputError: if ``max_length`` leaves no room next to the prompt's fixed text.
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
        fixed = frame.start + frame.tail
        if fixed + 1 >= max_length:
            raise InputError(
                f"max_length={max_length} leaves no room beside the prompt's own {fixed} tokens; "
                f"use at least {fixed + 2}"
            )
        # A query that takes all the room would give every document the same score.
        limit = max(1, (max_length - fixed) * 3 // 4)
        self._query_max_length = limit if query_max_length is None else min(query_max_length, limit)

    def rows(self, pairs: Sequence[Pair], stop: threading.Event | None = None, *, whole: bool = False) -> list[Prompt]:
        """Return pairs of texts as prompts; of long documents only what can enter a prompt, unless ``whole``."""
        frames: dict[str, _Frame] = {}
        rows: list[Prompt] = []
        queries = {query: self._query(query) for query in dict.fromkeys(query for query, _ in pairs)}
        prompts = (self._render(queries[query], document[: _beginning(document, whole)]) for query, document in pairs)
        for group in groups(prompts):
            if stop is not None:
                check_stop(stop)
            for ids in self.tokenize(group):
                query, document = queries[pairs[len(rows)][0]], pairs[len(rows)][1]
                frame = frames.get(query)
                if frame is None:
                    frame = frames[query] = self._frame(query)
                length = _beginning(document, whole)
                while length < len(document) and len(ids) < self.max_length + frame.start + frame.tail + _MARGIN:
                    length *= 4
                    ids = self.tokenize([self._render(query, document[:length])])[0]
                rows.append(Prompt(ids, max(0, min(frame.start, len(ids) - frame.tail)), frame.tail))
        return rows

    def length(self, row: Prompt) -> int:
        """Return the length of a prompt in tokens after truncation."""
        return min(len(row.ids), self.max_length)

    def padded_length(self, length: int) -> int:
        """Return the width of a batch whose longest prompt has ``length`` tokens."""
        return length

    def batch(self, rows: Sequence[Prompt]) -> Batch:
        """Truncate prompts and combine them into a batch, padded on the right; it has the bounds of documents."""
        prompts = [self._cut(row, self.max_length) for row in rows]
        lengths = np.array([len(ids) for ids in prompts])
        input_ids = np.full((len(rows), int(lengths.max())), self._pad_id, dtype=np.int64)
        for index, ids in enumerate(prompts):
            input_ids[index, : len(ids)] = ids
        mask = (np.arange(input_ids.shape[1]) < lengths[:, None]).astype(np.int64)
        ends = lengths - [row.tail for row in rows]
        bounds = np.stack([np.minimum([row.start for row in rows], ends), ends], axis=1)
        return Batch(input_ids, mask, None, bounds)

    def shorten(self, row: Prompt, *, document_tokens: int | None, pair_tokens: int | None, left: bool) -> Prompt:
        """Shorten a prompt to the limits of one request. Only its document is cut."""
        document = len(row.ids) - row.start - row.tail
        limits = [self.max_length - row.start - row.tail]
        if pair_tokens is not None:
            limits.append(pair_tokens - row.start - row.tail)
        if document_tokens is not None:
            limits.append(document_tokens)
        kept = max(0, min(document, *limits))
        return self._window(row, document - kept if left else 0, kept)

    def windows(self, row: Prompt, chunks: Chunks) -> list[Prompt]:
        """Return a prompt for each window over the document; the row itself if the whole document fits."""
        document, room = len(row.ids) - row.start - row.tail, self._room(row, chunks)
        if room >= document or room < 1:
            return [row]
        return [self._window(row, start, room) for start in starts(document, room, chunks)]

    def span(self, pair: Pair, window: int, chunks: Chunks) -> Span | None:
        """Return the position of a window in the document's text; None if the tokenizer reports no positions."""
        if self._fast is None:
            return None
        [row] = self.rows([pair])
        room = self._room(row, chunks)
        start = row.start + starts(len(row.ids) - row.start - row.tail, room, chunks)[window]
        query = self._query(pair[0])
        offsets = self.offsets(self._render(query, pair[1]))[start : start + room]
        before = self._frame(query).characters
        return max(0, offsets[0][0] - before), min(len(pair[1]), offsets[-1][1] - before)

    def _query(self, query: str) -> str:
        """Return a query, truncated to the most tokens that a prompt may hold of it."""
        if len(query.encode()) < self._query_max_length:  # a text has at most one token per byte
            return query
        if self._fast is not None:
            ends = [end for _, end in self.offsets(query)]
            return query if len(ends) <= self._query_max_length else query[: ends[self._query_max_length - 1]]
        ids = self.tokenize([query])[0]
        kept = ids[: self._query_max_length]
        return query if len(kept) == len(ids) else str(self._tokenizer.decode(kept.tolist()))

    def _frame(self, query: str) -> _Frame:
        prompts = [self._render(query, filler) for filler in FILLERS]
        rows = [ids.tolist() for ids in self.tokenize(prompts)]
        start = common(rows)
        # From two prompts only: sentence-transformers finds the end that truncation keeps in the same way.
        tail = common([row[::-1] for row in rows[:2]])
        return _Frame(start, min(tail, min(map(len, rows)) - start), common(prompts))

    def _room(self, row: Prompt, chunks: Chunks) -> int:
        """Return the number of document tokens in a window."""
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


def _beginning(document: str, whole: bool) -> int:
    """Return how many characters of a document are tokenised at first."""
    return len(document) if whole else min(len(document), TOKENIZE_CHARACTERS)
