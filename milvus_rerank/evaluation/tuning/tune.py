"""tune: choose settings on one half of the queries, and report them on the other."""

import math
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from milvus_rerank.errors import InputError, RerankError
from milvus_rerank.evaluation.cache import EvaluationCache
from milvus_rerank.evaluation.evaluate import Progress, evaluate
from milvus_rerank.evaluation.judged import JudgedCollection
from milvus_rerank.evaluation.metrics import measure
from milvus_rerank.evaluation.queries import JudgedQueries
from milvus_rerank.evaluation.systems import System
from milvus_rerank.evaluation.tuning.choose import better_half, choose, divide, measure_best, round_sizes
from milvus_rerank.evaluation.tuning.memory import peak_memory
from milvus_rerank.evaluation.tuning.options import DEFAULT_OPTIONS, FEW_QUERIES, LEAST_QUERIES, TuneOptions
from milvus_rerank.evaluation.tuning.report import FrontierRow, TuneReport
from milvus_rerank.evaluation.tuning.scored import Scored, estimated_p95, frontier, quality
from milvus_rerank.evaluation.tuning.settings import Setting, Variant, make_settings
from milvus_rerank.evaluation.tuning.target import DEFAULT_TARGET, Target
from milvus_rerank.search import TwoStageSearch

_SLACK = 1.25
"""How far an estimated latency may be above the limit for a setting to be measured."""


def tune(
    search: TwoStageSearch[Any],
    judged: JudgedQueries | JudgedCollection,
    variants: Sequence[Variant],
    target: Target = DEFAULT_TARGET,
    options: TuneOptions = DEFAULT_OPTIONS,
    *,
    filter: str | None = None,
    timeout: float | None = 30.0,
    cache: EvaluationCache | None = None,
    progress: Progress = lambda step, done, total: None,
) -> TuneReport:
    """Choose a reranker, its options, a number of candidates, and perhaps a cascade.

    Half of the judged queries choose. All rerankers score the most candidates of a few of them; the worse half is
    dropped, and the others score twice as many, until two are left. Fewer candidates and cascades need no further
    scores. The settings that no other beats in both nDCG and latency are then measured as they run, and reported on the
    other half of the queries.

    :param search: the search whose hits are reranked; its own reranker is not used.
    :param judged: the queries and their judgments.
    :param variants: the rerankers to choose from.
    :param target: the limits, and the quality that may be given up for speed.
    :param options: the grid, and how it is searched.
    :param filter: Milvus' filter for all searches.
    :param timeout: the most seconds of a search.
    :param cache: keeps the scores of an interrupted tuning; None to keep nothing.
    :param progress: called after each query of each step.
    :returns: the report.
    :raises InputError: if there are too few judged queries, or no setting keeps the target.
    :raises SearchError: if Milvus refuses, fails, or does not answer in time.
    """
    if not variants or len(set(variants)) != len(variants):
        raise InputError("variants must hold at least one reranker, and none twice")
    relevant = {
        name: {document: max(grade, 0) for document, grade in judged.judgments[name].items()}
        for name in judged.queries
        if max(judged.judgments.get(name, {}).values(), default=0) > 0
    }
    if len(relevant) < LEAST_QUERIES:
        raise InputError(
            f"tuning needs at least {LEAST_QUERIES} queries with a relevant document, got {len(relevant)}: half "
            f"of them choose, the others test the choice. Judge more, better {2 * FEW_QUERIES}"
        )
    tuning = _Tuning(search, judged, relevant, options, filter, timeout, cache, progress)
    return tuning.run(variants, target, *divide(list(relevant), options.seed))


