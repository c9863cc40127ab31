"""evaluate: measure first stages and rerankers on the queries of a collection."""

import copy
import platform
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from statistics import fmean
from typing import Any

from milvus_rerank.errors import InputError
from milvus_rerank.evaluation.cache import CachedCall, EvaluationCache, call_key, reranker_key
from milvus_rerank.evaluation.judged import JudgedCollection, Judgments
from milvus_rerank.evaluation.metrics import measure
from milvus_rerank.evaluation.queries import JudgedQueries
from milvus_rerank.evaluation.systems import FEW_QUERIES, EvaluationReport, Ranking, System
from milvus_rerank.indexing.search import FirstStageOrder
from milvus_rerank.inventory import installed_version
from milvus_rerank.reranker.base import BaseRerankFunction
from milvus_rerank.reranker.call import check_texts
from milvus_rerank.reranker.local import EngineRerankFunction
from milvus_rerank.results import DocumentScores
from milvus_rerank.scoring.prepared import TokenLimits, distinct_pairs
from milvus_rerank.search import Dense, FullText, SearchAnswer, Timings, TwoStageSearch
from milvus_rerank.validation import check_count, check_text

Progress = Callable[[str, int, int], object]
"""A function of the name of a step, its finished queries and all of its queries."""

_SHOWN = 300
"""Characters of a text in a report."""
_PACKAGES = ("milvus-rerank", "pymilvus", "milvus-lite", "onnxruntime", "openvino", "torch", "ir-measures", "scipy")


@dataclass(frozen=True, slots=True)
class Prices:
    """Prices, in any one currency.

    :param per_1000_queries: by the name of a reranker the price of 1,000 queries, such as a service's.
    :param machine_hour: the price of an hour of this machine, for all others; None to leave their cost out.
    """

    per_1000_queries: Mapping[str, float] = ()  # type: ignore[assignment]
    machine_hour: float | None = None

    def cost(self, system: System) -> float | None:
        """Return the price of 1,000 queries of a system, one query at a time."""
        prices = dict(self.per_1000_queries)
        if system.reranker in prices:
            return prices[system.reranker]
        if self.machine_hour is None:
            return None
        return self.machine_hour / 3600 * 1000 * fmean(timings.total for timings in system.timings.values())


def evaluate(
    search: TwoStageSearch[Any] | Mapping[str, TwoStageSearch[Any]],
    judged: JudgedQueries | JudgedCollection,
    *,
    rerankers: Mapping[str, BaseRerankFunction] | None = None,
    candidates: int = 50,
    k: int = 10,
    filter: str | None = None,
    timeout: float | None = 30.0,
    cache: EvaluationCache | None = None,
    prices: Prices | None = None,
    progress: Progress = lambda step, done, total: None,
) -> EvaluationReport:
    """Measure first stages and rerankers on the same queries, one query at a time.

    Every first stage is searched anew. Each reranker scores the hits of each first stage; calls that the cache knows
    are not repeated, and keep the durations that were measured then. So an evaluation that was cut off goes on.

    :param search: a two-stage search, or several by the names of their first stages.
    :param judged: the queries and their judgments. Without judgments, the report compares the rankings alone.
    :param rerankers: the rerankers by name; None for the search's own, which is then named ``reranked``.
    :param candidates: the number of hits to rerank for each query.
    :param k: the number of ranks that count.
    :param filter: Milvus' filter for all searches; None for that of a search from a config file, or none.
    :param timeout: the most seconds of a search.
    :param cache: a cache on the disk; None to keep nothing.
    :param prices: prices for the cost of 1,000 queries.
    :param progress: called after each query of each step.
    :returns: the report. Its systems are named by their first stage (``dense``, ``bm25``, ``hybrid`` if ``search`` is
        one search), and by their reranker or, with several first stages, ``first stage + reranker``.
    :raises InputError: if there are no queries, or an argument cannot be used.
    :raises HitError: if a hit has no text.
    :raises SearchError: if Milvus refuses, fails, or does not answer in time.
    """
    check_count(candidates, "candidates")
    k = check_count(k, "k")
    searches = _named(search)
    chosen = _rerankers(searches, rerankers)
    if not judged.queries:
        raise InputError("there are no queries to evaluate")
    for name, text in judged.queries.items():
        check_text(text, f"the query {name!r}")
    calls = _Calls(EvaluationCache() if cache is None else cache, k)
    systems: list[System] = []
    texts: dict[str, str] = {}
    for name, two_stage in searches.items():
        hits = _retrieve(name, two_stage, judged.queries, candidates, filter, timeout, progress)
        first_stage = _first_stage(name, hits)
        systems.append(first_stage)
        _collect_texts(texts, first_stage, hits, k)
        for reranker_name, reranker in chosen.items():
            label = reranker_name if len(searches) == 1 else f"{name} + {reranker_name}"
            system = _reranked(label, first_stage, reranker_name, reranker, hits, calls, progress)
            systems.append(system)
            _collect_texts(texts, system, hits, k)
    return _report(judged, systems, texts, candidates, k, prices or Prices(), calls)


