"""evaluate: measure first stages and rerankers on the queries of a collection."""

import platform
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from itertools import islice
from statistics import fmean
from typing import Any

from milvus_rerank.errors import InputError
from milvus_rerank.evaluation.cache import EvaluationCache
from milvus_rerank.evaluation.calls import Calls, SystemRun
from milvus_rerank.evaluation.evaluation_report import EvaluationReport
from milvus_rerank.evaluation.first_stages import Retriever, unknown_documents
from milvus_rerank.evaluation.judged import JudgedCollection, Judgments
from milvus_rerank.evaluation.metrics import measure
from milvus_rerank.evaluation.notes import make_notes
from milvus_rerank.evaluation.prices import Prices
from milvus_rerank.evaluation.queries import JudgedQueries
from milvus_rerank.evaluation.systems import System
from milvus_rerank.indexing.configured import ConfiguredSearch
from milvus_rerank.inventory import installed_version
from milvus_rerank.reranker.base import BaseRerankFunction
from milvus_rerank.search import Dense, FullText, SearchAnswer, TwoStageSearch
from milvus_rerank.validation import check_count, check_text

Progress = Callable[[str, int, int], object]
"""A function of the name of a step, its finished queries and all of its queries."""

_HITS = 5000
"""Hits whose texts are in memory at a time."""
_SHOWN = 300
"""Characters of a text in a report."""
_PACKAGES = ("milvus-rerank", "pymilvus", "milvus-lite", "onnxruntime", "openvino", "torch", "ir-measures", "scipy")


def evaluate(
    search: TwoStageSearch[Any] | Mapping[str, TwoStageSearch[Any]],
    judged: JudgedQueries | JudgedCollection,
    *,
    rerankers: Mapping[str, BaseRerankFunction] | None = None,
    candidates: int = 50,
    k: int = 10,
    filter: str | None = None,
    instruction: str | None = None,
    timeout: float | None = 30.0,
    cache: EvaluationCache | None = None,
    prices: Prices | None = None,
    reference: str | None = None,
    progress: Progress = lambda step, done, total: None,
) -> EvaluationReport:
    """Measure first stages and rerankers on the same queries, one query at a time.

    Every first stage is searched anew. Each reranker scores the hits of each first stage; calls that the cache knows
    are not repeated, and keep the durations that were measured then. So an evaluation that was cut off goes on. The
    texts of at most 5,000 hits are in memory at a time.

    :param search: a two-stage search, or several by the names of their first stages.
    :param judged: the queries and their judgments. Without judgments, the report compares the rankings alone.
    :param rerankers: the rerankers by name; None for the search's own, which is then named ``reranked``.
    :param candidates: the number of hits to rerank for each query.
    :param k: the number of ranks that count.
    :param filter: Milvus' filter for all searches; None for that of a search from a config file, or none.
    :param instruction: says what is relevant, for those rerankers that take instructions; None for that of a search
        from a config file with its own reranker, or none.
    :param timeout: the most seconds of a search.
    :param cache: a cache on the disk; None to keep nothing.
    :param prices: prices for the cost of 1,000 queries.
    :param reference: without judgments, the reranker or the system that counts as right, such as the strongest
        reranker; None for the last system.
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
    if instruction is None and rerankers is None and isinstance(search, ConfiguredSearch):
        instruction = search.arguments.get("instruction")
    _check_instruction(chosen, instruction)
    if not judged.queries:
        raise InputError("there are no queries to evaluate")
    for name, text in judged.queries.items():
        check_text(text, f"the query {name!r}")
    calls = Calls(EvaluationCache() if cache is None else cache, k)
    retrievers = {name: Retriever(name, item, candidates, filter, timeout) for name, item in searches.items()}
    referred = _reference(reference, searches, chosen)
    for retriever in retrievers.values():
        retriever(next(iter(judged.queries.values())))  # the first search of a process loads and connects
    documents = list(dict.fromkeys(name for grades in judged.judgments.values() for name in grades))
    unknown = unknown_documents(retrievers.values(), documents, timeout)
    runs: list[SystemRun] = []
    texts: dict[str, str] = {}
    for name, retriever in retrievers.items():
        reranked = [
            SystemRun(_label(name, label, searches), name, label, item, instruction) for label, item in chosen.items()
        ]
        stage = [SystemRun(name, name), *reranked]
        for hits in _blocks(retriever, judged.queries, stage[0], max(1, _HITS // candidates), progress):
            _rerank(reranked, hits, len(judged.queries), calls, progress)
            _collect_texts(texts, stage, hits, k)
        runs += stage
    return _report(judged, runs, texts, unknown, candidates, k, prices or Prices(), referred, calls)


def stage_name(search: TwoStageSearch[Any]) -> str:
    """Return the name of a search's first stage in reports: ``dense``, ``bm25`` or ``hybrid``."""
    stage = search.first_stage
    return "dense" if isinstance(stage, Dense) else "bm25" if isinstance(stage, FullText) else "hybrid"


