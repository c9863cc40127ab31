"""train: fine-tune a cross-encoder, and write it only if it is better on queries that it did not learn from."""

import json
import os
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from milvus_rerank.errors import InputError, ModelError, write_errors
from milvus_rerank.evaluation.judged import JudgedCollection
from milvus_rerank.evaluation.queries import JudgedQueries
from milvus_rerank.evaluation.significance import interval, paired_test
from milvus_rerank.export.write import write_float32
from milvus_rerank.loading.inspect import ModelInfo, inspect_model
from milvus_rerank.models import ModelSource
from milvus_rerank.models.files import TOKENIZERS, content_key, identity_key
from milvus_rerank.onnx_graphs.files import WEIGHTS
from milvus_rerank.requirements import require
from milvus_rerank.reranker.base import BaseRerankFunction
from milvus_rerank.reranker.cross_encoder import CrossEncoderRerankFunction
from milvus_rerank.search import TwoStageSearch
from milvus_rerank.training.examples import (
    Progress,
    Scores,
    TrainingQuery,
    collect_queries,
    folds,
    make_examples,
)
from milvus_rerank.training.options import FEW_QUERIES, TrainingOptions
from milvus_rerank.training.report import RECORD, TrainingReport, model_card

_PARTS = 5  # of the queries, for a single test and for development
_FIGURES = ("before", "after", "first_stage")


def train(
    search: TwoStageSearch[Any],
    judged: JudgedQueries | JudgedCollection,
    base: str,
    output: str | os.PathLike[str],
    options: TrainingOptions | None = None,
    *,
    teacher: BaseRerankFunction | None = None,
    timeout: float | None = 30.0,
    progress: Progress = lambda step, done, total: None,
) -> TrainingReport:
    """Fine-tune a cross-encoder on the judged queries of a collection.

    Relevant documents are those of the judgments; others are taken from the first stage's hits. The queries are divided
    into parts, and each part is tested with a model that learnt from the others. Only if that raises nDCG@10 with
    certainty, the whole 95% interval above 0, a model that learns from all queries is written.

    Run it again after a crash: finished parts are kept, and a training goes on from its last checkpoint.

    :param search: a two-stage search with a ``MilvusClient``; only its first stage runs.
    :param judged: the queries and their judgments: at least 10, better 50 or more.
    :param base: the cross-encoder to begin with: a built-in model, a folder, or a name on the model hub.
    :param output: the folder for the trained model; it must be new or empty.
    :param options: the options; None for the defaults.
    :param teacher: a stronger reranker whose raw scores are learnt in place of the judgments; None for none.
    :param timeout: the most seconds of a call of Milvus.
    :param progress: called with the name of a step, the amount done and the total.
    :returns: the report; :attr:`TrainingReport.written` says whether there is a better model.
    :raises InputError: for an invalid option, too few queries, or an output folder that holds files.
    :raises ModelError: if the base model is not a cross-encoder with one label.
    :raises MissingDependencyError: if a package for training is missing.
    """
    options = options or TrainingOptions()
    _check_output(Path(output))
    queries, notes = collect_queries(search, judged, options.candidates, timeout=timeout, progress=progress)
    return train_on(queries, base, output, options, teacher=teacher, notes=notes, progress=progress)


def train_on(
    queries: Sequence[TrainingQuery],
    base: str,
    output: str | os.PathLike[str],
    options: TrainingOptions | None = None,
    *,
    teacher: BaseRerankFunction | None = None,
    notes: Sequence[str] = (),
    progress: Progress = lambda step, done, total: None,
) -> TrainingReport:
    """Do the same as :func:`train` with queries and documents at hand.

    :param queries: the judged queries with their documents.
    :param base: the cross-encoder to begin with.
    :param output: the folder for the trained model; it must be new or empty.
    :param options: the options; None for the defaults.
    :param teacher: a stronger reranker; None for none.
    :param notes: remarks for the report.
    :param progress: called with the name of a step, the amount done and the total.
    :returns: the report.
    :raises InputError: for an invalid option, too few queries, or an output folder that holds files.
    :raises ModelError: if the base model is not a cross-encoder with one label.
    :raises MissingDependencyError: if a package for training is missing.
    """
    started = time.monotonic()
    options, target = options or TrainingOptions(), Path(os.path.abspath(output))
    _check_output(target)
    count = options.fold_count(len(queries))
    if len(queries) < max(FEW_QUERIES, count):
        raise InputError(
            f"training needs at least {max(FEW_QUERIES, count)} queries with a relevant document, got {len(queries)}; "
            "judge more, better 50"
        )
    require("training", "torch", "sentence_transformers", "accelerate", "datasets", "ir_measures", "scipy")
    info = _inspect(base)
    folder = info.folder if info.is_local else info.fetch(*WEIGHTS, *TOKENIZERS, "*")
    run = _Run(info, folder, list(queries), options, teacher, target, progress)
    with write_errors(target, "free space on its disk, or give another folder"):
        parts = folds(queries, _PARTS if count == 1 else count, options.seed)
        tests = [run.test(number, parts, count) for number in range(count)]
        before, after, first_stage = ({k: v for test in tests for k, v in test[key].items()} for key in _FIGURES)
        gains = [after[name] - before[name] for name in after]
        ends = interval(gains) or (gains[0], gains[0])
        report = TrainingReport(
            base=base,
            output=Path(output),
            written=ends[0] > 0,
            options=options,
            queries=len(queries),
            examples=run.examples,
            first_stage=first_stage,
            before=before,
            after=after,
            gain=fmean(gains),
            interval=ends,
            p_value=paired_test(gains),
            notes=tuple(notes),
            seconds=round(time.monotonic() - started, 1),
        )
        if report.written:
            run.write(report, parts, count)
        shutil.rmtree(run.work, ignore_errors=True)
    return report