class _Tuning:
    """A search over a grid; it counts the scored pairs."""

    def __init__(
        self,
        search: TwoStageSearch[Any],
        judged: JudgedQueries | JudgedCollection,
        relevant: Mapping[str, Mapping[str, int]],
        options: TuneOptions,
        filter: str | None,
        timeout: float | None,
        cache: EvaluationCache | None,
        progress: Progress,
    ) -> None:
        self.search, self.judged, self.relevant, self.options = search, judged, relevant, options
        self.filter, self.timeout, self.cache, self.progress = filter, timeout, cache, progress
        self.scored: dict[Variant, Scored] = {}
        self.pointwise: set[Variant] = set()
        self.pairs = 0
        self.notes: list[str] = []

    def run(self, variants: Sequence[Variant], target: Target, choosing: list[str], held_out: list[str]) -> TuneReport:
        """Choose on some queries, and report on others."""
        fitting = self._fitting(variants, target)
        left, dropped = self._halve(fitting, target, choosing)
        left.sort(key=lambda variant: self.scored[variant].seconds_per_pair)
        points = self._points(self._settings(left), choosing)
        measured = self._measure(points, target, choosing)
        qualities = {setting: points[setting][0] for setting in measured}
        chosen = choose(measured, qualities, target)
        pairs = self.pairs
        kept = frontier({setting: (qualities[setting], seconds) for setting, seconds in measured.items()})
        rows = self._report(kept, qualities, held_out)
        row = next(row for row in rows if row.setting == chosen)
        self._add_notes(row, rows[0], target, len(held_out))
        return TuneReport(
            target=target,
            k=self.options.k,
            chosen=row,
            rows=tuple(rows),
            choosing=len(choosing),
            held_out=len(held_out),
            settings=len(make_settings(variants, frozenset(variants), self.options.candidates, self.options.k)),
            pairs=pairs,
            grid_pairs=self.scored[left[0]].pairs * len(variants),
            dropped={str(variant): count for variant, count in dropped.items()},
            notes=tuple(self.notes),
        )

    def _fitting(self, variants: Sequence[Variant], target: Target) -> list[Variant]:
        """Return the variants within the limit of memory."""
        if target.memory is None:
            return list(variants)
        peaks: dict[Variant, int] = {}
        for number, variant in enumerate(variants, 1):
            peak = peak_memory(Setting(variant, self.options.candidates[-1]))
            if peak is None:
                raise InputError("this system does not tell the memory of a process; leave out the limit of memory")
            peaks[variant] = peak
            self.progress("memory", number, len(variants))
        fitting = [variant for variant, peak in peaks.items() if peak <= target.memory]
        if not fitting:
            least = min(peaks, key=peaks.__getitem__)
            raise InputError(
                f"no reranker takes less than {target.memory / 1e9:g} GB; {least} takes the least, "
                f"{peaks[least] / 1e9:.2f} GB"
            )
        for variant in variants:
            if variant not in fitting:
                self.notes.append(f"{variant} takes {peaks[variant] / 1e9:.2f} GB and was left out.")
        return fitting

    def _evaluate(self, setting: Setting, names: Sequence[str], step: str, cached: bool) -> tuple[System, System]:
        """Measure a setting on queries."""
        reranker = setting.load()
        if setting.first is None and reranker.pointwise:
            self.pointwise.add(setting.variant)
        queries = JudgedQueries(
            self.judged.name,
            {name: self.judged.queries[name] for name in names},
            {name: self.relevant[name] for name in names},
        )
        report = evaluate(
            self.search,
            queries,
            rerankers={step: reranker},
            candidates=setting.candidates,
            k=self.options.k,
            filter=self.filter,
            timeout=self.timeout,
            cache=self.cache if cached else None,
            progress=lambda name, done, total: self.progress(step, done, total) if name == step else None,
        )
        first_stage, reranked = report.systems
        self.pairs += reranked.pairs
        return first_stage, reranked

    def _halve(
        self, variants: Sequence[Variant], target: Target, choosing: Sequence[str]
    ) -> tuple[list[Variant], dict[Variant, int]]:
        """Score more and more queries with fewer and fewer rerankers; return the last ones, and when others left."""
        left, dropped, done = list(variants), dict[Variant, int](), 0
        sizes = round_sizes(len(choosing), len(variants))
        for number, size in enumerate(sizes, 1):
            for variant in left:
                setting = Setting(variant, self.options.candidates[-1])
                step = f"round {number} of {len(sizes)}: {variant}"
                pair = self._evaluate(setting, choosing[done:size], step, cached=True)
                self.scored.setdefault(variant, Scored()).add(*pair)
            done = size
            if number < len(sizes):
                points = self._points(self._settings(left, cascades=False), choosing[:done])
                kept = better_half(left, points, target)
                dropped |= {variant: done for variant in left if variant not in kept}
                left = kept
        return left, dropped

    def _settings(self, variants: Sequence[Variant], cascades: bool = True) -> list[Setting]:
        settings = make_settings(variants, frozenset(self.pointwise), self.options.candidates, self.options.k)
        return [setting for setting in settings if cascades or setting.first is None]

    def _points(self, settings: Sequence[Setting], names: Sequence[str]) -> dict[Setting, tuple[float, float]]:
        """Return the nDCG and the estimated p95 of settings on queries that their rerankers have scored."""
        return {
            setting: (
                quality(setting, self.scored, self.relevant, names, self.options.k),
                estimated_p95(setting, self.scored),
            )
            for setting in settings
        }

    def _measure(
        self, points: Mapping[Setting, tuple[float, float]], target: Target, choosing: Sequence[str]
    ) -> dict[Setting, float]:
        """Return the measured p95 of the settings that may be chosen."""
        limit = math.inf if target.p95 is None else target.p95 * _SLACK
        edge = frontier(points)
        # The best that are fast enough; without any, the fastest, to say how fast that is.
        fast = [setting for setting in edge if points[setting][1] <= limit] or edge[:1]

        def seconds(setting: Setting) -> float:
            step = f"latency: {setting} of {setting.candidates}"
            _, reranked = self._evaluate(setting, choosing[: self.options.timed], step, cached=False)
            return reranked.seconds(95)

        return measure_best(fast, seconds, target, self.options.measured)

    def _report(
        self, settings: Sequence[Setting], qualities: Mapping[Setting, float], held_out: Sequence[str]
    ) -> list[FrontierRow]:
        """Measure settings on held-out queries; the first row is the first stage alone."""
        rows: list[FrontierRow] = []
        alone: System | None = None
        for number, setting in enumerate(settings, 1):
            step = f"held-out queries {number} of {len(settings)}: {setting} of {setting.candidates}"
            alone, reranked = self._evaluate(setting, held_out, step, cached=False)
            memory = self._memory(setting) if self.options.memory else None
            rows.append(self._row(setting, setting.candidates, reranked, qualities[setting], memory))
        assert alone is not None  # noqa: S101  there is a chosen setting
        hits = self.scored[settings[-1].variant].hits
        relevant = {name: self.relevant[name] for name in hits}
        metric = f"nDCG@{self.options.k}"
        first = fmean(measure(hits, relevant, (metric,))[metric].values())
        return [self._row(None, settings[-1].candidates, alone, first, None), *rows]

    def _row(
        self, setting: Setting | None, candidates: int, system: System, choosing_ndcg: float, memory: int | None
    ) -> FrontierRow:
        metric = f"nDCG@{self.options.k}"
        return FrontierRow(
            setting=setting,
            candidates=candidates,
            ndcg=system.mean(metric),
            interval=system.interval(metric),
            p50=system.seconds(50),
            p95=system.seconds(95),
            pairs_per_second=None if setting is None or setting.first is not None else system.pairs_per_second,
            memory=memory,
            choosing_ndcg=choosing_ndcg,
        )

    def _memory(self, setting: Setting) -> int | None:
        try:
            return peak_memory(setting)
        except RerankError as error:  # such as a reranker that only this process has registered
            self.notes.append(f"{error}.")
            return None

    def _add_notes(self, chosen: FrontierRow, alone: FrontierRow, target: Target, held_out: int) -> None:
        """Note what a user must know before trusting the choice."""
        if held_out < FEW_QUERIES:
            self.notes.append(
                f"{held_out} held-out queries tell only large differences from chance; judge {2 * FEW_QUERIES} in all."
            )
        if target.p95 is not None and chosen.p95 > target.p95:
            self.notes.append(
                f"On the held-out queries the p95 of the choice is {chosen.p95 * 1000:.0f} ms, above the limit of "
                f"{target.p95 * 1000:g} ms: latencies near a limit vary. Set a lower limit."
            )
        if chosen.ndcg <= alone.ndcg:
            self.notes.append("On the held-out queries the first stage alone is as good as the choice.")
