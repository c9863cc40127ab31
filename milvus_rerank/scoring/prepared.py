"""Pairs on their way through a scorer: distinct pairs, their rows and their known logits."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from milvus_rerank.scoring import Request
from milvus_rerank.scoring.encoder import Pair, Row

LOGIT = np.dtype([("value", np.float32), ("window", np.int32), ("tokens", np.int64)])
"""Logit of a document: its value, NaN if unknown; the number of the window that has it, 0 for a document that was read
whole; and the number of tokens that the model read of the pair, without padding."""

Logits: TypeAlias = NDArray[np.void]
"""Array of :data:`LOGIT`, one for each document."""


@dataclass(frozen=True, slots=True)
class TokenLimits:
    """Token limits of one request.

    :param document_tokens: the most tokens of a document; None for no limit.
    :param pair_tokens: the most tokens of a query with a document, special ones included; None for the model's limit.
    :param left: whether to cut texts at the beginning instead of the end.
    """

    document_tokens: int | None = None
    pair_tokens: int | None = None
    left: bool = False


@dataclass(frozen=True, slots=True)
class Prepared:
    """Pairs that are ready for the model.

    :param pairs: distinct pairs.
    :param logits: their logits, with a value of NaN for the pairs to run.
    :param missing: positions of the pairs to run.
    :param rows: a row for each pair to run, or for each window over its long document.
    :param lengths: the tokens of each row.
    :param widths: for each row, the width in tokens of a batch that holds it.
    :param window_counts: the number of rows of each pair to run.
    :param cacheable: whether the score cache may keep the logits: not under limits of one request.
    """

    pairs: Sequence[Pair]
    logits: Logits
    missing: NDArray[np.intp]
    rows: list[Row]
    lengths: list[int]
    widths: list[int]
    window_counts: list[int]
    cacheable: bool


def split_pairs(pairs: Sequence[Pair], count: int, characters: int) -> Iterator[list[Pair]]:
    """Yield pairs in parts, so that memory holds the rows of a bounded number of texts.

    The first of several parts is a quarter: the engine waits until its texts are tokenised.

    :param pairs: queries and documents.
    :param count: the most pairs of a part.
    :param characters: the most characters of its documents; one document alone may have more.
    :yields: the pairs in their order.
    """
    part: list[Pair] = []
    size = 0
    most = count if len(pairs) <= count else max(1, count // 4)
    for pair in pairs:
        if part and (len(part) == most or size + len(pair[1]) > characters):
            yield part
            part, size, most = [], 0, count
        part.append(pair)
        size += len(pair[1])
    if part:
        yield part


def distinct_pairs(requests: Sequence[Request]) -> tuple[list[Pair], list[NDArray[np.intp]]]:
    """Return the distinct pairs of requests, and for each request an array with the position of each document."""
    numbers: dict[Pair, int] = {}
    positions = [
        np.array([numbers.setdefault((query, text), len(numbers)) for text in documents], dtype=np.intp)
        for query, documents in requests
    ]
    return list(numbers), positions