def _named(search: TwoStageSearch[Any] | Mapping[str, TwoStageSearch[Any]]) -> dict[str, TwoStageSearch[Any]]:
    if not isinstance(search, TwoStageSearch):
        if not isinstance(search, Mapping) or not search:
            raise InputError(f"search must be a TwoStageSearch, or several by name, got {type(search).__name__}")
        return dict(search)
    stage = search.first_stage
    return {"dense" if isinstance(stage, Dense) else "bm25" if isinstance(stage, FullText) else "hybrid": search}


def _rerankers(
    searches: Mapping[str, TwoStageSearch[Any]], rerankers: Mapping[str, BaseRerankFunction] | None
) -> dict[str, BaseRerankFunction]:
    if rerankers is None:
        if len(searches) > 1:
            raise InputError("several searches need rerankers={'name': reranker}: each reranks the hits of each search")
        return {"reranked": next(iter(searches.values())).reranker}
    for name, reranker in rerankers.items():
        if not isinstance(reranker, BaseRerankFunction):
            raise InputError(f"rerankers[{name!r}] must be a rerank function, got {type(reranker).__name__}")
        if name in searches:
            raise InputError(f"{name!r} names a search and a reranker; give the reranker another name")
    return dict(rerankers)


def _retrieve(
    name: str,
    search: TwoStageSearch[Any],
    queries: Mapping[str, str],
    candidates: int,
    filter: str | None,
    timeout: float | None,
    progress: Progress,
) -> dict[str, SearchAnswer[Any]]:
    """Search with each query; each duration is that of one query."""
    first = copy.copy(search)
    first.reranker = FirstStageOrder()
    options: dict[str, Any] = {"top_k": None, "candidates": candidates, "timeout": timeout}
    options |= {"threshold": None, "instruction": None}  # those of a config file are for its reranker
    options |= {} if filter is None else {"filter": filter}
    first(next(iter(queries.values())), **options)  # the first search of a process loads and connects
    answers = {}
    for number, (query, text) in enumerate(queries.items(), 1):
        answers[query] = first(text, **options)
        progress(name, number, len(queries))
    return answers


def _first_stage(name: str, hits: Mapping[str, SearchAnswer[Any]]) -> System:
    rankings = {
        query: Ranking(tuple(str(hit.id) for hit in answer), tuple(float(hit.distance) for hit in answer))
        for query, answer in hits.items()
    }
    for query, ranking in rankings.items():
        if len(set(ranking.ids)) != len(ranking.ids):
            raise InputError(f"the first stage {name!r} returned a document twice for the query {query!r}")
    timings = {query: replace(answer.timings, rerank=0.0) for query, answer in hits.items()}
    return System(name, name, None, rankings, timings)


class _Calls:
    """Calls of rerankers through a cache."""

    def __init__(self, cache: EvaluationCache, k: int) -> None:
        self.cache = cache
        self.k = k
        self.made = self.known = 0

    def score(self, key: str | None, reranker: BaseRerankFunction, query: str, texts: list[str]) -> CachedCall:
        """Return the scores of texts, from the cache if it has them."""
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
    return CachedCall(tuple(scores.flat()), seconds, tokens)


def _reranked(
    label: str,
    first_stage: System,
    name: str,
    reranker: BaseRerankFunction,
    hits: Mapping[str, SearchAnswer[Any]],
    calls: _Calls,
    progress: Progress,
) -> System:
    """Rerank the hits of each query; each duration is that of one query."""
    key = reranker_key(reranker)
    made = calls.made
    rankings: dict[str, Ranking] = {}
    timings: dict[str, Timings] = {}
    pairs, tokens = 0, [0]
    for number, (query, answer) in enumerate(hits.items(), 1):
        texts = [hit.text for hit in answer]
        if texts:
            if calls.made == made:
                _warm_up(key, reranker, answer.query, texts, calls)
            call = calls.score(key, reranker, answer.query, texts)
        else:
            call = CachedCall((), 0.0, 0)
        order = DocumentScores(call.scores).rank()
        ids = first_stage.rankings[query].ids
        rankings[query] = Ranking(tuple(ids[index] for index in order), tuple(call.scores[index] for index in order))
        timings[query] = replace(answer.timings, rerank=call.seconds)
        pairs += len(texts)
        tokens += [] if call.tokens is None else [call.tokens]
        progress(label, number, len(hits))
    read = sum(tokens) if isinstance(reranker, EngineRerankFunction) else None
    return System(label, first_stage.name, name, rankings, timings, pairs, read)


