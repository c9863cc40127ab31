"""PairScorer: many queries and their documents in, scores in the caller's order out."""

import itertools
import logging
import threading
from collections import deque
from collections.abc import Hashable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from milvus_rerank.engines.base import Engine
from milvus_rerank.errors import OutOfMemoryError
from milvus_rerank.scoring import Request, check_stop
from milvus_rerank.scoring.activation import Activation, raw
from milvus_rerank.scoring.batches import by_length, cut
from milvus_rerank.scoring.caches import ScoreCache
from milvus_rerank.scoring.encoding import Chunks, Encoder, Pair, Row, Span

logger = logging.getLogger(__name__)

AT_ONCE = 4096
"""Pairs sorted together: the next ones are tokenised while these are scored. Enough for batches without padding."""
AT_ONCE_CHARACTERS = 16_000_000
"""The most characters of documents among them: some 4 million tokens, 8 bytes each, and 10,000 windows over them."""


class Logits(NamedTuple):
    """What a model says of documents.

    :param values: a logit for each, float32.
    :param windows: the number of the window that it is of, int32; 0 for a document that was read whole.
    """

    values: NDArray[np.float32]
    windows: NDArray[np.int32]

    def take(self, places: NDArray[np.intp]) -> "Logits":
        """Return those of some documents."""
        return Logits(self.values[places], self.windows[places])


