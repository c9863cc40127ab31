"""Rerank functions over an engine: loading with the options that all of them share."""

import logging
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from milvus_rerank.errors import MissingDependencyError
from milvus_rerank.inputs import check_count
from milvus_rerank.models import ModelSource, model_folder
from milvus_rerank.reranker.base import BaseRerankFunction
from milvus_rerank.scoring import Request
from milvus_rerank.scoring.activation import pick_activation
from milvus_rerank.scoring.pairs import PairEncoder, Truncation
from milvus_rerank.scoring.scorer import PairScorer

logger = logging.getLogger(__name__)

CPU_BATCH_TOKENS = 1024
"""Small batches win on a CPU, where they stay in its caches: the default budget there, padding included."""


@dataclass(frozen=True, slots=True)
class LoadOptions:
    """What loading a reranker can be told, already in this package's words.

    :param source: which model.
    :param device: ``cpu``, ``cuda``, ``cuda:n``, ``mps``; None, "" or ``auto`` pick.
    :param dtype: ``float32``, ``bfloat16`` or ``float16``.
    :param max_length: the most tokens of a pair; None for the model's own limit.
    :param query_max_length: the most tokens of a query, as :class:`PairEncoder` knows it.
    :param truncation: which text to shorten, as :class:`PairEncoder` knows it.
    :param activation: from logits to scores, as :func:`pick_activation` knows it.
    :param batch_size: a hint: how many pairs of full length a batch may hold.
    :param max_batch_tokens: the budget of a batch; None derives it from ``batch_size``.
    :param show_progress: show progress bars on stderr.
    """

    source: ModelSource
    device: str | None = None
    dtype: str = "float32"
    max_length: int | None = None
    query_max_length: int | None = None
    truncation: Truncation = "longest_first"
    activation: str | Callable[[Any], Any] | None = None
    batch_size: int = 32
    max_batch_tokens: int | None = None
    show_progress: bool = False


class EngineRerankFunction(BaseRerankFunction):
    """Rerank with a ready scorer; the named classes load one.

    :param scorer: encoder and engine of a model.
    :param model_name: what to call it.
    """

    def __init__(self, scorer: PairScorer, *, model_name: str) -> None:
        self.scorer = scorer
        self.model_name = model_name

    def score_requests(self, requests: Sequence[Request], stop: threading.Event) -> list[list[float]]:
        """Score all documents of all queries in one pass over length-sorted batches."""
        return self.scorer.score(requests, stop)

    @property
    def device(self) -> str:
        """The device the model runs on, such as ``cpu`` or ``cuda:0``."""
        return self.scorer.engine.device

    def __repr__(self) -> str:
        engine, encoder = self.scorer.engine, self.scorer.encoder
        return (
            f"{type(self).__name__}({self.model_name!r}, device={engine.device!r}, dtype={engine.dtype!r}, "
            f"max_length={encoder.max_length})"
        )


def load_scorer(options: LoadOptions) -> PairScorer:
    """Load a model and put a scorer around it.

    :param options: which model and how to run it.
    :returns: a scorer that threads may share.
    :raises InputError: for an option that cannot be used.
    :raises ModelError: if the model cannot be found, read or used for reranking.
    :raises DeviceError: if the device is absent.
    :raises MissingDependencyError: if torch or transformers is not installed.
    """
    model_folder(options.source.name)  # a misspelt name is told before torch takes seconds to load
    check_count(options.batch_size, "batch_size")
    for name in ("max_length", "query_max_length", "max_batch_tokens"):
        if getattr(options, name) is not None:
            check_count(getattr(options, name), name)
    try:
        from milvus_rerank.engines.torch_engine import TorchEngine, pick_device, pick_dtype
        from milvus_rerank.models.hub import load_model
    except ModuleNotFoundError as error:
        if error.name not in ("torch", "transformers"):
            raise
        raise MissingDependencyError(error.name, "torch", "running a cross-encoder") from error
    device = pick_device(options.device)
    dtype = pick_dtype(options.dtype, device)
    loaded = load_model(options.source, show_progress=options.show_progress)
    max_length = options.max_length or loaded.max_length
    if loaded.position_limit is not None and max_length > loaded.position_limit:
        logger.info("max_length %d is more than the model's %d positions", max_length, loaded.position_limit)
        max_length = loaded.position_limit
    encoder = PairEncoder(
        loaded.tokenizer,
        max_length=max_length,
        query_max_length=options.query_max_length,
        truncation=options.truncation,
    )
    full = options.batch_size * max_length
    return PairScorer(
        encoder,
        TorchEngine(loaded.model, device=device, dtype=dtype),
        activation=pick_activation(options.activation, loaded.config),
        max_batch_tokens=options.max_batch_tokens or (min(full, CPU_BATCH_TOKENS) if device == "cpu" else full),
        show_progress=options.show_progress,
    )
