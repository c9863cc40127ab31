"""calibrate: make probabilities of relevance from a model's logits, fitted on judged queries."""

import copy
import json
import os
import random
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from milvus_rerank.errors import InputError, write_errors
from milvus_rerank.evaluation.fit import METHODS, Curve, error_of, fit, log_loss
from milvus_rerank.evaluation.judged import JudgedCollection
from milvus_rerank.evaluation.queries import JudgedQueries
from milvus_rerank.indexing.search import FirstStageOrder
from milvus_rerank.inventory import installed_version
from milvus_rerank.loading.inspect import inspect_model
from milvus_rerank.models import ModelSource
from milvus_rerank.models.calibration import Calibration, Method
from milvus_rerank.models.files import fingerprint
from milvus_rerank.requirements import require
from milvus_rerank.reranker.local import EngineRerankFunction
from milvus_rerank.scoring.activation import sigmoid
from milvus_rerank.search import TwoStageSearch
from milvus_rerank.validation import check_count

FEW_QUERIES = 10
"""The fewest queries to calibrate with: each is held out once."""
FEW_PAIRS = 10
"""The fewest relevant pairs, and the fewest others."""
_BINS = 15
_PACKAGES = ("milvus-rerank", "scipy", "numpy")

Progress = Callable[[str, int, int], object]
"""A function of the name of a step, the amount done and the total."""


@dataclass(frozen=True, slots=True)
class LabelledQuery:
    """A query with labelled texts.

    :param text: the query.
    :param documents: the texts.
    :param relevant: whether each text is relevant.
    """

    text: str
    documents: tuple[str, ...]
    relevant: tuple[bool, ...]


@dataclass(frozen=True, slots=True)
class Bin:
    """Pairs whose probabilities lie in a range.

    :param predicted: the mean of their probabilities.
    :param observed: the share of them that is relevant.
    :param count: their number.
    """

    predicted: float
    observed: float
    count: int


