"""Calls of rerankers, timed and kept in the cache."""

import threading
import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from milvus_rerank.evaluation.cache import CachedCall, EvaluationCache, call_key, reranker_key
from milvus_rerank.evaluation.systems import Ranking, System
from milvus_rerank.indexing.search import FirstStageOrder
from milvus_rerank.reranker.base import BaseRerankFunction
from milvus_rerank.reranker.call import check_texts
from milvus_rerank.reranker.local import EngineRerankFunction
from milvus_rerank.results import DocumentScores
from milvus_rerank.scoring.prepared import TokenLimits, distinct_pairs
from milvus_rerank.search import SearchAnswer, Timings


class Calls:
    """Calls of one reranker after another through a cache.

    :param cache: the cache.
    :param k: the number of results that the calls ask for.
    """

    def __init__(self, cache: EvaluationCache, k: int) -> None:
        self.cache = cache
        self.k = k
        self.made = self.known = 0

    def score(self, key: str | None, reranker: BaseRerankFunction, query: str, texts: list[str]) -> CachedCall:
        """Return the outcome of a call, from the cache if it is there.

        :param key: the reranker's key; None if its calls cannot be kept.
        :param reranker: the reranker.
        :param query: the query.
        :param texts: the documents.
        :returns: the outcome.
        """
        call_id = None if key is None else call_key(key, query, texts, self.k)
        known = None if call_id is None else self.cache.get(call_id)
        if known is not None:
            self.known += 1
            return known
        call = _call(reranker, query, texts, self.k)
        self.made += 1
        if call_id is not None:
            self.cache.put(call_id, call)
        return call


class SystemRun:
    """A system while its queries run.

    :param name: the system's name.
    :param first_stage: the name of its first stage.
    :param reranker_name: the name of its reranker; None for the first stage alone.
    :param reranker: the reranker.
    :param instruction: the instruction, which a reranker that takes none ignores.
    """

    def __init__(
        self,
        name: str,
        first_stage: str,
        reranker_name: str | None = None,
        reranker: BaseRerankFunction | None = None,
        instruction: str | None = None,
    ) -> None:
        self.name = name
        self.first_stage = first_stage
        self.reranker_name = reranker_name
        self.reranker = FirstStageOrder() if reranker is None else reranker
        self.rankings: dict[str, Ranking] = {}
        self.timings: dict[str, Timings] = {}
        self._key = reranker_key(self.reranker)
        if instruction is not None and self.reranker.takes_instruction:
            self._key = self._key and f"{self._key} {instruction}"
            self.reranker = self.reranker.with_instruction(instruction)
        self._pairs = 0
        self._tokens: int | None = 0 if isinstance(reranker, EngineRerankFunction) else None
        self._warm = reranker is None

    def keep(self, query: str, answer: SearchAnswer[Any]) -> None:
        """Keep the order of the first stage."""
        ids = tuple(str(hit.id) for hit in answer)
        self.rankings[query] = Ranking(ids, tuple(float(hit.distance) for hit in answer))
        self.timings[query] = replace(answer.timings, rerank=0.0)

    def rerank(self, query: str, answer: SearchAnswer[Any], calls: Calls) -> None:
        """Rerank the hits of a query; the duration is that of this query alone."""
        texts = [hit.text for hit in answer]
        call = CachedCall((), 0.0, 0)
        if texts:
            self._warm_up(answer.query, texts, calls)
            call = calls.score(self._key, self.reranker, answer.query, texts)
        order = DocumentScores(call.scores, limit=call.limit).rank()
        ids = tuple(str(answer[index].id) for index in order)
        self.rankings[query] = Ranking(ids, tuple(call.scores[index] for index in order))
        self.timings[query] = replace(answer.timings, rerank=call.seconds)
        self._pairs += len(texts)
        if self._tokens is not None:
            self._tokens += call.tokens or 0

    def _warm_up(self, query: str, texts: list[str], calls: Calls) -> None:
        """Make a call that does not count before the first that is not in the cache: a model's first call is slow."""
        known = self._key is not None and calls.cache.get(call_key(self._key, query, texts, calls.k)) is not None
        if not self._warm and not known:
            self._warm = True
            if isinstance(self.reranker, EngineRerankFunction):
                self.reranker.score(query, texts[:2])

    def system(self, measures: Mapping[str, Mapping[str, float]]) -> System:
        """Return the finished system with its metrics."""
        return System(
            self.name,
            self.first_stage,
            self.reranker_name,
            self.rankings,
            self.timings,
            self._pairs,
            self._tokens,
            measures,
        )


def _call(reranker: BaseRerankFunction, query: str, texts: list[str], k: int) -> CachedCall:
    stop = threading.Event()
    started = time.perf_counter()
    checked = check_texts([query], [texts])
    scores = checked.check_scores(reranker.score_documents(checked.requests, k, stop))[0]
    seconds = time.perf_counter() - started
    tokens = None
    if isinstance(reranker, EngineRerankFunction):
        pairs, _ = distinct_pairs(checked.requests)
        tokens = sum(reranker.scorer.prepare(pairs, stop, TokenLimits()).lengths)
    return CachedCall(tuple(scores.flat()), seconds, tokens, scores.limit)