def _named(search: TwoStageSearch[Any] | Mapping[str, TwoStageSearch[Any]]) -> dict[str, TwoStageSearch[Any]]:
    if isinstance(search, TwoStageSearch):
        return {stage_name(search): search}
    if not isinstance(search, Mapping) or not search:
        raise InputError(f"search must be a TwoStageSearch, or several by name, got {type(search).__name__}")
    return dict(search)


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


def _check_instruction(rerankers: Mapping[str, BaseRerankFunction], instruction: str | None) -> None:
    """Raise an ``InputError`` if none of the rerankers takes the instruction."""
    if instruction is not None and rerankers and not any(item.takes_instruction for item in rerankers.values()):
        next(iter(rerankers.values())).with_instruction(instruction)


def _label(first_stage: str, reranker: str, searches: Mapping[str, Any]) -> str:
    return reranker if len(searches) == 1 else f"{first_stage} + {reranker}"


def _reference(
    name: str | None, searches: Mapping[str, Any], rerankers: Mapping[str, BaseRerankFunction]
) -> str | None:
    """Return the name of the system that a user means by the name of a system or of a reranker."""
    if name is None:
        return None
    systems = [*searches, *(_label(stage, reranker, searches) for stage in searches for reranker in rerankers)]
    label = _label(list(searches)[-1], name, searches) if name in rerankers else name
    if label not in systems:
        raise InputError(f"the reference {name!r} is not among the systems; they are: {', '.join(systems)}")
    return label


def _blocks(
    retriever: Retriever, queries: Mapping[str, str], run: SystemRun, size: int, progress: Progress
) -> Iterator[dict[str, SearchAnswer[Any]]]:
    """Search with one query after another, and yield the hits of some queries at a time."""
    left = iter(queries.items())
    while block := list(islice(left, size)):
        hits: dict[str, SearchAnswer[Any]] = {}
        for query, text in block:
            hits[query] = retriever(text)
            run.keep(query, hits[query])
            progress(run.name, len(run.rankings), len(queries))
        yield hits


def _rerank(
    runs: list[SystemRun], hits: Mapping[str, SearchAnswer[Any]], total: int, calls: Calls, progress: Progress
) -> None:
    for run in runs:  # all queries with one reranker, then with the next: each keeps the caches of the CPU
        for query, answer in hits.items():
            run.rerank(query, answer, calls)
            progress(run.name, len(run.rankings), total)


def _collect_texts(texts: dict[str, str], runs: list[SystemRun], hits: Mapping[str, SearchAnswer[Any]], k: int) -> None:
    """Keep the beginnings of the texts that a report may show."""
    for query, answer in hits.items():
        wanted = {name for run in runs for name in run.rankings[query].ids[:k] if name not in texts}
        for hit in answer if wanted else ():
            if str(hit.id) in wanted:
                text = " ".join(hit.text[: 2 * _SHOWN].split())
                texts[str(hit.id)] = text if len(text) <= _SHOWN else text[:_SHOWN] + "…"


def _report(
    judged: JudgedQueries | JudgedCollection,
    runs: list[SystemRun],
    texts: dict[str, str],
    unknown: list[str],
    candidates: int,
    k: int,
    prices: Prices,
    reference: str | None,
    calls: Calls,
) -> EvaluationReport:
    relevant = {
        name: {document: max(grade, 0) for document, grade in judged.judgments[name].items()}
        for name in judged.queries
        if max(judged.judgments.get(name, {}).values(), default=0) > 0
    }
    names = list(dict.fromkeys([f"nDCG@{k}", "nDCG@10", f"RR@{k}", "AP", f"R@{candidates}", f"Judged@{k}"]))
    ceilings: dict[str, float] = {}
    systems: list[System] = []
    for run in runs:
        measures: Mapping[str, Mapping[str, float]] = {}
        if relevant:
            rankings = {name: ranking.ids for name, ranking in run.rankings.items() if name in relevant}
            measures = measure(rankings, relevant, names)
            if run.reranker_name is None:
                ceilings[run.name] = _ceiling(rankings, relevant, k)
        systems.append(run.system(measures))
    return EvaluationReport(
        name=judged.name,
        k=k,
        candidates=candidates,
        queries=dict(judged.queries),
        judgments=relevant,
        systems=tuple(replace(system, cost=prices.cost(system)) for system in systems),
        ceilings=ceilings,
        texts=texts,
        notes=tuple(make_notes(judged.queries, judged.judgments, relevant, unknown, systems)),
        details={
            "calls": {"made": calls.made, "from the cache": calls.known},
            "machine": f"{platform.machine()}, {platform.system()}, Python {platform.python_version()}",
            "versions": {name: version for name in _PACKAGES if (version := installed_version(name))},
        },
        reference=reference,
    )


def _ceiling(runs: Mapping[str, tuple[str, ...]], relevant: Judgments, k: int) -> float:
    """Return the mean nDCG of the best order of the candidates."""
    best = {
        name: sorted(ids, key=lambda document, name=name: -relevant[name].get(document, 0))  # type: ignore[misc]
        for name, ids in runs.items()
    }
    return fmean(measure(best, relevant, (f"nDCG@{k}",))[f"nDCG@{k}"].values())
