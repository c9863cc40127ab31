"""PairScorer: many queries and their documents in, scores in the caller's order out."""

import itertools
import logging
import threading
from collections import deque
from collections.abc import Hashable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from milvus_rerank.engines.base import Engine
from milvus_rerank.errors import OutOfMemoryError
from milvus_rerank.scoring import Request, check_stop
from milvus_rerank.scoring.activation import Activation, raw
from milvus_rerank.scoring.batches import by_length, cut
from milvus_rerank.scoring.caches import TOKEN_CACHE, ScoreCache, TokenCache
from milvus_rerank.scoring.pairs import Ids, PairEncoder

logger = logging.getLogger(__name__)

TOKENIZE_AT_ONCE = 1024
"""Texts tokenised between two looks at ``stop``."""
WINDOW = 4096
"""Pairs sorted together: the next ones are tokenised while these are scored. Enough for batches without padding."""

Pair = tuple[str, str]
Row = tuple[Ids, Ids]


class PairScorer:
    """Score pairs with a cross-encoder. One object may be shared by threads.

    :param encoder: makes token ids and batches.
    :param engine: runs the model.
    :param activation: from logits to scores.
    :param max_batch_tokens: the budget of one batch, padding included. It shrinks by itself, for good, when the
        device runs out of memory.
    :param show_progress: show a progress bar on stderr.
    :param token_cache: how many tokens of documents to remember; 0 for none.
    :param score_cache: remembers logits; None for none.
    :param settings: what tells this model and these settings from others in a shared ``score_cache``.
    """

    def __init__(
        self,
        encoder: PairEncoder,
        engine: Engine,
        *,
        activation: Activation = raw,
        max_batch_tokens: int = 2048,
        show_progress: bool = False,
        token_cache: int = TOKEN_CACHE,
        score_cache: ScoreCache | None = None,
        settings: Hashable = None,
    ) -> None:
        self.encoder = encoder
        self.engine = engine
        self.activation = activation
        self.max_batch_tokens = max_batch_tokens
        self.show_progress = show_progress
        self.score_cache = score_cache
        self.settings = settings
        self._tokens = TokenCache(token_cache)

    def score(self, requests: Sequence[Request], stop: threading.Event | None = None) -> list[list[float]]:
        """Score every document of every request in one pass.

        :param requests: queries with their documents.
        :param stop: when set, the work ends before its next batch.
        :returns: one list of scores per request, in the order of its documents.
        :raises StoppedError: if ``stop`` was set.
        :raises OutOfMemoryError: if a single pair does not fit the device.
        """
        return self.activate(self.logits(requests, stop))

    def activate(self, logits: Sequence[NDArray[np.float32]]) -> list[list[float]]:
        """Return the scores of logits, as lists of the same lengths."""
        whole = np.concatenate([*logits, np.empty(0, dtype=np.float32)])
        scores = [float(score) for score in self.activation(whole)] if len(whole) else []
        ends = np.cumsum([0, *map(len, logits)])
        return [scores[start:end] for start, end in itertools.pairwise(ends)]

    def logits(self, requests: Sequence[Request], stop: threading.Event | None = None) -> list[NDArray[np.float32]]:
        """Return what the model says of every document of every request, before the activation.

        Each distinct text is tokenised once and each distinct pair is scored once.

        :param requests: queries with their documents.
        :param stop: when set, the work ends before its next batch.
        :returns: one array per request, in the order of its documents.
        :raises StoppedError: if ``stop`` was set.
        :raises OutOfMemoryError: if a single pair does not fit the device.
        """
        numbers: dict[Pair, int] = {}
        for query, documents in requests:
            for document in documents:
                numbers.setdefault((query, document), len(numbers))
        made = self._logits(list(numbers), stop or threading.Event()) if numbers else np.empty(0, dtype=np.float32)
        places = [np.array([numbers[query, document] for document in own], dtype=np.intp) for query, own in requests]
        return [made[own] for own in places]

    def rows(self, pairs: Sequence[Pair]) -> list[Row]:
        """Return pairs of texts as pairs of token ids, for :meth:`forward`.

        :param pairs: queries and documents; each text is tokenised once, and not at all if it is remembered.
        :returns: one row per pair.
        """
        ids = self._tokenize(pairs, threading.Event())
        return [(ids[query], ids[document]) for query, document in pairs]

    def widths(self, rows: Sequence[Row]) -> list[int]:
        """Return how wide, in tokens, a batch must be to hold each row."""
        return [self.encoder.padded_length(self.encoder.pair_length(query, document)) for query, document in rows]

    def forward(self, rows: Sequence[Row]) -> NDArray[np.float32]:
        """Run the model once.

        :param rows: one batch, as :meth:`rows` made them.
        :returns: one logit per row.
        :raises OutOfMemoryError: if they do not fit the device; ``max_batch_tokens`` is then half of what was tried.
        """
        try:
            return self.engine.logits(self.encoder.batch(rows))
        except OutOfMemoryError:
            if len(rows) > 1:
                self._shrink(len(rows) * max(self.widths(rows)))
            raise

    def _logits(self, pairs: list[Pair], stop: threading.Event) -> NDArray[np.float32]:
        """Return the logits of distinct pairs, from the score cache where it has them."""
        if self.score_cache is None:
            return self._run(pairs, stop)
        known = self.score_cache.get(self.settings, pairs)
        absent = [place for place, logit in enumerate(known) if logit is None]
        logits = np.array([np.nan if logit is None else logit for logit in known], dtype=np.float32)
        if absent:
            fresh = [pairs[place] for place in absent]
            logits[absent] = made = self._run(fresh, stop)
            self.score_cache.put(self.settings, fresh, made.tolist())
        return logits

    def _run(self, pairs: list[Pair], stop: threading.Event) -> NDArray[np.float32]:
        logits = np.empty(len(pairs), dtype=np.float32)
        start = 0
        with tqdm(total=len(pairs), unit="pair", desc="rerank", disable=not self.show_progress) as bar:
            for some, ids in self._tokenized(pairs, stop):
                logits[start : start + len(some)] = self._run_window(some, ids, stop, bar)
                start += len(some)
        return logits

    def _run_window(
        self, pairs: list[Pair], ids: dict[str, Ids], stop: threading.Event, bar: "tqdm[None]"
    ) -> NDArray[np.float32]:
        rows = [(ids[query], ids[document]) for query, document in pairs]
        logits = np.empty(len(pairs), dtype=np.float32)
        order = by_length([self.encoder.pair_length(query, document) for query, document in rows])
        lengths = self.widths(rows)
        waiting = deque(cut(order, lengths, self.max_batch_tokens))
        while waiting:
            check_stop(stop)
            batch = waiting.popleft()
            try:
                logits[batch] = self.forward([rows[index] for index in batch])
            except OutOfMemoryError:
                if len(batch) == 1:
                    raise
                left = [*batch, *(index for later in waiting for index in later)]
                waiting = deque(cut(left, lengths, self.max_batch_tokens))
            else:
                bar.update(len(batch))
        return logits

    def _tokenized(self, pairs: list[Pair], stop: threading.Event) -> Iterator[tuple[list[Pair], dict[str, Ids]]]:
        """Yield windows of pairs with the token ids of their texts, the next one made while this one is used."""
        windows = [pairs[start : start + WINDOW] for start in range(0, len(pairs), WINDOW)]
        if len(windows) == 1:
            yield pairs, self._tokenize(pairs, stop)
            return
        with ThreadPoolExecutor(1, thread_name_prefix="tokenize") as pool:
            coming: Future[dict[str, Ids]] = pool.submit(self._tokenize, windows[0], stop)
            for number, window in enumerate(windows):
                ids = coming.result()
                if number + 1 < len(windows):
                    coming = pool.submit(self._tokenize, windows[number + 1], stop)
                yield window, ids

    def _tokenize(self, pairs: Sequence[Pair], stop: threading.Event) -> dict[str, Ids]:
        texts = list(dict.fromkeys(text for pair in pairs for text in pair))
        ids = self._tokens.get(texts)
        absent = [text for text in texts if text not in ids]
        for start in range(0, len(absent), TOKENIZE_AT_ONCE):
            check_stop(stop)
            some = absent[start : start + TOKENIZE_AT_ONCE]
            made = self.encoder.tokenize(some)
            self._tokens.put(some, made)
            ids.update(zip(some, made, strict=True))
        return ids

    def _shrink(self, tokens: int) -> None:
        self.max_batch_tokens = min(self.max_batch_tokens, max(1, tokens // 2))
        logger.warning(
            "a batch of %d tokens does not fit the memory of %s; from now on batches hold at most %d",
            tokens,
            self.engine.device,
            self.max_batch_tokens,
        )
