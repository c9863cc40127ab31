"""PairScorer: many queries and their documents in, scores in the caller's order out."""

import contextvars
import itertools
import logging
import threading
from collections import deque
from collections.abc import Hashable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import KW_ONLY, dataclass

import numpy as np
from numpy.typing import NDArray

from milvus_rerank.engines.base import Engine
from milvus_rerank.errors import OutOfMemoryError
from milvus_rerank.progress import Bar, progress_bar
from milvus_rerank.scoring import Request, check_stop
from milvus_rerank.scoring.activation import Activation, raw
from milvus_rerank.scoring.batching import by_length, cut
from milvus_rerank.scoring.caches import CachedScore, ScoreCache
from milvus_rerank.scoring.encoder import Chunks, Encoder, Pair, Row, Span
from milvus_rerank.scoring.prepared import (
    Logits,
    Prepared,
    TokenLimits,
    distinct_pairs,
    split_pairs,
    unknown_logits,
)

logger = logging.getLogger(__name__)

AT_ONCE = 4096
"""Pairs sorted together: the next ones are tokenised while these are scored. Enough for batches without padding."""
AT_ONCE_CHARACTERS = 16_000_000
"""The most characters of documents among them: some 4 million tokens, 8 bytes each, and 10,000 windows over them."""


@dataclass(eq=False, repr=False)
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

    encoder: Encoder
    engine: Engine
    _: KW_ONLY
    activation: Activation = raw
    max_batch_tokens: int = 2048
    show_progress: bool = False
    score_cache: ScoreCache | None = None
    settings: Hashable = None
    chunks: Chunks | None = None

    def score(self, requests: Sequence[Request], stop: threading.Event | None = None) -> list[list[float]]:
        """Score every document of every request in one pass.

        :param requests: queries with their documents.
        :param stop: when set, the work ends before its next batch.
        :returns: one list of scores per request, in the order of its documents.
        :raises StoppedError: if ``stop`` was set.
        :raises OutOfMemoryError: if a single pair does not fit the device.
        """
        return self.activate([logits.values for logits in self.logits(requests, stop)])

    def activate(self, logits: Sequence[NDArray[np.float32]]) -> list[list[float]]:
        """Return the scores of logits, as lists of the same lengths."""
        whole = np.concatenate([*logits, np.empty(0, dtype=np.float32)])
        scores = [float(score) for score in self.activation(whole)] if len(whole) else []
        ends = np.cumsum([0, *map(len, logits)])
        return [scores[start:end] for start, end in itertools.pairwise(ends)]

    def logits(self, requests: Sequence[Request], stop: threading.Event | None = None) -> list[Logits]:
        """Return what the model computes for every document of every request, before the activation.

        Each distinct text is tokenised once and each distinct pair is scored once.

        :param requests: queries with their documents.
        :param stop: when set, the work ends before its next batch.
        :returns: one value per request, in the order of its documents.
        :raises StoppedError: if ``stop`` was set.
        :raises OutOfMemoryError: if a single pair does not fit the device.
        """
        pairs, positions = distinct_pairs(requests)
        stop = stop or threading.Event()
        parts = []
        with progress_bar("rerank", len(pairs)) if self.show_progress else nullcontext() as bar:
            for prepared in self._prepare_ahead(pairs, stop):
                if bar is not None:
                    bar.extend(len(prepared.rows) - len(prepared.pairs))
                parts.append(self.finish(prepared, self._run_all(prepared, stop, bar)))
        logits = Logits(*(np.concatenate(columns) for columns in zip(unknown_logits(0), *parts, strict=True)))
        return [logits.take(request_positions) for request_positions in positions]

    def prepare(self, pairs: Sequence[Pair], stop: threading.Event, limits: TokenLimits | None = None) -> Prepared:
        """Look pairs up in the score cache, tokenise the others, and cut long documents into windows.

        :param pairs: distinct pairs.
        :param stop: when set, the work ends early.
        :param limits: of this request; None for the model's.
        :returns: what to run.
        :raises StoppedError: if ``stop`` was set.
        """
        known = unknown_logits(len(pairs))
        if self.score_cache is not None and limits is None:
            for index, score in enumerate(self.score_cache.get(self.settings, pairs)):
                if score is not None:
                    known.values[index], known.windows[index], known.tokens[index] = score
        missing = np.flatnonzero(np.isnan(known.values))
        rows = self.encoder.rows([pairs[index] for index in missing.tolist()], stop)
        if limits is not None:
            rows = [
                self.encoder.shorten(
                    row, document_tokens=limits.document_tokens, pair_tokens=limits.pair_tokens, left=limits.left
                )
                for row in rows
            ]
        windows = [[row] if self.chunks is None else self.encoder.windows(row, self.chunks) for row in rows]
        counts = [len(row_windows) for row_windows in windows]
        rows = [window for row_windows in windows for window in row_windows]
        lengths = [self.encoder.length(row) for row in rows]
        widths = [self.encoder.padded_length(length) for length in lengths]
        return Prepared(pairs, known, missing, rows, lengths, widths, counts, cacheable=limits is None)

    def run(self, rows: Sequence[Row]) -> NDArray[np.float32]:
        """Run the model on one batch.

        :param rows: some of :class:`Prepared`'s.
        :returns: one logit per row.
        :raises OutOfMemoryError: if they do not fit the device; ``max_batch_tokens`` is then half of what was tried.
        """
        try:
            return self.engine.logits(self.encoder.batch(rows))
        except OutOfMemoryError:
            if len(rows) > 1:
                widest = max(self.encoder.padded_length(self.encoder.length(row)) for row in rows)
                self._shrink(len(rows) * widest)
            raise

    def finish(self, prepared: Prepared, logits: NDArray[np.float32]) -> Logits:
        """Join the windows of long documents, and remember the logits in the score cache, if there is one.

        :param prepared: the pairs.
        :param logits: one per row.
        :returns: one logit per pair.
        """
        values, windows, missing = prepared.known.values.copy(), prepared.known.windows.copy(), prepared.missing
        values[missing], windows[missing] = self._join(logits, prepared.window_counts)
        joined = Logits(values, windows, prepared.tokens())
        if self.score_cache is not None and prepared.cacheable and len(missing):
            columns = (column.tolist() for column in joined.take(missing))
            pairs = [prepared.pairs[index] for index in missing.tolist()]
            self.score_cache.put(self.settings, pairs, list(map(CachedScore, *columns)))
        return joined

    def _join(
        self, logits: NDArray[np.float32], window_counts: Sequence[int]
    ) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
        """Return the logit of each pair, and the window that it is of."""
        if self.chunks is None:
            return logits, np.zeros(len(logits), dtype=np.int32)
        values, best = np.empty(len(window_counts), dtype=np.float32), np.zeros(len(window_counts), dtype=np.int32)
        start = 0
        for index, count in enumerate(window_counts):
            window_logits = logits[start : start + count]
            if self.chunks.score != "first":
                best[index] = np.argmax(window_logits)
            values[index] = window_logits.mean() if self.chunks.score == "mean" else window_logits[best[index]]
            start += count
        return values, best

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

    def _run_all(self, prepared: Prepared, stop: threading.Event, bar: Bar | None) -> NDArray[np.float32]:
        """Return one logit per row, from batches of rows of about the same length."""
        logits = np.empty(len(prepared.rows), dtype=np.float32)
        waiting = deque(cut(by_length(prepared.lengths), prepared.widths, self.max_batch_tokens))
        while waiting:
            check_stop(stop)
            batch = waiting.popleft()
            try:
                logits[batch] = self.run([prepared.rows[index] for index in batch])
            except OutOfMemoryError:
                if len(batch) == 1:
                    raise
                left = [*batch, *(index for later in waiting for index in later)]
                waiting = deque(cut(left, prepared.widths, self.max_batch_tokens))
            else:
                if bar is not None:
                    bar.advance(len(batch))
        return logits

    def _prepare_ahead(self, pairs: Sequence[Pair], stop: threading.Event) -> Iterator[Prepared]:
        """Yield some thousand pairs at once, the next ones prepared while these are scored."""
        parts = list(split_pairs(pairs, AT_ONCE, AT_ONCE_CHARACTERS))
        if len(parts) < 2:
            yield from (self.prepare(part, stop) for part in parts)
            return
        with ThreadPoolExecutor(1, thread_name_prefix="tokenize") as pool:
            run = contextvars.copy_context().run
            coming: Future[Prepared] = pool.submit(run, self.prepare, parts[0], stop)
            for following in (*parts[1:], None):
                prepared = coming.result()
                if following is not None:
                    coming = pool.submit(run, self.prepare, following, stop)
                yield prepared

    def _shrink(self, tokens: int) -> None:
        self.max_batch_tokens = min(self.max_batch_tokens, max(1, tokens // 2))
        logger.warning(
            "a batch of %d tokens does not fit the memory of %s; from now on batches hold at most %d",
            tokens,
            self.engine.device,
            self.max_batch_tokens,
        )