@dataclass(frozen=True, slots=True)
class CalibrationReport:
    """The result of a calibration. All figures are of held-out queries.

    :param calibration: the calibration, fitted on all queries.
    :param queries: the number of queries.
    :param pairs: the number of pairs.
    :param relevant: the number of relevant pairs.
    :param ece_before: the expected calibration error of the sigmoid, over 15 ranges of equal width.
    :param ece_after: that of the calibration.
    :param brier_before: the mean squared error of the sigmoid.
    :param brier_after: that of the calibration.
    :param losses: the log loss of each method; the least was taken.
    :param bins: the reliability of the calibration: pairs by ranges of probability.
    :param bins_before: that of the sigmoid.
    :param precision: the wanted precision; None for none.
    :param threshold: the least probability with which that precision was reached; None if none was wanted or reached.
    :param recall: the share of the relevant pairs above that threshold.
    """

    calibration: Calibration
    queries: int
    pairs: int
    relevant: int
    ece_before: float
    ece_after: float
    brier_before: float
    brier_after: float
    losses: Mapping[str, float]
    bins: tuple[Bin, ...]
    bins_before: tuple[Bin, ...]
    precision: float | None = None
    threshold: float | None = None
    recall: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return the report as JSON-safe Python values, with the versions of the packages used."""
        figures = {key: value for key, value in asdict(self).items() if key != "calibration"}
        versions = {name: version for name in _PACKAGES if (version := installed_version(name))}
        return {**self.calibration.to_dict(), "figures": figures, "versions": versions}

    def write(self, path: str | os.PathLike[str]) -> None:
        """Write the file that ``calibration=`` and ``activation_fct="calibrated"`` read, whole or not at all.

        :param path: the file; ``calibration.json`` in the model's folder is found by itself.
        :raises WriteError: if it cannot be written.
        """
        target = Path(path)
        unfinished = target.with_name(f".{target.name}.{os.getpid()}")
        with write_errors(target, "give another file with --output"):
            unfinished.write_text(json.dumps(self.to_dict(), indent=2) + "\n", "utf-8")
            os.replace(unfinished, target)


def label_hits(
    search: TwoStageSearch[Any],
    judged: JudgedQueries | JudgedCollection,
    candidates: int = 50,
    *,
    grade: int = 1,
    judged_only: bool = False,
    timeout: float | None = 30.0,
    progress: Progress = lambda step, done, total: None,
) -> list[LabelledQuery]:
    """Search a collection with judged queries, and label the hits.

    :param search: a two-stage search; only its first stage runs.
    :param judged: the queries and their judgments.
    :param candidates: the hits of each query.
    :param grade: the least relevance that counts as relevant.
    :param judged_only: whether to leave out hits that nobody judged; else they count as not relevant.
    :param timeout: the most seconds of a search.
    :param progress: called after each query.
    :returns: the judged queries, each with its hits; those without hits are left out.
    :raises HitError: if a hit has no text.
    :raises SearchError: if Milvus refuses, fails, or does not answer in time.
    """
    first = copy.copy(search)
    first.reranker = FirstStageOrder()
    names = [name for name in judged.queries if judged.judgments.get(name)]
    labelled = []
    for number, name in enumerate(names, 1):
        judgments = judged.judgments[name]
        answer = first(
            judged.queries[name], top_k=None, candidates=candidates, timeout=timeout, threshold=None, instruction=None
        )
        hits = [hit for hit in answer if str(hit.id) in judgments or not judged_only]
        if hits:
            relevant = tuple(judgments.get(str(hit.id), 0) >= grade for hit in hits)
            labelled.append(LabelledQuery(judged.queries[name], tuple(hit.text for hit in hits), relevant))
        progress("Searching", number, len(names))
    return labelled


def calibrate(
    reranker: EngineRerankFunction,
    queries: Sequence[LabelledQuery],
    *,
    precision: float | None = None,
    method: Method | None = None,
    folds: int = 5,
    seed: int = 0,
    progress: Progress = lambda step, done, total: None,
) -> CalibrationReport:
    """Fit the probability of relevance of a model's logits.

    Both methods are fitted without each fifth of the queries in turn, and judged on that fifth. The better one by log
    loss is then fitted on all queries.

    :param reranker: a reranker with a local model.
    :param queries: queries with labelled texts: at least 10, with at least 10 relevant texts and 10 others.
    :param precision: the precision to find the threshold for; None for none.
    :param method: ``platt`` or ``isotonic``; None for the better one.
    :param folds: the parts of the queries.
    :param seed: the seed of the parts.
    :param progress: called after each query.
    :returns: the calibration and its figures.
    :raises InputError: if there are too few queries or pairs, or scores do not rise with relevance.
    :raises MissingDependencyError: if scipy is not installed.
    """
    if not isinstance(reranker, EngineRerankFunction):
        raise InputError(f"calibrate takes a reranker with a local model, got {type(reranker).__name__}")
    if precision is not None and not 0 < precision <= 1:
        raise InputError(f"precision must be above 0 and at most 1, got {precision!r}")
    check_count(folds, "folds", least=1)
    labels = np.array([label for query in queries for label in query.relevant], bool)
    positive = int(labels.sum())
    if len(queries) < max(FEW_QUERIES, folds) or min(positive, len(labels) - positive) < FEW_PAIRS:
        raise InputError(
            f"calibration needs at least {max(FEW_QUERIES, folds)} queries, {FEW_PAIRS} relevant texts and {FEW_PAIRS} "
            f"others, got {len(queries)}, {positive} and {len(labels) - positive}; judge more, or raise --candidates"
        )
    require("calibration", "scipy")
    logits = _logits(reranker, queries, progress)
    parts = _parts(queries, max(2, folds), seed)
    held_out = {name: _held_out(name, logits, labels, parts) for name in (METHODS if method is None else (method,))}
    losses = {name: log_loss(probabilities, labels) for name, probabilities in held_out.items()}
    best = min(losses, key=losses.__getitem__)
    after, before = held_out[best], sigmoid(logits)
    threshold, recall = _threshold(after, labels, precision)
    return CalibrationReport(
        calibration=_calibration(reranker, fit(best, logits, labels)),
        queries=len(queries),
        pairs=len(labels),
        relevant=positive,
        ece_before=error_of(_bins(before, labels), len(labels)),
        ece_after=error_of(_bins(after, labels), len(labels)),
        brier_before=float(np.mean((before - labels) ** 2)),
        brier_after=float(np.mean((after - labels) ** 2)),
        losses=losses,
        bins=tuple(Bin(*row) for row in _bins(after, labels)),
        bins_before=tuple(Bin(*row) for row in _bins(before, labels)),
        precision=precision,
        threshold=threshold,
        recall=recall,
    )


def _logits(
    reranker: EngineRerankFunction, queries: Sequence[LabelledQuery], progress: Progress
) -> NDArray[np.float32]:
    stop, logits = threading.Event(), []
    for number, query in enumerate(queries, 1):
        [found] = reranker.scorer.logits([(query.text, list(query.documents))], stop)
        logits.append(found["value"])
        progress("Scoring", number, len(queries))
    return np.concatenate(logits)


def _parts(queries: Sequence[LabelledQuery], count: int, seed: int) -> NDArray[np.int64]:
    """Return the part of each pair; all pairs of a query are in one part."""
    order = list(range(len(queries)))
    random.Random(seed).shuffle(order)  # noqa: S311  a split, not a secret
    part = {index: place % count for place, index in enumerate(order)}
    return np.repeat([part[index] for index in range(len(queries))], [len(query.relevant) for query in queries])


def _held_out(
    method: str, logits: NDArray[np.float32], labels: NDArray[np.bool_], parts: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Return the probability of each pair by a curve that was fitted without its query."""
    probabilities = np.empty(len(logits), np.float64)
    for part in np.unique(parts):
        out = parts == part
        probabilities[out] = _calibrated(fit(method, logits[~out], labels[~out]))(logits[out])
    return probabilities