def _warm_up(key: str | None, reranker: BaseRerankFunction, query: str, texts: list[str], calls: _Calls) -> None:
    """Make a first call that does not count, if the next call is not in the cache: a model's first call is slow."""
    known = key is not None and calls.cache.get(call_key(key, query, texts, calls.k)) is not None
    if not known and isinstance(reranker, EngineRerankFunction):
        reranker.score(query, texts[:2])


def _collect_texts(texts: dict[str, str], system: System, hits: Mapping[str, SearchAnswer[Any]], k: int) -> None:
    """Keep the beginnings of the texts that a report may show."""
    for query, ranking in system.rankings.items():
        wanted = {name for name in ranking.ids[:k] if name not in texts}
        for hit in hits[query] if wanted else ():
            if str(hit.id) in wanted:
                text = " ".join(hit.text[: 2 * _SHOWN].split())
                texts[str(hit.id)] = text if len(text) <= _SHOWN else text[:_SHOWN] + "…"


def _report(
    judged: JudgedQueries | JudgedCollection,
    systems: list[System],
    texts: dict[str, str],
    candidates: int,
    k: int,
    prices: Prices,
    calls: _Calls,
) -> EvaluationReport:
    relevant = {
        name: {document: max(grade, 0) for document, grade in judged.judgments[name].items()}
        for name in judged.queries
        if max(judged.judgments.get(name, {}).values(), default=0) > 0
    }
    names = list(dict.fromkeys([f"nDCG@{k}", "nDCG@10", f"RR@{k}", "AP", f"R@{candidates}", f"Judged@{k}"]))
    ceilings: dict[str, float] = {}
    measured = []
    for system in systems:
        if relevant:
            runs = {name: ranking.ids for name, ranking in system.rankings.items() if name in relevant}
            system = replace(system, measures=measure(runs, relevant, names))
            if system.reranker is None:
                ceilings[system.name] = _ceiling(runs, relevant, k)
        measured.append(replace(system, cost=prices.cost(system)))
    return EvaluationReport(
        name=judged.name,
        k=k,
        candidates=candidates,
        queries=dict(judged.queries),
        judgments=relevant,
        systems=tuple(measured),
        ceilings=ceilings,
        texts=texts,
        notes=tuple(_notes(judged, relevant, systems)),
        details={
            "calls": {"made": calls.made, "from the cache": calls.known},
            "machine": f"{platform.machine()}, {platform.system()}, Python {platform.python_version()}",
            "versions": {name: version for name in _PACKAGES if (version := installed_version(name))},
        },
    )


def _ceiling(runs: Mapping[str, tuple[str, ...]], relevant: Judgments, k: int) -> float:
    """Return the mean nDCG of the best order of the candidates."""
    best = {
        name: sorted(ids, key=lambda document, name=name: -relevant[name].get(document, 0))  # type: ignore[misc]
        for name, ids in runs.items()
    }
    return fmean(measure(best, relevant, (f"nDCG@{k}",))[f"nDCG@{k}"].values())


def _notes(judged: JudgedQueries | JudgedCollection, relevant: Judgments, systems: list[System]) -> list[str]:
    notes = []
    if relevant and len(relevant) < FEW_QUERIES:
        notes.append(
            f"{len(relevant)} judged queries are too few to tell systems apart unless they differ much; judge at least "
            f"{FEW_QUERIES}, better 50."
        )
    without = [name for name in judged.queries if name not in judged.judgments]
    if judged.judgments and without:
        notes.append(f"{_count(without)} no judgment and count in no metric.")
    useless = [name for name in judged.queries if name in judged.judgments and name not in relevant]
    if useless:
        notes.append(f"{_count(useless)} judgments, but none of a relevant document, and count in no metric.")
    empty = [name for name in judged.queries if any(not system.rankings[name].ids for system in systems)]
    if empty:
        notes.append(f"{_count(empty)} no hits in some first stage.")
    return notes


def _count(names: list[str]) -> str:
    shown = ", ".join(map(repr, names[:3])) + (", ..." if len(names) > 3 else "")
    return f"{len(names)} {'query has' if len(names) == 1 else 'queries have'} ({shown})"
