"""Early exit: candidates that cannot reach the top k are looked at in a fast precision only."""

import logging
import threading
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from milvus_rerank.scoring import Request
from milvus_rerank.scoring.scorer import Logits, PairScorer

logger = logging.getLogger(__name__)

MARGIN = 0.25
"""Logits. bfloat16 differed from float32 by 0.07 at most on a trained 6-layer model; twice that decides an order."""


def best_logits(
    exact: PairScorer, fast: PairScorer, requests: Sequence[Request], keep: int, stop: threading.Event
) -> list[Logits]:
    """Return logits of which the ``keep`` largest of each request are exact.

    A document whose fast logit is more than a margin below the k-th largest one cannot be among the first k, as long as
    no fast logit is off by more than half the margin. That is checked on every document that is scored twice: where the
    difference is larger, the margin is doubled until it holds.

    :param exact: scores the candidates that are left.
    :param fast: scores all, on the same model and settings.
    :param requests: queries with their documents, none empty.
    :param keep: how many of each request must be exact, at least 1.
    :param stop: when set, the work ends before its next batch.
    :returns: one value per request, in the order of its documents: exact logits, fast ones for what is out of reach.
    """
    found = fast.logits(requests, stop)
    looks = [one.values for one in found]
    margin = MARGIN
    answers = [Logits(one.values.copy(), one.windows) for one in found]
    done: list[set[int]] = [set() for _ in requests]
    while True:
        wanted = [_within(look, keep, margin) - own for look, own in zip(looks, done, strict=True)]
        if not any(wanted):
            break
        places = [sorted(own) for own in wanted]
        some = [
            (query, [documents[place] for place in own])
            for (query, documents), own in zip(requests, places, strict=True)
        ]
        for number, logits in enumerate(exact.logits(some, stop)):
            answers[number].values[places[number]], answers[number].windows[places[number]] = logits
            done[number] |= wanted[number]
        differences = (
            float(np.abs(answer.values - look).max()) for answer, look in zip(answers, looks, strict=True) if len(look)
        )
        worst = max(differences, default=0.0)
        if 2 * worst > margin:
            logger.info("fast logits differ by %.3g, more than half of the margin %.3g: looking at more", worst, margin)
            margin = 4 * worst
    logger.debug("%d of %d documents scored twice", sum(map(len, done)), sum(map(len, looks)))
    return answers


def _within(logits: NDArray[np.float32], keep: int, margin: float) -> set[int]:
    if keep >= len(logits):
        return set(range(len(logits)))
    least = np.partition(logits, -keep)[-keep]
    return set(np.flatnonzero(logits >= least - margin).tolist())