def _calibrated(curve: Curve) -> Calibration:
    return Calibration("", "", 0, curve.slope, curve.intercept, curve.logits, curve.probabilities)


def _calibration(reranker: EngineRerankFunction, curve: Curve) -> Calibration:
    folder = inspect_model(ModelSource(reranker.model_name)).folder
    length = reranker.scorer.encoder.max_length
    return Calibration(
        reranker.model_name,
        fingerprint(folder),
        length,
        curve.slope,
        curve.intercept,
        curve.logits,
        curve.probabilities,
    )


def _bins(probabilities: NDArray[np.float64], labels: NDArray[np.bool_]) -> list[tuple[float, float, int]]:
    numbers = np.minimum((probabilities * _BINS).astype(int), _BINS - 1)
    return [
        (float(probabilities[inside].mean()), float(labels[inside].mean()), int(inside.sum()))
        for number in range(_BINS)
        if (inside := numbers == number).any()
    ]


def _threshold(
    probabilities: NDArray[np.float64], labels: NDArray[np.bool_], precision: float | None
) -> tuple[float | None, float | None]:
    """Return the least probability above which the precision is reached, and the recall there."""
    if precision is None:
        return None, None
    order = np.argsort(-probabilities, kind="stable")
    hits = np.cumsum(labels[order])
    ends = np.append(np.diff(probabilities[order]) != 0, True)  # equal probabilities are above a threshold together
    reached = np.flatnonzero((hits / np.arange(1, len(hits) + 1) >= precision) & ends)
    if not len(reached):
        return None, None
    last = int(reached[-1])
    return float(probabilities[order][last]), float(hits[last] / labels.sum())
