"""Bounded, thread-safe caches: token ids of texts, and logits of pairs."""

import hashlib
import sys
import threading
from collections.abc import Hashable, Sequence
from typing import Any, NamedTuple

import numpy as np
from cachetools import LRUCache
from numpy.typing import NDArray

from milvus_rerank.forks import ForkLock
from milvus_rerank.validation import check_count

Ids = NDArray[np.int64]

TOKEN_CACHE = 16_000_000
"""Default size of the token cache in bytes: some 10,000 documents of 40 tokens, or 5,000 of 200."""

_ENTRY_BYTES = 420  # of an entry beside its text and tokens: objects and the links of the cache, as tracemalloc counts


class TokenCache:
    """Least recently used cache of the token ids of documents.

    :param max_bytes: the most bytes to keep, texts included; 0 keeps nothing.
    """

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self._lock = threading.Lock()
        self._ids: LRUCache[str, tuple[Ids, int]] = LRUCache(max_bytes, getsizeof=lambda entry: entry[1])

    def get(self, texts: Sequence[str]) -> dict[str, Ids]:
        """Return the token ids of those texts that are in the cache."""
        with self._lock:
            return {text: self._ids[text][0] for text in texts if text in self._ids}

    def put(self, texts: Sequence[str], ids: Sequence[Ids]) -> None:
        """Store token ids; a text longer than the whole cache is skipped.

        :param texts: the texts.
        :param ids: the token ids of each text, which the caller must not change.
        """
        with self._lock:
            for text, text_ids in zip(texts, ids, strict=True):
                size = sys.getsizeof(text) + text_ids.nbytes + _ENTRY_BYTES
                if size <= self.max_bytes:
                    self._ids[text] = text_ids, size


class CachedScore(NamedTuple):
    """Cached result of a pair.

    :param logit: its logit.
    :param window: the number of the window of a long document that has this logit.
    :param tokens: the number of tokens that the model read.
    """

    logit: float
    window: int = 0
    tokens: int = 0


class ScoreCache:
    """Least recently used cache of the logits of pairs. Several rerankers can share it.

    Texts are kept as 16-byte digests, so a pair of any length takes about 400 bytes. A pickle holds none of
    them.

    :param max_pairs: the most pairs to keep; the least recently used pairs are dropped first.
    :raises InputError: if ``max_pairs`` is not a positive integer.
    """

    def __init__(self, max_pairs: int = 100_000) -> None:
        self.max_pairs = check_count(max_pairs, "max_pairs")
        self._lock = ForkLock()
        self._scores: LRUCache[Hashable, CachedScore] = LRUCache(self.max_pairs)
        self.hits = 0
        self.misses = 0

    def get(self, settings: Hashable, pairs: Sequence[tuple[str, str]]) -> list[CachedScore | None]:
        """Return the cached result of each pair, None for pairs that are not in the cache; ``settings`` as in put."""
        keys = [_digest(pair) for pair in pairs]
        with self._lock:
            scores = [self._scores.get((settings, key)) for key in keys]
            hits = sum(score is not None for score in scores)
            self.hits += hits
            self.misses += len(scores) - hits
        return scores

    def put(self, settings: Hashable, pairs: Sequence[tuple[str, str]], scores: Sequence[CachedScore]) -> None:
        """Store the results of pairs.

        :param settings: the model and everything else that logits depend on.
        :param pairs: queries and documents.
        :param scores: one result per pair.
        """
        keys = [_digest(pair) for pair in pairs]
        with self._lock:
            self._scores.update({(settings, key): score for key, score in zip(keys, scores, strict=True)})

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.max_pairs,)

    def __len__(self) -> int:
        """Return the number of pairs in the cache."""
        return len(self._scores)

    def __repr__(self) -> str:
        return f"ScoreCache(max_pairs={self.max_pairs})"


def _digest(pair: tuple[str, str]) -> bytes:
    query = pair[0].encode()
    # The query's length comes first, so that different pairs never give the same bytes.
    return hashlib.blake2b(len(query).to_bytes(8, "little") + query + pair[1].encode(), digest_size=16).digest()
