"""PairScorer: many queries and their documents in, scores in the caller's order out."""

import itertools
import logging
import threading
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from contextlib import nullcontext
from dataclasses import KW_ONLY, dataclass, field, replace
from functools import partial

import numpy as np
from cachetools import LRUCache
from numpy.typing import NDArray

from milvus_rerank.engines.base import Engine
from milvus_rerank.errors import InputError, OutOfMemoryError
from milvus_rerank.forks import ForkLock
from milvus_rerank.progress import progress_bar
from milvus_rerank.scoring import Request, check_stop
from milvus_rerank.scoring.activation import Activation, raw
from milvus_rerank.scoring.batching import cut
from milvus_rerank.scoring.caches import CachedScore, ScoreCache
from milvus_rerank.scoring.encoder import Chunks, Encoder, Pair, Row, Span
from milvus_rerank.scoring.prepared import LOGIT, Logits, Prepared, TokenLimits, distinct_pairs, split_pairs
from milvus_rerank.scoring.work import Part, Work, ahead, count_rows, run_together

logger = logging.getLogger(__name__)

AT_ONCE = 4096
"""Default number of pairs sorted together: enough for batches without padding."""
AT_ONCE_CHARACTERS = 16_000_000
"""The most characters of documents among them: some 4 million tokens, 8 bytes each, and 10,000 windows over them."""

_INSTRUCTIONS = 8  # the latest are kept with their encoders, each with a token cache of its own


