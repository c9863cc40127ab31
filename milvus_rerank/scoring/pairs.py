"""Token ids of (query, document) pairs, put together from texts that are tokenised once each."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from milvus_rerank.engines.base import Batch
from milvus_rerank.errors import InputError, ModelError

Ids = NDArray[np.int64]
Truncation = Literal["longest_first", "only_second"]


@dataclass(frozen=True, slots=True)
class PairTemplate:
    """The special tokens that a tokenizer puts around a query and a document.

    :param prefix: token ids before the query.
    :param middle: token ids between the query and the document.
    :param suffix: token ids after the document.
    :param types: token type of prefix, query, middle, document and suffix: one number each.
    """

    prefix: tuple[int, ...]
    middle: tuple[int, ...]
    suffix: tuple[int, ...]
    types: tuple[int, int, int, int, int]

    @property
    def size(self) -> int:
        """How many special tokens one pair holds."""
        return len(self.prefix) + len(self.middle) + len(self.suffix)


class PairEncoder:
    """Turn texts into token ids, and pairs of them into padded batches.

    The tokenizer's settings are fixed here, once: padding and truncation happen outside it. A tokenizer whose settings
    change from call to call gives wrong lengths when threads share it.

    :param tokenizer: a transformers tokenizer; a private copy is taken of a fast one's core.
    :param max_length: the most tokens of one pair, special tokens included.
    :param query_max_length: the most tokens of a query. One that leaves the document no room becomes three quarters of
        ``max_length``; so does None with ``only_second``, while with ``longest_first`` it means no limit of its own.
    :param truncation: ``longest_first`` shortens the longer of the two, as sentence-transformers does;
        ``only_second`` shortens the document, as FlagEmbedding does.
    :param pad_to_multiple_of: batches are as wide as a multiple of this, or ``max_length``, as the engine likes it.
    :raises InputError: if ``max_length`` leaves no room beside the special tokens.
    """

    def __init__(
        self,
        tokenizer: Any,
        *,
        max_length: int,
        query_max_length: int | None = None,
        truncation: Truncation = "longest_first",
        pad_to_multiple_of: int = 1,
    ) -> None:
        self._tokenizer = tokenizer
        self._fast = _private_copy(tokenizer)
        self._template = find_template(tokenizer)
        self._suffix = np.array(self._template.suffix, dtype=np.int64)
        self._room = max_length - self._template.size
        self._truncation = truncation
        self._left = tokenizer.truncation_side == "left"
        self._pad_left = tokenizer.padding_side == "left"
        self._pad_id = tokenizer.pad_token_id or 0
        self._pad_type = tokenizer.pad_token_type_id
        self._with_types = "token_type_ids" in tokenizer.model_input_names
        self._multiple = pad_to_multiple_of
        self.max_length = max_length
        if self._room < 2:
            raise InputError(
                f"max_length={max_length} leaves no room beside {self._template.size} special tokens; "
                f"use at least {self._template.size + 2}"
            )
        self._query_max_length = self._query_limit(query_max_length)

    def tokenize(self, texts: Sequence[str]) -> list[Ids]:
        """Return the token ids of each text, without special tokens and not shortened.

        :param texts: any texts, empty ones too.
        :returns: one int64 array per text.
        """
        if self._fast is not None:
            encodings = self._fast.encode_batch_fast(list(texts), add_special_tokens=False)
            return [np.array(encoding.ids, dtype=np.int64) for encoding in encodings]
        ids = self._tokenizer(list(texts), add_special_tokens=False)["input_ids"] if texts else []
        return [np.array(row, dtype=np.int64) for row in ids]

    def lengths(self, query: int, document: int) -> tuple[int, int]:
        """Return how many tokens of a query and of a document go into their pair.

        :param query: the query's tokens.
        :param document: the document's tokens.
        :returns: tokens kept of each; together with the special tokens at most ``max_length``.
        """
        if self._query_max_length is not None:
            query = min(query, self._query_max_length)
        if query + document <= self._room:
            return query, document
        if self._truncation == "only_second":
            return query, self._room - query
        # The rule of the tokenizers library: the shorter text stays whole if the other can take the cut,
        # else both get half, and the longer one the odd token.
        shorter, longer = min(query, document), max(query, document)
        longer = max(shorter, self._room - shorter)
        if shorter + longer > self._room:
            shorter = self._room // 2
            longer = shorter + self._room % 2
        return (shorter, longer) if query <= document else (longer, shorter)

    def pair_length(self, query: Ids, document: Ids) -> int:
        """Return the true length of a pair in tokens, special tokens included."""
        return sum(self.lengths(len(query), len(document))) + self._template.size

    def shorten(
        self, query: Ids, document: Ids, *, document_tokens: int | None, pair_tokens: int | None, left: bool
    ) -> tuple[Ids, Ids]:
        """Return the tokens of a pair that are left under limits of one request.

        :param query: the query's token ids.
        :param document: the document's token ids.
        :param document_tokens: the most tokens of the document; None for no limit of its own.
        :param pair_tokens: the most tokens of the pair, special ones included; the document gives way. None for no more
            limit than ``max_length``.
        :param left: cut at the beginning of texts instead of their end.
        :returns: token ids that :meth:`batch` need not cut.
        """
        room = len(document) if document_tokens is None else min(len(document), document_tokens)
        if pair_tokens is not None:
            room = min(room, max(0, pair_tokens - self._template.size - len(query)))
        kept_query, kept = self.lengths(len(query), room)
        if left:
            return query[len(query) - kept_query :], document[len(document) - kept :]
        return query[:kept_query], document[:kept]

    def padded_length(self, length: int) -> int:
        """Return the width of a batch whose longest pair has so many tokens."""
        return min(-(-length // self._multiple) * self._multiple, max(length, self.max_length))

    def batch(self, pairs: Sequence[tuple[Ids, Ids]]) -> Batch:
        """Put pairs together and pad them to the longest, or a little more.

        :param pairs: token ids of query and document, as :meth:`tokenize` returns them.
        :returns: int64 arrays of shape ``(pairs, tokens)``.
        """
        suffix = self._suffix
        heads: dict[tuple[int, int], tuple[Ids, Ids]] = {}  # the part before the document, once for each query
        rows: list[tuple[tuple[Ids, Ids], Ids]] = []
        for query, document in pairs:
            kept_query, kept_document = self.lengths(len(query), len(document))
            head = heads.get((id(query), kept_query))
            if head is None:
                head = heads[id(query), kept_query] = self._head(query, kept_query)
            rows.append((head, self._cut(document, kept_document)))
        lengths = np.array([len(head[0]) + len(document) for head, document in rows]) + len(suffix)
        width = self.padded_length(int(lengths.max()))
        first = (width - lengths if self._pad_left else np.zeros_like(lengths)).tolist()
        input_ids = np.full((len(rows), width), self._pad_id, dtype=np.int64)
        types = np.full((len(rows), width), self._pad_type, dtype=np.int64) if self._with_types else None
        for index, ((head_ids, head_types), document) in enumerate(rows):
            start = first[index]
            middle = start + len(head_ids)
            end = middle + len(document)
            row = input_ids[index]
            row[start:middle] = head_ids
            row[middle:end] = document
            row[end : end + len(suffix)] = suffix
            if types is not None:
                kinds = types[index]
                kinds[start:middle] = head_types
                kinds[middle:end] = self._template.types[3]
                kinds[end : end + len(suffix)] = self._template.types[4]
        places = np.arange(width)
        kept = places >= (width - lengths)[:, None] if self._pad_left else places < lengths[:, None]
        return Batch(input_ids, kept.astype(np.int64), types)

    def _query_limit(self, limit: int | None) -> int | None:
        if limit is None and self._truncation == "longest_first":
            return None
        if limit is None or limit >= self._room:
            return max(1, min(self.max_length * 3 // 4, self._room - 1))
        return limit

    def _head(self, query: Ids, kept: int) -> tuple[Ids, Ids]:
        """Return ids and token types of all that stands before the document."""
        template = self._template
        parts = (template.prefix, self._cut(query, kept), template.middle)
        ids = np.concatenate([np.asarray(part, dtype=np.int64) for part in parts])
        return ids, np.repeat(np.array(template.types[:3], dtype=np.int64), [len(part) for part in parts])

    def _cut(self, ids: Ids, length: int) -> Ids:
        return ids[len(ids) - length :] if self._left else ids[:length]


def find_template(tokenizer: Any) -> PairTemplate:
    """Read off a tokenizer how it puts a pair together.

    :param tokenizer: a transformers tokenizer.
    :returns: its special tokens and token types.
    :raises ModelError: if its pairs are no plain row of query and document with special tokens around them.
    """
    # Two texts of each alphabet a vocabulary may have; the first two that the tokenizer tells apart are used.
    for query, document in (("a", "b"), ("1", "2"), ("的", "是"), ("あ", "い")):
        left, right = (tokenizer(text, add_special_tokens=False)["input_ids"] for text in (query, document))
        whole = tokenizer([query], [document], return_token_type_ids=True)
        template = _split(whole["input_ids"][0], whole["token_type_ids"][0], left, right) if left != right else None
        if template is not None and _holds(tokenizer, template):
            return template
    raise ModelError(
        f"{type(tokenizer).__name__} does not put a pair together as special tokens around query and document, "
        "which is the only form supported"
    )


def _split(ids: list[int], types: list[int], left: list[int], right: list[int]) -> PairTemplate | None:
    for start in range(len(ids) - len(left) - len(right) + 1):
        if ids[start : start + len(left)] != left:
            continue
        end = start + len(left)
        for second in range(end, len(ids) - len(right) + 1):
            if ids[second : second + len(right)] == right:
                last = second + len(right)
                bounds = ((0, start), (start, end), (end, second), (second, last), (last, len(ids)))
                kinds = [set(types[low:high]) for low, high in bounds]
                if any(len(kind) > 1 for kind in kinds):
                    return None
                numbers = [kind.pop() if kind else 0 for kind in kinds]
                return PairTemplate(
                    tuple(ids[:start]),
                    tuple(ids[end:second]),
                    tuple(ids[last:]),
                    (numbers[0], numbers[1], numbers[2], numbers[3], numbers[4]),
                )
    return None


def _holds(tokenizer: Any, template: PairTemplate) -> bool:
    """Tell whether the template makes what the tokenizer makes, an empty document included."""
    for query, document in (("who is it", "it is a test 12"), ("a query", "")):
        left, right = (list(tokenizer(text, add_special_tokens=False)["input_ids"]) for text in (query, document))
        made = [*template.prefix, *left, *template.middle, *right, *template.suffix]
        if list(tokenizer([query], [document])["input_ids"][0]) != made:  # lists: a lone "" would count as no document
            return False
    return True


def _private_copy(tokenizer: Any) -> Any:
    """Return the Rust core of a fast tokenizer with padding and truncation off, None for a tokenizer in Python."""
    core = getattr(tokenizer, "backend_tokenizer", None) if getattr(tokenizer, "is_fast", False) else None
    if core is None:
        return None
    copy = type(core).from_str(core.to_str())
    copy.no_padding()
    copy.no_truncation()
    return copy
