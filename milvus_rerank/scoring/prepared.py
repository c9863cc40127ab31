"""Pairs on their way through a scorer: distinct pairs, their rows and what is known of them."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from milvus_rerank.scoring import Request
from milvus_rerank.scoring.encoder import Pair, Row


class Logits(NamedTuple):
    """What a model computed for documents.

    :param values: a logit for each, float32; NaN where there is none yet.
    :param windows: the number of the window that the logit is of, int32; 0 for a document that was read whole.
    :param tokens: the tokens that the model read of each pair, padding not counted, int64.
    """

    values: NDArray[np.float32]
    windows: NDArray[np.int32]
    tokens: NDArray[np.int64]

    def take(self, positions: NDArray[np.intp]) -> "Logits":
        """Return those of some documents."""
        return Logits(self.values[positions], self.windows[positions], self.tokens[positions])


@dataclass(frozen=True, slots=True)
class TokenLimits:
    """TokenLimits of one request.

    :param document_tokens: the most tokens of a document; None for no limit.
    :param pair_tokens: the most tokens of a query with a document, special ones included; None for the model's limit.
    :param left: cut at the beginning of texts instead of their end.
    """

    document_tokens: int | None = None
    pair_tokens: int | None = None
    left: bool = False


@dataclass(frozen=True, slots=True)
class Prepared:
    """Pairs on their way through the model.

    :param pairs: distinct pairs.
    :param known: what is known of each; the logits of those to run are NaN.
    :param missing: positions of the pairs to run.
    :param rows: what to run: a row for each of them, or for each window over a long document.
    :param lengths: the tokens of each row.
    :param widths: how many tokens wide a batch must be to hold each row.
    :param window_counts: how many rows each pair to run has.
    :param cacheable: whether the logits may be remembered: not under limits of one request.
    """

    pairs: Sequence[Pair]
    known: Logits
    missing: NDArray[np.intp]
    rows: list[Row]
    lengths: list[int]
    widths: list[int]
    window_counts: list[int]
    cacheable: bool

    def tokens(self) -> NDArray[np.int64]:
        """Return the tokens of each pair, int64."""
        tokens: NDArray[np.int64] = self.known.tokens.copy()
        ends = np.cumsum([0, *self.window_counts])
        totals = np.cumsum([0, *self.lengths])
        tokens[self.missing] = totals[ends[1:]] - totals[ends[:-1]]
        return tokens


def split_pairs(pairs: Sequence[Pair], count: int, characters: int) -> Iterator[list[Pair]]:
    """Yield pairs in parts that bound what is held of them in memory.

    :param pairs: queries and documents.
    :param count: the most pairs of a part.
    :param characters: the most characters of its documents; one document alone may have more.
    :yields: the pairs in their order.
    """
    part: list[Pair] = []
    size = 0
    for pair in pairs:
        if part and (len(part) == count or size + len(pair[1]) > characters):
            yield part
            part, size = [], 0
        part.append(pair)
        size += len(pair[1])
    if part:
        yield part


def distinct_pairs(requests: Sequence[Request]) -> tuple[list[Pair], list[NDArray[np.intp]]]:
    """Return the distinct pairs of requests, and the position of each document among them.

    :param requests: queries with their documents.
    :returns: the pairs, and for each request an array with one position per document.
    """
    numbers: dict[Pair, int] = {}
    positions = [
        np.array([numbers.setdefault((query, text), len(numbers)) for text in documents], dtype=np.intp)
        for query, documents in requests
    ]
    return list(numbers), positions


def unknown_logits(count: int) -> Logits:
    """Return a logit of NaN for each of so many pairs."""
    return Logits(
        np.full(count, np.nan, dtype=np.float32), np.zeros(count, dtype=np.int32), np.zeros(count, dtype=np.int64)
    )