@dataclass(eq=False, repr=False)
class PairScorer:
    """Score pairs with a cross-encoder. Scorers are thread-safe.

    :param encoder: makes token ids and batches.
    :param engine: runs the model.
    :param activation: from logits to scores.
    :param max_batch_tokens: the budget of one batch, padding included. It is halved permanently if the device runs out
        of memory.
    :param show_progress: whether to show a progress bar on stderr.
    :param score_cache: the cache of logits; None for no cache.
    :param settings: the key of this model and its settings in a shared ``score_cache``.
    :param chunks: how to read documents that are too long for the model; None truncates them.
    :param at_once: the pairs sorted together. The next ones are tokenised while these are scored.
    :param instruct: makes the encoder for an instruction; None for a model that takes none.
    :param others: scorers with the same encoder and the engines of further devices; a free one takes the next batch.
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
    at_once: int = AT_ONCE
    instruct: Callable[[str], Encoder] | None = None
    others: tuple["PairScorer", ...] = ()
    _instructed: LRUCache[str, "PairScorer"] = field(default_factory=lambda: LRUCache(_INSTRUCTIONS), init=False)
    _lock: ForkLock = field(default_factory=ForkLock, init=False)

    def with_instruction(self, instruction: str) -> "PairScorer":
        """Return a scorer on the same engine whose prompts have another instruction; the latest ones are kept.

        :param instruction: the instruction; empty for none.
        :returns: a scorer with cache entries of its own.
        :raises InputError: if the model takes no instruction, or this one leaves no room for texts.
        """
        if self.instruct is None:
            raise InputError("the model takes no instruction")
        with self._lock:
            scorer = self._instructed.get(instruction)
            if scorer is None:
                settings = (self.settings, instruction)
                encoder = self.instruct(instruction)
                others = tuple(replace(other, encoder=encoder) for other in self.others)
                scorer = replace(self, encoder=encoder, settings=settings, others=others)
                self._instructed[instruction] = scorer
        return scorer

    def score(self, requests: Sequence[Request], stop: threading.Event | None = None) -> list[list[float]]:
        """Score every document of every request: the activation of :meth:`logits`, as lists."""
        return self.activate(self.logits(requests, stop))

    def activate(self, logits: Sequence[Logits]) -> list[list[float]]:
        """Return the scores of logits, as lists of the same lengths."""
        values = np.concatenate([np.empty(0, LOGIT), *logits])["value"].copy()  # activations take contiguous arrays
        scores = self.activation(values).tolist() if len(values) else []
        ends = np.cumsum([0, *map(len, logits)])
        return [scores[start:end] for start, end in itertools.pairwise(ends)]

    def logits(self, requests: Sequence[Request], stop: threading.Event | None = None) -> list[Logits]:
        """Return the model's logits of every document of every request, before the activation.

        Each distinct text is tokenised once and each distinct pair is scored once.

        :param requests: queries with their documents.
        :param stop: when set, the work ends before its next batch.
        :returns: one array per request, in the order of its documents.
        :raises StoppedError: if ``stop`` was set.
        :raises OutOfMemoryError: if a single pair does not fit the device.
        """
        pairs, positions = distinct_pairs(requests)
        stop = stop or threading.Event()
        with progress_bar("rerank", len(pairs)) if self.show_progress else nullcontext() as bar:
            parts = list(split_pairs(pairs, self.at_once, AT_ONCE_CHARACTERS))
            prepare = partial(self.prepare, stop=stop)
            # A GPU works by itself: this thread prepares the next part meanwhile. A second would contend for the GIL.
            coming = map(prepare, parts) if len(parts) < 2 or self.engine.device != "cpu" else ahead(prepare, parts)
            advance = None
            if bar is not None:
                coming, advance = count_rows(bar, coming), bar.advance
            devices = (self, *self.others)
            budget = max(scorer.max_batch_tokens for scorer in devices)
            work = Work(
                (part, rows)
                for number, prepared in enumerate(coming)
                for part in [Part(number, prepared, np.empty(len(prepared.rows), np.float32), len(prepared.rows))]
                for rows in cut(prepared.lengths, budget, prepared.widths) or [[]]
            )
            if len(devices) == 1:
                self.run_all(work, self.finish, stop, advance)
            else:
                tasks = [partial(scorer.run_all, work, self.finish, stop, advance) for scorer in devices]
                run_together(work, tasks, [scorer.engine.device for scorer in devices])
        joined = np.concatenate([np.empty(0, LOGIT), *(work.finished[number] for number in range(len(parts)))])
        return [joined[request_positions] for request_positions in positions]

    def prepare(self, pairs: Sequence[Pair], stop: threading.Event, limits: TokenLimits | None = None) -> Prepared:
        """Look pairs up in the score cache, tokenise the others, and cut long documents into windows.

        :param pairs: distinct pairs.
        :param stop: when set, the work ends early.
        :param limits: the limits of this request; None for the model's.
        :returns: the pairs, ready to run.
        :raises StoppedError: if ``stop`` was set.
        """
        encoder = self.encoder
        logits = np.zeros(len(pairs), LOGIT)
        logits["value"] = np.nan
        if self.score_cache is not None and limits is None:
            for index, score in enumerate(self.score_cache.get(self.settings, pairs)):
                if score is not None:
                    logits[index] = score
        missing = np.flatnonzero(np.isnan(logits["value"]))
        whole = self.chunks is not None or (limits is not None and limits.left)
        rows = encoder.rows([pairs[index] for index in missing.tolist()], stop, whole=whole)
        if limits is not None:
            document, pair = limits.document_tokens, limits.pair_tokens
            rows = [encoder.shorten(row, document_tokens=document, pair_tokens=pair, left=limits.left) for row in rows]
        windows = [[row] if self.chunks is None else encoder.windows(row, self.chunks) for row in rows]
        counts = [len(pair_windows) for pair_windows in windows]
        rows = [window for pair_windows in windows for window in pair_windows]
        lengths = [encoder.length(row) for row in rows]
        widths = [encoder.padded_length(length) for length in lengths]
        sums, ends = np.cumsum([0, *lengths]), np.cumsum([0, *counts])
        logits["tokens"][missing] = np.diff(sums[ends])
        return Prepared(pairs, logits, missing, rows, lengths, widths, counts, cacheable=limits is None)

    def run(self, rows: Sequence[Row]) -> NDArray[np.float32]:
        """Run the model on one batch.

        :param rows: rows of :class:`Prepared`.
        :returns: one logit per row.
        :raises OutOfMemoryError: if they do not fit the device; ``max_batch_tokens`` is then half of their tokens.
        """
        return self._start(rows)()

    def _start(self, rows: Sequence[Row]) -> Callable[[], NDArray[np.float32]]:
        """Start a forward pass; return the function that waits for its logits."""
        try:
            batch = self.encoder.batch(rows)
            in_background: Callable[..., Callable[[], NDArray[np.float32]]] | None = getattr(self.engine, "start", None)
            if in_background is not None:
                return in_background(batch)
            logits = self.engine.logits(batch)
            return lambda: logits
        except OutOfMemoryError:
            if len(rows) > 1:
                self._shrink(len(rows) * max(self.encoder.padded_length(self.encoder.length(row)) for row in rows))
            raise

    def finish(self, prepared: Prepared, row_logits: NDArray[np.float32]) -> Logits:
        """Join the windows of long documents, and store the logits in the score cache, if there is one.

        :param prepared: the pairs.
        :param row_logits: one per row.
        :returns: one logit per pair.
        """
        logits: Logits = prepared.logits.copy()
        missing = prepared.missing
        if self.chunks is None:
            logits["value"][missing] = row_logits
        else:
            start = 0
            for index, count in zip(missing.tolist(), prepared.window_counts, strict=True):
                windows = row_logits[start : start + count]
                best = 0 if self.chunks.score == "first" else int(np.argmax(windows))
                value = windows.mean() if self.chunks.score == "mean" else windows[best]
                logits["value"][index], logits["window"][index] = value, best
                start += count
        if self.score_cache is not None and prepared.cacheable and len(missing):
            pairs = [prepared.pairs[index] for index in missing.tolist()]
            self.score_cache.put(self.settings, pairs, [CachedScore(*score) for score in logits[missing].tolist()])
        return logits

    def spans(
        self, request: Request, logits: Logits, wanted: Sequence[int], stop: threading.Event
    ) -> list[Span | None]:
        """Return the parts of long documents that have their logits.

        :param request: a query and its documents.
        :param logits: the documents' logits.
        :param wanted: positions of the documents to look at; the others get None.
        :param stop: when set, the work ends early.
        :returns: for each document the first character of the part and the character after its last; None for a
            document that was read whole, and if the mean of all windows counts.
        """
        spans: list[Span | None] = [None] * len(request[1])
        if self.chunks is None or self.chunks.score == "mean":
            return spans
        pairs = [(request[0], request[1][index]) for index in wanted]
        for index, pair, row in zip(wanted, pairs, self.encoder.rows(pairs, stop, whole=True), strict=True):
            check_stop(stop)
            if self.encoder.windows(row, self.chunks)[0] is not row:  # it did not fit
                spans[index] = self.encoder.span(pair, int(logits["window"][index]), self.chunks)
        return spans

    def run_all(
        self,
        work: Work,
        finish: Callable[[Prepared, NDArray[np.float32]], Logits],
        stop: threading.Event,
        advance: Callable[[int], object] | None = None,
    ) -> None:
        """Run batches until none is left. Parts follow each other without a pause for the device.

        :param work: the batches, which other devices may take from as well.
        :param finish: makes the logits of a part's pairs from those of its rows.
        :param stop: when set, the work ends before its next batch.
        :param advance: called with the rows of each finished batch.
        :raises StoppedError: if ``stop`` was set.
        :raises OutOfMemoryError: if a single pair does not fit the device.
        """
        advance = advance or (lambda _: None)
        again: deque[tuple[Part, list[int]]] = deque()  # from batches that were too large for this device
        running: deque[tuple[Part, list[int], Callable[[], NDArray[np.float32]]]] = deque()
        more = True
        while more or again or running:
            check_stop(stop)
            if (more or again) and len(running) < 2:  # a second batch, so that a GPU need not wait for the next one
                if not again:
                    with work.lock:
                        item = next(work.batches, None)
                    more = item is not None
                    if item is None:
                        continue
                    again.append(item)
                part, rows = again.popleft()
                prepared = part.prepared
                if not rows:
                    work.finished[part.number] = finish(prepared, part.row_logits)
                    continue
                try:
                    if len(rows) < 2 or len(rows) * prepared.widths[rows[0]] <= self.max_batch_tokens:
                        running.append((part, rows, self._start([prepared.rows[index] for index in rows])))
                        continue
                except OutOfMemoryError:
                    if len(rows) == 1:
                        raise
                smaller = cut(prepared.lengths, self.max_batch_tokens, prepared.widths, rows)
                again.extendleft((part, few) for few in reversed(smaller))
                continue
            part, rows, wait = running.popleft()
            part.row_logits[rows] = wait()
            with work.lock:
                part.left -= len(rows)
                complete = part.left == 0
            if complete:
                work.finished[part.number] = finish(part.prepared, part.row_logits)
            advance(len(rows))

    def _shrink(self, tokens: int) -> None:
        self.max_batch_tokens = min(self.max_batch_tokens, max(1, tokens // 2))
        logger.warning(
            "a batch of %d tokens does not fit the memory of %s; from now on batches hold at most %d",
            tokens,
            self.engine.device,
            self.max_batch_tokens,
        )
