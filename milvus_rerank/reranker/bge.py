"""BGERerankFunction: all BGE rerankers, and any other classifier."""

import os

from milvus_rerank.engines.select import Device, Dtype, EngineName
from milvus_rerank.loading.load import load_scorer
from milvus_rerank.loading.options import (
    BatchOptions,
    FlagOptions,
    HubOptions,
    LoadOptions,
    Long,
)
from milvus_rerank.models import ModelSource
from milvus_rerank.reranker.local import EngineRerankFunction
from milvus_rerank.scoring.caches import ScoreCache
from milvus_rerank.scoring.encoder import Chunks


class BGERerankFunction(EngineRerankFunction):
    """Rerank with a BGE reranker. The first seven arguments are pymilvus.model's.

    The model's files decide its type: an encoder (base, large, v2-m3), a language model (v2-gemma), a language model
    with score heads on its layers (v2-minicpm-layerwise), or one that also merges tokens (v2.5-gemma2-lightweight).
    Scores equal those of FlagEmbedding's class for the type: the query keeps at most ``query_max_length`` tokens, and
    the document gets the rest. Rerankers are thread-safe.

    :param model_name: a name on the model hub, a local folder, or ``builtin/rerank``.
    :param use_fp16: run in float16 on a GPU; a CPU always runs in float32.
    :param batch_size: a hint: the number of full-length pairs in a batch. A token budget sets the actual size.
    :param normalize: return scores from 0 to 1 by the sigmoid; False for raw logits.
    :param device: ``cpu``, ``cuda``, ``cuda:n`` or ``mps``; None, "" or ``auto`` take a GPU if there is one. A
        list such as ``["cuda:0", "cuda:1"]`` loads the model on each, and each takes the next batch when it is free.
    :param query_max_length: the most tokens of a query; None, or a number that leaves no tokens for the document, for
        three quarters of ``max_length``.
    :param max_length: the most tokens of a pair; None for the model's limit.
    :param prompt: the question to a language model after the document; None for the model's default.
    :param flag: the instructions before queries and documents, and the layers of layerwise and lightweight models, as
        :class:`~milvus_rerank.loading.options.FlagOptions`.
    :param long: for documents too long for the model: ``truncate``, or ``chunk`` to score them in windows; this and the
        following parameters are those of :class:`~milvus_rerank.reranker.cross_encoder.CrossEncoderRerankFunction`.
    :param engine: ``auto``, ``torch``, ``onnx`` or ``openvino``.
    :param dtype: the precision; None follows ``use_fp16``.
    :param threads: the most CPU threads of a forward pass.
    :param local_files_only: never use the network.
    :param trust_remote_code: run Python code that comes with the model.
    :param show_progress: show progress bars for loading and scoring on stderr.
    :param score_cache: the number of scores to cache, or a shared cache; 0 for no cache.
    :param calibration: a file of ``milvus-rerank calibrate``: scores are then probabilities of relevance, whatever
        ``normalize`` says.
    :param hub: the revision and the cache folder.
    :param batching: the token budget of a batch and the size of the token cache.
    :raises InputError: for an option that cannot be used.
    :raises ModelError: if the model cannot be found, read or used for reranking.
    :raises DeviceError: if the machine does not have the device.
    :raises MissingDependencyError: if no engine, or not the requested engine, is installed.
    """

    def __init__(
        self,
        model_name: str = "BAAI/bge-reranker-v2-m3",
        use_fp16: bool = True,
        batch_size: int = 32,
        normalize: bool = True,
        device: Device = None,
        query_max_length: int | None = 256,
        max_length: int | None = 512,
        *,
        prompt: str | None = None,
        flag: FlagOptions | None = None,
        long: Long | Chunks = "truncate",
        engine: EngineName = "auto",
        dtype: Dtype | None = None,
        threads: int | None = None,
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
            dtype=dtype or ("float16" if use_fp16 else "float32"),
            max_length=max_length,
            query_max_length=query_max_length,
            truncation="only_second",
            activation="sigmoid" if normalize else "raw",
            prompt=prompt,
            flag=FlagOptions() if flag is None else flag,
            long=long,
            batch_size=batch_size,
            batching=BatchOptions() if batching is None else batching,
            show_progress=show_progress,
            score_cache=score_cache,
            calibration=calibration,
            hub=hub,
        )
        super().__init__(load_scorer(options), model_name=str(model_name), options=options)
