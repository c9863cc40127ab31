"""Token ids of (query, document) pairs, assembled from texts that are tokenised once each."""

import sys
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np

from milvus_rerank.engines.base import Batch
from milvus_rerank.errors import InputError
from milvus_rerank.models.files import FileTokenizer
from milvus_rerank.scoring import check_stop
from milvus_rerank.scoring.caches import TOKEN_CACHE, Ids, TokenCache
from milvus_rerank.scoring.encoder import FILLERS, Chunks, Pair, Span, common, starts
from milvus_rerank.scoring.pair_template import PairTemplate, find_template
from milvus_rerank.scoring.tokenizing import TOKENIZE_CHARACTERS, TokenizingEncoder, groups, private_copy

Truncation = Literal["longest_first", "only_second"]
Row: TypeAlias = tuple[Ids, Ids]


@dataclass(frozen=True, slots=True)
class Affixes:
    """Texts before and after the query and the document of a pair, such as an instruction."""

    query_before: str = ""
    query_after: str = ""
    document_before: str = ""
    document_after: str = ""

    def query(self, text: str) -> str:
        """Return a query with the texts around it."""
        return f"{self.query_before}{text}{self.query_after}"

    def document(self, text: str) -> str:
        """Return a document with the texts around it."""
        return f"{self.document_before}{text}{self.document_after}"


