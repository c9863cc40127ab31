"""One training, by sentence-transformers' trainer: it keeps the weights that are best on development queries."""

import contextlib
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from datasets import Dataset, disable_progress_bars
from sentence_transformers import CrossEncoder
from sentence_transformers.base.evaluation import BaseEvaluator
from sentence_transformers.cross_encoder import CrossEncoderTrainer, CrossEncoderTrainingArguments
from sentence_transformers.cross_encoder.losses import BinaryCrossEntropyLoss, LambdaLoss, MSELoss
from transformers import EarlyStoppingCallback, TrainerCallback
from transformers.trainer_utils import get_last_checkpoint

from milvus_rerank.evaluation.metrics import ndcg
from milvus_rerank.models.hub import reports
from milvus_rerank.training.examples import Example, TrainingQuery
from milvus_rerank.training.options import TrainingOptions

_CHECKS_PER_EPOCH = 2
_SCORING_BATCH = 32  # pairs
LONGEST = 512
"""The most tokens of a pair, unless ``max_length`` says more: memory and time grow with them."""


class Development(BaseEvaluator):
    """Mean nDCG@10 of development queries, over the hits of their first stage.

    :param queries: the queries.
    """

    def __init__(self, queries: Sequence[TrainingQuery]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.primary_metric = "ndcg"
        self._queries = queries

    def __call__(
        self, model: Any, output_path: str | None = None, epoch: int = -1, steps: int = -1
    ) -> dict[str, float]:
        """Return the metric of a model by its name."""

        def score(query: str, texts: list[str]) -> list[float]:
            scores: Any = model.predict(
                [(query, text) for text in texts],
                batch_size=_SCORING_BATCH,
                show_progress_bar=False,
                activation_fn=torch.nn.Identity(),
            )
            return [float(value) for value in scores]

        return {"ndcg": fmean(ndcg_of(self._queries, score).values())}


def ndcg_of(
    queries: Sequence[TrainingQuery], score: Callable[[str, list[str]], Sequence[float]], k: int = 10
) -> dict[str, float]:
    """Return nDCG@k of each query's hits, reranked; a relevant document that was not found counts as missing.

    :param queries: the queries.
    :param score: returns the scores of texts for a query.
    :param k: the ranks that count.
    :returns: a number from 0 to 1 by the name of each query.
    """
    run = {}
    for query in queries:
        scores = score(query.text, [query.texts[document] for document in query.hits]) if query.hits else []
        order = sorted(range(len(query.hits)), key=lambda index, scores=scores: -scores[index])  # type: ignore[misc]
        run[query.name] = [query.hits[index] for index in order]
    judgments = {query.name: {name: max(grade, 0) for name, grade in query.judgments.items()} for query in queries}
    return ndcg(run, judgments, k)


class _Report(TrainerCallback):  # type: ignore[misc]
    """Report each step."""

    def __init__(self, progress: Callable[[int, int], object]) -> None:
        self._progress = progress

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Report the steps done, and all of them."""
        self._progress(state.global_step, state.max_steps)


def fine_tune(
    base: Path,
    examples: Sequence[Example],
    development: Sequence[TrainingQuery],
    options: TrainingOptions,
    work: Path,
    *,
    distil: bool,
    progress: Callable[[int, int], object],
) -> Path:
    """Train a cross-encoder, and write the weights that are best on the development queries.

    A training that was cut off goes on from its last checkpoint in ``work``.

    :param base: the folder of the model to begin with.
    :param examples: the pairs to learn from.
    :param development: the queries by whose nDCG@10 the best weights are chosen, and the training ends early.
    :param options: step size, batches and the like.
    :param work: a folder for checkpoints and the result.
    :param distil: whether labels are raw scores of a teacher, which are learnt by squared error; else they are 0 and 1,
        which are learnt as probabilities.
    :param progress: called after each step with the steps done and the most steps.
    :returns: the folder of the trained model.
    """
    disable_progress_bars()
    with reports(show_progress=False, quiet=True), contextlib.redirect_stdout(None):  # the trainer prints figures
        return _fine_tune(base, examples, development, options, work, distil=distil, progress=progress)


def _fine_tune(
    base: Path,
    examples: Sequence[Example],
    development: Sequence[TrainingQuery],
    options: TrainingOptions,
    work: Path,
    *,
    distil: bool,
    progress: Callable[[int, int], object],
) -> Path:
    model: Any = CrossEncoder(
        str(base), num_labels=1, device=options.device, local_files_only=True, model_kwargs={"dtype": torch.float32}
    )
    model.max_length = min(options.max_length or LONGEST, int(model.max_length or LONGEST))
    by_query = options.loss == "lambda" and not distil
    dataset, batch_size = _dataset(examples, options.batch_size, by_query=by_query)
    steps = math.ceil(len(dataset) / batch_size)
    check = max(1, steps // _CHECKS_PER_EPOCH)
    arguments = CrossEncoderTrainingArguments(
        output_dir=str(work / "checkpoints"),
        num_train_epochs=options.epochs,
        per_device_train_batch_size=batch_size,
        learning_rate=options.learning_rate,
        warmup_steps=max(1, round(0.1 * steps * options.epochs)),
        weight_decay=0.01,
        eval_strategy="steps",
        eval_steps=check,
        eval_on_start=True,
        save_strategy="steps",
        save_steps=check,
        save_total_limit=2,
        load_best_model_at_end=True,
        metric_for_best_model="eval_ndcg",
        greater_is_better=True,
        logging_strategy="no",
        report_to="none",
        disable_tqdm=True,
        dataloader_pin_memory=model.device.type == "cuda",
        use_cpu=model.device.type == "cpu",
        seed=options.seed,
    )
    trainer = CrossEncoderTrainer(
        model=model,
        args=arguments,
        train_dataset=dataset,
        loss=_loss(model, options, distil=distil),
        evaluator=Development(development),
        callbacks=[EarlyStoppingCallback(options.patience), _Report(progress)],
    )
    checkpoints = Path(arguments.output_dir)
    last = get_last_checkpoint(str(checkpoints)) if checkpoints.is_dir() else None
    trainer.train(resume_from_checkpoint=last)
    model.save_pretrained(str(work / "model"))
    return work / "model"


def _loss(model: Any, options: TrainingOptions, *, distil: bool) -> torch.nn.Module:
    if distil:
        return MSELoss(model)
    if options.loss == "lambda":
        return LambdaLoss(model, mini_batch_size=options.batch_size)
    return BinaryCrossEntropyLoss(model)


def _dataset(examples: Sequence[Example], batch_size: int, *, by_query: bool) -> tuple[Dataset, int]:
    """Return the examples with the rows of a step: of pairs, or of queries with their documents."""
    if not by_query:
        columns = {name: [getattr(example, name) for example in examples] for name in ("query", "text", "label")}
        return Dataset.from_dict(columns), batch_size
    queries: dict[str, list[Example]] = {}
    for example in examples:
        queries.setdefault(example.query, []).append(example)
    columns = {
        "query": list(queries),
        "text": [[example.text for example in group] for group in queries.values()],
        "label": [[example.label for example in group] for group in queries.values()],
    }
    return Dataset.from_dict(columns), max(1, batch_size * len(queries) // len(examples))
