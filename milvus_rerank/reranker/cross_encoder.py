"""CrossEncoderRerankFunction: any cross-encoder with one label."""

import os
from collections.abc import Callable
from typing import Any

from milvus_rerank.models import ModelSource
from milvus_rerank.reranker.engine import EngineRerankFunction, LoadOptions, load_scorer


class CrossEncoderRerankFunction(EngineRerankFunction):
    """Rerank with a cross-encoder. The first four arguments are pymilvus.model's.

    Scores equal ``sentence_transformers.CrossEncoder.predict`` on the same model. One object may be shared by threads.

    :param model_name: ``builtin/rerank`` (shipped, works offline), a local folder, or a name on the model hub.
    :param device: ``cpu``, ``cuda``, ``cuda:n`` or ``mps``; "", None or ``auto`` take a GPU if there is one.
    :param batch_size: a hint: how many pairs of full length a batch may hold. Batches are cut by tokens.
    :param activation_fct: from logits to scores: None for the model's own, ``raw``, ``sigmoid``, or a function on
        torch tensors.
    :param dtype: ``float32``, ``bfloat16`` or ``float16`` (which becomes float32 on a CPU).
    :param max_length: the most tokens of a pair; None for the model's limit. The longer text is shortened first.
    :param query_max_length: the most tokens of a query; None for no limit of its own.
    :param max_batch_tokens: the budget of a batch, padding included; None derives it from ``batch_size``.
    :param revision: a branch, tag or commit on the hub.
    :param cache_dir: where downloaded models are kept.
    :param local_files_only: never ask the network.
    :param trust_remote_code: run Python code that comes with the model.
    :param show_progress: show progress bars for loading and scoring on stderr.
    :raises InputError: for an option that cannot be used.
    :raises ModelError: if the model cannot be found, read or used for reranking.
    :raises DeviceError: if the device is absent.
    :raises MissingDependencyError: if torch or transformers is not installed.
    """

    def __init__(
        self,
        model_name: str = "builtin/rerank",
        device: str | None = "",
        batch_size: int = 32,
        activation_fct: str | Callable[[Any], Any] | None = None,
        *,
        dtype: str = "float32",
        max_length: int | None = None,
        query_max_length: int | None = None,
        max_batch_tokens: int | None = None,
        revision: str | None = None,
        cache_dir: str | os.PathLike[str] | None = None,
        local_files_only: bool = False,
        trust_remote_code: bool = False,
        show_progress: bool = False,
    ) -> None:
        options = LoadOptions(
            source=ModelSource(model_name, revision, cache_dir, local_files_only, trust_remote_code),
            device=device,
            dtype=dtype,
            max_length=max_length,
            query_max_length=query_max_length,
            activation=activation_fct,
            batch_size=batch_size,
            max_batch_tokens=max_batch_tokens,
            show_progress=show_progress,
        )
        super().__init__(load_scorer(options), model_name=str(model_name))