class PairEncoder(TokenizingEncoder):
    """Turn texts into token ids, and pairs of token ids into padded batches.

    :param tokenizer: a transformers tokenizer.
    :param max_length: the most tokens of one pair, special tokens included.
    :param query_max_length: the most tokens of a query. A limit that leaves no room for the document becomes three
        quarters of ``max_length``. None means the same with ``only_second``, and no separate limit with
        ``longest_first``.
    :param document_max_length: the most tokens of a document; None for no separate limit.
    :param truncation: ``longest_first`` shortens the longer of the two texts, as sentence-transformers does;
        ``only_second`` shortens the document, as FlagEmbedding does.
    :param pad_to_multiple_of: the engine's preferred width: batches are as wide as a multiple of it, or ``max_length``.
    :param affixes: the texts to add around queries and documents before tokenisation.
    :param template: the special tokens of a pair; None reads them from the tokenizer.
    :param pad_right: whether to pad at the end even if the tokenizer pads at the beginning.
    :param with_bounds: whether batches hold the bounds of documents, for engines that need them.
    :param token_cache: the most bytes of texts and tokens to keep in the token cache; 0 turns the cache off.
    :raises InputError: if ``max_length`` leaves no room next to the special tokens.
    """

    def __init__(
        self,
        tokenizer: Any,
        *,
        max_length: int,
        query_max_length: int | None = None,
        document_max_length: int | None = None,
        truncation: Truncation = "longest_first",
        pad_to_multiple_of: int = 1,
        affixes: Affixes | None = None,
        template: PairTemplate | None = None,
        pad_right: bool = False,
        with_bounds: bool = False,
        token_cache: int = TOKEN_CACHE,
    ) -> None:
        self._tokenizer = tokenizer
        # The core of a FileTokenizer is private: its settings never change.
        is_private = isinstance(tokenizer, FileTokenizer)
        self._fast = tokenizer.backend_tokenizer if is_private else private_copy(tokenizer)
        self._template = template or find_template(tokenizer)
        self._prefix, self._middle, self._suffix = (
            np.array(part, dtype=np.int64)
            for part in (self._template.prefix, self._template.middle, self._template.suffix)
        )
        self._special = len(self._template.prefix) + len(self._template.middle) + len(self._template.suffix)
        self._room = max_length - self._special
        self._document_max_length = sys.maxsize if document_max_length is None else document_max_length
        self._truncation = truncation
        self._left = tokenizer.truncation_side == "left"
        self._pad_left = tokenizer.padding_side == "left" and not pad_right
        self._pad_id = tokenizer.pad_token_id or 0
        self._pad_type = tokenizer.pad_token_type_id
        self._with_types = "token_type_ids" in tokenizer.model_input_names
        self._with_bounds = with_bounds
        self._multiple = pad_to_multiple_of
        self._affixes = affixes or Affixes()
        self._tokens = TokenCache(token_cache)
        self.max_length = max_length
        if self._room < 2:
            raise InputError(
                f"max_length={max_length} leaves no room beside {self._special} special tokens; "
                f"use at least {self._special + 2}"
            )
        if query_max_length is None and truncation == "longest_first":
            self._query_max_length = sys.maxsize
        elif query_max_length is None or query_max_length >= self._room:
            self._query_max_length = max(1, min(max_length * 3 // 4, self._room - 1))
        else:
            self._query_max_length = query_max_length
        affixed = self._affixes.document_before or self._affixes.document_after
        self._around = self._tokens_around() if affixed else (0, 0)

    def rows(self, pairs: Sequence[Pair], stop: threading.Event | None = None, *, whole: bool = False) -> list[Row]:
        """Return pairs of texts as pairs of token ids; each text is tokenised once, unless it is in the cache.

        :param pairs: queries and documents.
        :param stop: when set, the work ends early.
        :param whole: whether all tokens of long documents are wanted, not only those that fit a pair.
        :returns: one row per pair.
        :raises StoppedError: if ``stop`` was set.
        """
        texts, affixes = pairs, self._affixes
        if affixes != Affixes():
            texts = [(affixes.query(query), affixes.document(document)) for query, document in pairs]
        distinct = list(dict.fromkeys(text for pair in texts for text in pair))
        ids = self._tokens.get(distinct)
        absent = [text for text in distinct if text not in ids and len(text) <= TOKENIZE_CHARACTERS]
        for group in groups(absent):
            if stop is not None:
                check_stop(stop)
            tokenized = self.tokenize(group)
            self._tokens.put(group, tokenized)
            ids.update(zip(group, tokenized, strict=True))
        if len(ids) < len(distinct):
            self._add_long_texts(ids, texts, stop, whole or self._left)
        return [(ids[query], ids[document]) for query, document in texts]

    def _add_long_texts(
        self, ids: dict[str, Ids], texts: Sequence[Pair], stop: threading.Event | None, whole: bool
    ) -> None:
        """Add the token ids of long texts, of documents only those that can enter a pair; they are not cached."""
        for query, _ in texts:
            if query not in ids:
                ids[query] = self.tokenize_long(query, None, stop)
        # Next to a query that fills the pair alone, the lengths of both texts decide which tokens are kept.
        wanted = None if whole or any(len(ids[query]) > self._room for query, _ in texts) else self._room
        for _, document in texts:
            if document not in ids:
                ids[document] = self.tokenize_long(document, wanted, stop)

    def lengths(self, query: int, document: int) -> tuple[int, int]:
        """Return how many tokens of a query and of a document enter their pair.

        :param query: the number of tokens of the query.
        :param document: the number of tokens of the document.
        :returns: the numbers of tokens kept; with the special tokens at most ``max_length``.
        """
        query, document = min(query, self._query_max_length), min(document, self._document_max_length)
        if query + document <= self._room:
            return query, document
        if self._truncation == "only_second":
            return query, self._room - query
        # The rule of the tokenizers library: the shorter text stays whole if cutting the longer text suffices,
        # else both get half, and the longer text gets the odd token.
        shorter, longer = min(query, document), max(query, document)
        longer = max(shorter, self._room - shorter)
        if shorter + longer > self._room:
            shorter = self._room // 2
            longer = shorter + self._room % 2
        return (shorter, longer) if query <= document else (longer, shorter)

    def length(self, row: Row) -> int:
        """Return the true length of a pair in tokens, special tokens included."""
        query, document = row
        wanted = min(len(query), self._query_max_length) + min(len(document), self._document_max_length)
        return min(wanted, self._room) + self._special

    def shorten(self, row: Row, *, document_tokens: int | None, pair_tokens: int | None, left: bool) -> Row:
        """Shorten a pair to the limits of one request."""
        query, document = row
        room = len(document) if document_tokens is None else min(len(document), document_tokens)
        if pair_tokens is not None:
            room = min(room, max(0, pair_tokens - self._special - len(query)))
        kept_query, kept = self.lengths(len(query), room)
        if left:
            return query[len(query) - kept_query :], document[len(document) - kept :]
        return query[:kept_query], document[:kept]

    def windows(self, row: Row, chunks: Chunks) -> list[Row]:
        """Return the query with each window over the document; without affixes, their ids are views."""
        query, document = row
        before, step, after = self._window(row, chunks)
        if before + step + after >= len(document):
            return [row]
        text = document[before : len(document) - after]
        parts = [text[start : start + step] for start in starts(len(text), step, chunks)]
        if before or after:
            parts = [np.concatenate([document[:before], part, document[len(document) - after :]]) for part in parts]
        return [(query, part) for part in parts]

    def span(self, pair: Pair, window: int, chunks: Chunks) -> Span | None:
        """Return the position of a window in the document's text; None if the tokenizer reports no positions."""
        if self._fast is None:
            return None
        [row] = self.rows([pair])
        before, step, after = self._window(row, chunks)
        start = before + starts(len(row[1]) - before - after, step, chunks)[window]
        offsets = self.offsets(self._affixes.document(pair[1]))[start : start + step]
        shift = len(self._affixes.document_before)
        return max(0, offsets[0][0] - shift), min(len(pair[1]), offsets[-1][1] - shift)

    def padded_length(self, length: int) -> int:
        """Return the width of a batch whose longest pair has ``length`` tokens."""
        return min(-(-length // self._multiple) * self._multiple, max(length, self.max_length))

    def batch(self, rows: Sequence[Row]) -> Batch:
        """Truncate pairs and combine them into a batch, padded to the longest pair or slightly more."""
        template = self._template
        suffix = self._suffix
        heads: dict[tuple[int, int], tuple[Ids, Ids]] = {}  # the part before the document, once for each query
        parts: list[tuple[Ids, Ids, Ids]] = []
        for query, document in rows:
            kept_query, kept = self.lengths(len(query), len(document))
            head = heads.get((id(query), kept_query))
            if head is None:
                kept_ids = query[len(query) - kept_query :] if self._left else query[:kept_query]
                head_types = np.repeat(template.types[:3], [len(template.prefix), kept_query, len(template.middle)])
                head = np.concatenate([self._prefix, kept_ids, self._middle]), head_types
                heads[id(query), kept_query] = head
            parts.append((*head, document[len(document) - kept :] if self._left else document[:kept]))
        head_lengths = np.array([len(head) for head, _, _ in parts])
        ends = head_lengths + [len(document) for _, _, document in parts]
        lengths = ends + len(suffix)
        width = self.padded_length(int(lengths.max()))
        shifts = width - lengths if self._pad_left else np.zeros_like(lengths)
        input_ids = np.full((len(parts), width), self._pad_id, dtype=np.int64)
        types = np.full_like(input_ids, self._pad_type) if self._with_types else None
        for index, (start, (head_ids, head_types, document)) in enumerate(zip(shifts.tolist(), parts, strict=True)):
            middle = start + len(head_ids)
            end = middle + len(document)
            row_ids = input_ids[index]
            row_ids[start:middle] = head_ids
            row_ids[middle:end] = document
            row_ids[end : end + len(suffix)] = suffix
            if types is not None:
                row_types = types[index]
                row_types[start:middle] = head_types
                row_types[middle:end] = template.types[3]
                row_types[end : end + len(suffix)] = template.types[4]
        bounds = np.stack([head_lengths, ends], axis=1) + shifts[:, None] if self._with_bounds else None
        columns = np.arange(width)
        mask = (columns >= shifts[:, None]) & (columns < (shifts + lengths)[:, None])
        return Batch(input_ids, mask.astype(np.int64), types, bounds)

    def _window(self, row: Row, chunks: Chunks) -> tuple[int, int, int]:
        """Return the tokens of a window: of the affix before the text, of the text, and of the affix after it."""
        before, after = self._around
        room = self.lengths(len(row[0]), len(row[1]))[1]
        # Computed twice: next to a truncated query, a window may get one token less than the whole document did.
        room = self.lengths(len(row[0]), room)[1] - before - after
        return before, max(1, room if chunks.tokens is None else min(room, chunks.tokens)), after

    def _tokens_around(self) -> tuple[int, int]:
        """Return the numbers of tokens that the document's affixes add before its text and after it."""
        rows = [ids.tolist() for ids in self.tokenize([self._affixes.document(filler) for filler in FILLERS])]
        before = common(rows)
        return before, min(common([row[::-1] for row in rows]), min(map(len, rows)) - before)
