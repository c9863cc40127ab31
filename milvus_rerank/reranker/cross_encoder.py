"""CrossEncoderRerankFunction: any model that sentence-transformers' CrossEncoder can load."""

import os
from collections.abc import Callable
from typing import Any

from milvus_rerank.engines.select import Device, Dtype, EngineName
from milvus_rerank.loading.load import load_scorer
from milvus_rerank.loading.options import BatchOptions, HubOptions, LoadOptions, Long
from milvus_rerank.models import ModelSource
from milvus_rerank.reranker.local import EngineRerankFunction
from milvus_rerank.scoring.activation import ActivationName
from milvus_rerank.scoring.caches import ScoreCache
from milvus_rerank.scoring.encoder import Chunks


class CrossEncoderRerankFunction(EngineRerankFunction):
    """Rerank with a cross-encoder, or a causal language model that answers yes or no.

    The first four arguments are pymilvus.model's. Scores equal those of ``sentence_transformers.CrossEncoder.predict``
    on the same model. Rerankers are thread-safe.

    :param model_name: ``builtin/rerank`` (shipped, works offline), a local folder, or a name on the model hub.
    :param device: ``cpu``, ``cuda``, ``cuda:n`` or ``mps``; "", None or ``auto`` take a GPU if there is one. A
        list such as ``["cuda:0", "cuda:1"]`` loads the model on each, and each takes the next batch when it is free.
    :param batch_size: a hint: the number of full-length pairs in a batch. A token budget sets the actual size.
    :param activation_fct: the function from logits to scores: ``raw``, ``sigmoid``, ``softmax`` for the probability of
        a ``label``, ``calibrated`` for the ``calibration.json`` beside the model, or a function on torch tensors; None
        for the model's default.
    :param label: the label whose score counts if a model has several, by name or number; such as ``"entailment"``.
    :param prompt: the instruction: the system message of a language model, or a text before each query. None for the
        model's default.
    :param long: for documents too long for the model: ``truncate``, or ``chunk`` to score them in windows and take the
        best score; :class:`~milvus_rerank.scoring.encoder.Chunks` has more options. Results then have a ``span``.
    :param engine: ``torch``, ``onnx`` or ``openvino``; ``auto`` takes the fastest installed engine that can run the
        model on the device. ``repr`` shows the engine.
    :param dtype: ``float32``, ``bfloat16``, ``float16`` (float32 on a CPU), ``int8`` (for models exported as int8), or
        ``auto`` for the fastest that keeps the order of documents: bfloat16 on a CPU with hardware support, float16 on
        CUDA.
    :param threads: the most CPU threads of a forward pass; None for the CPUs this process may use.
    :param max_length: the most tokens of a pair; None for the model's limit. The longer text is shortened first.
    :param query_max_length: the most tokens of a query; None for no separate limit.
    :param local_files_only: never use the network.
    :param trust_remote_code: run Python code that comes with the model.
    :param show_progress: show progress bars for loading and scoring on stderr.
    :param score_cache: the number of scores (query, document) to cache, about 400 bytes each, or a
        :class:`~milvus_rerank.scoring.caches.ScoreCache` that several rerankers share; 0 for no cache.
    :param calibration: a file of ``milvus-rerank calibrate``: scores are then probabilities of relevance, whatever
        ``activation_fct`` says.
    :param hub: the revision and the cache folder, as :class:`~milvus_rerank.loading.options.HubOptions`.
    :param batching: the token budget of a batch and the size of the token cache, as
        :class:`~milvus_rerank.loading.options.BatchOptions`.
    :raises InputError: for an option that cannot be used.
    :raises ModelError: if the model cannot be found, read or used for reranking.
    :raises DeviceError: if the machine does not have the device.
    :raises MissingDependencyError: if no engine, or not the requested engine, is installed.
    """

    def __init__(
        self,
        model_name: str = "builtin/rerank",
        device: Device = "",
        batch_size: int = 32,
        activation_fct: ActivationName | Callable[[Any], Any] | None = None,
        *,
        label: int | str | None = None,
        prompt: str | None = None,
        long: Long | Chunks = "truncate",
        engine: EngineName = "auto",
        dtype: Dtype = "float32",
        threads: int | None = None,
        max_length: int | None = None,
        query_max_length: int | None = None,
        local_files_only: bool = False,
        trust_remote_code: bool = False,
        show_progress: bool = False,
        score_cache: int | ScoreCache = 0,
        calibration: str | os.PathLike[str] | None = None,
        hub: HubOptions | None = None,
        batching: BatchOptions | None = None,
    ) -> None:
        options = LoadOptions(
            ModelSource(model_name, local_files_only=local_files_only, trust_remote_code=trust_remote_code),
            device=device,
            engine=engine,
            threads=threads,
            dtype=dtype,
            max_length=max_length,
            query_max_length=query_max_length,
            activation=activation_fct,
            label=label,
            prompt=prompt,
            long=long,
            batch_size=batch_size,
            batching=BatchOptions() if batching is None else batching,
            show_progress=show_progress,
            score_cache=score_cache,
            calibration=calibration,
            hub=hub,
        )
        super().__init__(load_scorer(options), model_name=str(model_name), options=options)