class PairScorer:
    """Score pairs with a cross-encoder. One object may be shared by threads.

    :param encoder: makes token ids and batches.
    :param engine: runs the model.
    :param activation: from logits to scores.
    :param max_batch_tokens: the budget of one batch, padding included. It shrinks by itself, for good, when the
        device runs out of memory.
    :param show_progress: show a progress bar on stderr.
    :param score_cache: remembers logits; None for none.
    :param settings: what tells this model and these settings from others in a shared ``score_cache``.
    :param chunks: how to read documents that are too long; None cuts them off.
    """

    def __init__(
        self,
        encoder: Encoder,
        engine: Engine,
        *,
        activation: Activation = raw,
        max_batch_tokens: int = 2048,
        show_progress: bool = False,
        score_cache: ScoreCache | None = None,
        settings: Hashable = None,
        chunks: Chunks | None = None,
    ) -> None:
        self.encoder = encoder
        self.engine = engine
        self.activation = activation
        self.max_batch_tokens = max_batch_tokens
        self.show_progress = show_progress
        self.score_cache = score_cache
        self.settings = settings
        self.chunks = chunks

    def score(self, requests: Sequence[Request], stop: threading.Event | None = None) -> list[list[float]]:
        """Score every document of every request in one pass.

        :param requests: queries with their documents.
        :param stop: when set, the work ends before its next batch.
        :returns: one list of scores per request, in the order of its documents.
        :raises StoppedError: if ``stop`` was set.
        :raises OutOfMemoryError: if a single pair does not fit the device.
        """
        return self.activate([one.values for one in self.logits(requests, stop)])

    def activate(self, logits: Sequence[NDArray[np.float32]]) -> list[list[float]]:
        """Return the scores of logits, as lists of the same lengths."""
        whole = np.concatenate([*logits, np.empty(0, dtype=np.float32)])
        scores = [float(score) for score in self.activation(whole)] if len(whole) else []
        ends = np.cumsum([0, *map(len, logits)])
        return [scores[start:end] for start, end in itertools.pairwise(ends)]

    def logits(self, requests: Sequence[Request], stop: threading.Event | None = None) -> list[Logits]:
        """Return what the model says of every document of every request, before the activation.

        Each distinct text is tokenised once and each distinct pair is scored once.

        :param requests: queries with their documents.
        :param stop: when set, the work ends before its next batch.
        :returns: one value per request, in the order of its documents.
        :raises StoppedError: if ``stop`` was set.
        :raises OutOfMemoryError: if a single pair does not fit the device.
        """
        numbers: dict[Pair, int] = {}
        for query, documents in requests:
            for document in documents:
                numbers.setdefault((query, document), len(numbers))
        made = self._logits(list(numbers), stop or threading.Event()) if numbers else _nothing(0)
        places = [np.array([numbers[query, document] for document in own], dtype=np.intp) for query, own in requests]
        return [made.take(own) for own in places]

    def spans(
        self, request: Request, logits: Logits, wanted: Sequence[int], stop: threading.Event
    ) -> list[Span | None]:
        """Return where in long documents their logits are from.

        :param request: a query and its documents.
        :param logits: theirs.
        :param wanted: positions of the documents to look at; the others get None.
        :param stop: when set, the work ends early.
        :returns: first character and the one after the last, for each document; None for one that was read whole, and
            where the mean of all windows counts.
        """
        spans: list[Span | None] = [None] * len(request[1])
        if self.chunks is None or self.chunks.score == "mean":
            return spans
        pairs = [(request[0], request[1][place]) for place in wanted]
        for place, pair, row in zip(wanted, pairs, self.encoder.rows(pairs, stop), strict=True):
            check_stop(stop)
            if self.encoder.windows(row, self.chunks)[0] is not row:  # it did not fit
                spans[place] = self.encoder.span(pair, int(logits.windows[place]), self.chunks)
        return spans

    def rows(self, pairs: Sequence[Pair]) -> list[Row]:
        """Return pairs of texts as the encoder holds them, for :meth:`split` or :meth:`forward`."""
        return self.encoder.rows(pairs, threading.Event())

    def split(self, rows: Sequence[Row]) -> tuple[list[Row], list[int]]:
        """Return all windows over the rows' documents, one after the other, and how many each row has."""
        if self.chunks is None:
            return list(rows), [1] * len(rows)
        windows = [self.encoder.windows(row, self.chunks) for row in rows]
        return [window for own in windows for window in own], [len(own) for own in windows]

    def join(self, values: NDArray[np.float32], counts: Sequence[int]) -> Logits:
        """Return one logit per row of those of all windows.

        :param values: as :meth:`split` put the windows in order.
        :param counts: how many each row has.
        :returns: what the documents get, and from which window.
        """
        if self.chunks is None:
            return Logits(values, np.zeros(len(values), dtype=np.int32))
        joined = _nothing(len(counts))
        for place, own in enumerate(np.split(values, np.cumsum(counts)[:-1]) if counts else ()):
            best = 0 if self.chunks.score == "first" else int(np.argmax(own))
            joined.values[place] = own.mean() if self.chunks.score == "mean" else own[best]
            joined.windows[place] = best
        return joined

    def widths(self, rows: Sequence[Row]) -> list[int]:
        """Return how wide, in tokens, a batch must be to hold each row."""
        return [self.encoder.padded_length(self.encoder.length(row)) for row in rows]

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

    def _logits(self, pairs: list[Pair], stop: threading.Event) -> Logits:
        """Return the logits of distinct pairs, from the score cache where it has them."""
        if self.score_cache is None:
            return self._run(pairs, stop)
        known = self.score_cache.get(self.settings, pairs)
        found = known if self.chunks is None else self.score_cache.get(self._windows_of, pairs)
        absent = [
            place for place, (logit, window) in enumerate(zip(known, found, strict=True)) if None in (logit, window)
        ]
        values = np.array([np.nan if logit is None else logit for logit in known], dtype=np.float32)
        windows = np.array([0 if self.chunks is None or window is None else window for window in found], dtype=np.int32)
        if absent:
            fresh = [pairs[place] for place in absent]
            values[absent], windows[absent] = made = self._run(fresh, stop)
            self.remember(fresh, made)
        return Logits(values, windows)

    def remember(self, pairs: Sequence[Pair], logits: Logits) -> None:
        """Keep logits in the score cache, if there is one."""
        if self.score_cache is not None:
            self.score_cache.put(self.settings, pairs, logits.values.tolist())
            if self.chunks is not None:
                self.score_cache.put(self._windows_of, pairs, logits.windows.tolist())

    @property
    def _windows_of(self) -> Hashable:
        return ("window", self.settings)

    def _run(self, pairs: list[Pair], stop: threading.Event) -> Logits:
        logits = _nothing(len(pairs))
        start = 0
        with tqdm(total=len(pairs), unit="pair", desc="rerank", disable=not self.show_progress) as bar:
            for rows in self._rows(pairs, stop):
                pieces, counts = self.split(rows)
                bar.total += len(pieces) - len(rows)
                end = start + len(rows)
                logits.values[start:end], logits.windows[start:end] = self.join(
                    self._forward(pieces, stop, bar), counts
                )
                start = end
        return logits

    def _forward(self, rows: list[Row], stop: threading.Event, bar: "tqdm[None]") -> NDArray[np.float32]:
        logits = np.empty(len(rows), dtype=np.float32)
        true = [self.encoder.length(row) for row in rows]
        lengths = [self.encoder.padded_length(length) for length in true]
        waiting = deque(cut(by_length(true), lengths, self.max_batch_tokens))
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

    def _rows(self, pairs: list[Pair], stop: threading.Event) -> Iterator[list[Row]]:
        """Yield the rows of some thousand pairs at once, the next ones tokenised while these are scored."""
        parts = list(split_pairs(pairs, AT_ONCE, AT_ONCE_CHARACTERS))
        if len(parts) == 1:
            yield self.encoder.rows(pairs, stop)
            return
        with ThreadPoolExecutor(1, thread_name_prefix="tokenize") as pool:
            coming: Future[list[Row]] = pool.submit(self.encoder.rows, parts[0], stop)
            for number in range(len(parts)):
                rows = coming.result()
                if number + 1 < len(parts):
                    coming = pool.submit(self.encoder.rows, parts[number + 1], stop)
                yield rows

    def _shrink(self, tokens: int) -> None:
        self.max_batch_tokens = min(self.max_batch_tokens, max(1, tokens // 2))
        logger.warning(
            "a batch of %d tokens does not fit the memory of %s; from now on batches hold at most %d",
            tokens,
            self.engine.device,
            self.max_batch_tokens,
        )


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


def _nothing(count: int) -> Logits:
    return Logits(np.empty(count, dtype=np.float32), np.zeros(count, dtype=np.int32))