class _Run:
    """The trainings of one call, with a folder for what is done."""

    def __init__(
        self,
        info: ModelInfo,
        folder: Path,
        queries: list[TrainingQuery],
        options: TrainingOptions,
        teacher: BaseRerankFunction | None,
        target: Path,
        progress: Progress,
    ) -> None:
        self._info, self._folder, self._options, self._progress = info, folder, options, progress
        self._teacher, self._target = teacher, target
        self._base: BaseRerankFunction | None = None
        self.examples = 0
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        key = content_key((), identity_key(files), options, repr(teacher), [repr(query) for query in queries])
        self.work = target.parent / f".{target.name}.training"
        if not (self.work / key).is_file():  # of another training, or new
            shutil.rmtree(self.work, ignore_errors=True)
            self.work.mkdir(parents=True)
            (self.work / key).touch()

    def test(self, number: int, parts: list[list[TrainingQuery]], count: int) -> dict[str, dict[str, float]]:
        """Train without one part of the queries, and return its figures before and after."""
        from milvus_rerank.training.fine_tune import ndcg_of

        result = self.work / f"part-{number}.json"
        if result.is_file():
            figures = json.loads(result.read_text("utf-8"))
            self.examples = figures.pop("examples")
            return dict(figures)
        step = f"Part {number + 1} of {count}" if count > 1 else "Training"
        held_out = parts[number]
        others = [query for index, part in enumerate(parts) if index != number for query in part]
        model = self._train(f"fold-{number}", step, others)
        trained = self._load(str(model))
        figures = {
            "before": ndcg_of(held_out, self._base_scores()),
            "after": ndcg_of(held_out, trained.score),
            "first_stage": ndcg_of(held_out, lambda query, texts: [-float(rank) for rank in range(len(texts))]),
            "examples": self.examples,
        }
        unfinished = result.with_suffix(".part")
        unfinished.write_text(json.dumps(figures), "utf-8")
        os.replace(unfinished, result)
        if count > 1:
            shutil.rmtree(model.parent, ignore_errors=True)
        figures.pop("examples")
        return figures

    def write(self, report: TrainingReport, parts: list[list[TrainingQuery]], count: int) -> None:
        """Write the model that learnt from all queries; of a single test, the model that was tested."""
        if count == 1:
            model = self.work / "fold-0" / "model"
        else:
            model = self._train("all", "All queries", [query for part in parts for query in part])
        shutil.rmtree(model.parent / "checkpoints", ignore_errors=True)
        if not inspect_model(ModelSource(str(model))).can_build:  # torch traces it now, so that it needs none later
            exported = model.parent / "exported"
            write_float32(ModelSource(str(model)), model, exported)
            os.replace(exported / "onnx", model / "onnx")
        (model / "README.md").write_text(model_card(report), "utf-8")
        (model / RECORD).write_text(json.dumps(report.to_dict(), indent=2) + "\n", "utf-8")
        self._target.parent.mkdir(parents=True, exist_ok=True)
        if self._target.exists():
            self._target.rmdir()  # empty; some systems cannot rename over an empty folder
        os.replace(model, self._target)

    def _train(self, name: str, step: str, queries: list[TrainingQuery]) -> Path:
        from milvus_rerank.training.fine_tune import fine_tune

        development, learnt = queries[::_PARTS], [query for index, query in enumerate(queries) if index % _PARTS]
        teacher = None if self._teacher is None else self._teacher.score
        judge: Scores | None = teacher
        if teacher is None and self._options.margin is not None:
            judge = self._base_scores()
        examples = make_examples(learnt, self._options, teacher, judge)
        self.examples = len(examples)
        return fine_tune(
            self._folder,
            examples,
            development,
            self._options,
            self.work / name,
            distil=teacher is not None,
            progress=lambda done, total: self._progress(step, done, total),
        )

    def _base_scores(self) -> Scores:
        if self._base is None:
            self._base = self._load(self._info.source.name)
        return self._base.score

    def _load(self, model: str) -> BaseRerankFunction:
        options = self._options
        return CrossEncoderRerankFunction(
            model, device=options.device, max_length=options.max_length, activation_fct="raw"
        )


def _inspect(base: str) -> ModelInfo:
    info = inspect_model(ModelSource(base))
    if info.model_type not in ("classifier", "library") or (info.model_type == "classifier" and len(info.labels) > 1):
        kind = f"has {len(info.labels)} labels" if info.model_type == "classifier" else f"is of type {info.model_type}"
        raise ModelError(
            f"model {base!r} {kind}; training takes a cross-encoder with one label, such as 'builtin/rerank' or "
            "'cross-encoder/ettin-reranker-32m-v1'"
        )
    return info


def _check_output(target: Path) -> None:
    if target.exists() and not target.is_dir():
        raise InputError(f"{target} is a file; give a folder that does not exist yet")
    if target.exists() and any(target.iterdir()):
        raise InputError(f"folder {target} holds other files; give a new or an empty folder")
