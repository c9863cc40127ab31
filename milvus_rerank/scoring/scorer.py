"""PairScorer: many queries and their documents in, scores in the caller's order out."""

import logging
import threading
from collections import deque
from collections.abc import Sequence

import numpy as np
from tqdm import tqdm

from milvus_rerank.engines.base import Engine
from milvus_rerank.errors import OutOfMemoryError
from milvus_rerank.scoring import Request, check_stop
from milvus_rerank.scoring.activation import Activation, raw
from milvus_rerank.scoring.batches import by_length, cut
from milvus_rerank.scoring.pairs import Ids, PairEncoder

logger = logging.getLogger(__name__)

TOKENIZE_AT_ONCE = 1024
"""Texts tokenised between two looks at ``stop``."""


class PairScorer:
    """Score pairs with a cross-encoder. One object may be shared by threads.

    :param encoder: makes token ids and batches.
    :param engine: runs the model.
    :param activation: from logits to scores.
    :param max_batch_tokens: the budget of one batch, padding included. It shrinks by itself, for good, when the
        device runs out of memory.
    :param show_progress: show a progress bar on stderr.
    """

    def __init__(
        self,
        encoder: PairEncoder,
        engine: Engine,
        *,
        activation: Activation = raw,
        max_batch_tokens: int = 2048,
        show_progress: bool = False,
    ) -> None:
        self.encoder = encoder
        self.engine = engine
        self.activation = activation
        self.max_batch_tokens = max_batch_tokens
        self.show_progress = show_progress

    def score(self, requests: Sequence[Request], stop: threading.Event | None = None) -> list[list[float]]:
        """Score every document of every request in one pass.

        Each distinct text is tokenised once and each distinct pair is scored once.

        :param requests: queries with their documents.
        :param stop: when set, the work ends before its next batch.
        :returns: one list of scores per request, in the order of its documents.
        :raises StoppedError: if ``stop`` was set.
        :raises OutOfMemoryError: if a single pair does not fit the device.
        """
        numbers: dict[tuple[str, str], int] = {}
        for query, documents in requests:
            for document in documents:
                numbers.setdefault((query, document), len(numbers))
        scores = self._score_pairs(list(numbers), stop or threading.Event()) if numbers else []
        return [[scores[numbers[query, document]] for document in documents] for query, documents in requests]

    def _score_pairs(self, pairs: list[tuple[str, str]], stop: threading.Event) -> list[float]:
        ids = self._tokenize(list(dict.fromkeys(text for pair in pairs for text in pair)), stop)
        lengths = [self.encoder.pair_length(ids[query], ids[document]) for query, document in pairs]
        logits = np.empty(len(pairs), dtype=np.float32)
        waiting = deque(cut(by_length(lengths), lengths, self.max_batch_tokens))
        with tqdm(total=len(pairs), unit="pair", desc="rerank", disable=not self.show_progress) as bar:
            while waiting:
                check_stop(stop)
                batch = waiting.popleft()
                rows = [(ids[pairs[index][0]], ids[pairs[index][1]]) for index in batch]
                try:
                    logits[batch] = self.engine.logits(self.encoder.batch(rows))
                except OutOfMemoryError:
                    if len(batch) == 1:
                        raise
                    self._shrink(len(batch) * lengths[batch[0]])
                    left = [*batch, *(index for later in waiting for index in later)]
                    waiting = deque(cut(left, lengths, self.max_batch_tokens))
                else:
                    bar.update(len(batch))
        return [float(score) for score in self.activation(logits)]

    def _tokenize(self, texts: list[str], stop: threading.Event) -> dict[str, Ids]:
        ids: dict[str, Ids] = {}
        for start in range(0, len(texts), TOKENIZE_AT_ONCE):
            check_stop(stop)
            some = texts[start : start + TOKENIZE_AT_ONCE]
            ids.update(zip(some, self.encoder.tokenize(some), strict=True))
        return ids

    def _shrink(self, tokens: int) -> None:
        self.max_batch_tokens = min(self.max_batch_tokens, max(1, tokens // 2))
        logger.warning(
            "a batch of %d tokens does not fit the memory of %s; from now on batches hold at most %d",
            tokens,
            self.engine.device,
            self.max_batch_tokens,
        )
