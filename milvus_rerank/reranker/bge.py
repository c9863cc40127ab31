"""BGERerankFunction: the whole family of BGE rerankers, and any classifier."""

import os
from collections.abc import Sequence

from milvus_rerank.engines.choice import Dtype, EngineName
from milvus_rerank.errors import InputError
from milvus_rerank.inputs import as_int, check_count, check_limit, check_list
from milvus_rerank.models import ModelSource
from milvus_rerank.reranker.engine import EngineRerankFunction
from milvus_rerank.reranker.loading import load_scorer
from milvus_rerank.reranker.options import Flag, LoadOptions, Long, read_long
from milvus_rerank.scoring.caches import TOKEN_CACHE, ScoreCache
from milvus_rerank.scoring.encoding import Chunks


class BGERerankFunction(EngineRerankFunction):
    """Rerank with a BGE reranker. The first seven arguments are pymilvus.model's.

    What kind it is, its files say: an encoder (base, large, v2-m3), a language model (v2-gemma), one with score heads
    on its layers (v2-minicpm-layerwise) or one that also merges tokens (v2.5-gemma2-lightweight). Scores equal those of
    FlagEmbedding's class for it: the query keeps at most ``query_max_length`` tokens, the document gets the rest. One
    object may be shared by threads.

    :param model_name: a name on the model hub, a local folder, or ``builtin/rerank``.
    :param use_fp16: run in float16 on a GPU; a CPU runs in float32 all the same.
    :param batch_size: a hint: how many pairs of full length a batch may hold. Batches are cut by tokens.
    :param normalize: scores from 0 to 1 by the sigmoid; False for raw logits.
    :param device: ``cpu``, ``cuda``, ``cuda:n`` or ``mps``; None, "" or ``auto`` take a GPU if there is one.
    :param query_max_length: the most tokens of a query; None, or a number that leaves the document no room, for three
        quarters of ``max_length``.
    :param max_length: the most tokens of a pair; None for the model's limit.
    :param query_instruction_for_rerank: what to put before each query; None for the model's own.
    :param query_instruction_format: where instruction and query go, such as ``"{}{}"``.
    :param passage_instruction_for_rerank: what to put before each document; None for the model's own.
    :param passage_instruction_format: where instruction and document go.
    :param prompt: what to ask a language model after the document; None for its own.
    :param cutoff_layers: the layer whose score head is read, of the models that have them; None for the last. Layers
        after it are not loaded.
    :param compress_layers: before which layers the lightweight model merges document tokens.
    :param compress_ratio: how many of them become one.
    :param long: what to do with documents too long for the model: ``truncate``, or ``chunk`` to read them in windows,
        as for :class:`~milvus_rerank.reranker.cross_encoder.CrossEncoderRerankFunction`.
    :param engine: ``torch``, ``onnx`` or ``openvino``; ``auto`` takes the fastest that is installed and can run the
        model where it is to run. ``repr`` says which.
    :param dtype: ``float32``, ``bfloat16``, ``float16``, ``int8`` or ``auto``, as for
        :class:`~milvus_rerank.reranker.cross_encoder.CrossEncoderRerankFunction`; None follows ``use_fp16``.
    :param threads: the most CPU threads of a forward pass; None for the CPUs this process may use.
    :param max_batch_tokens: the budget of a batch, padding included; None derives it from ``batch_size``.
    :param revision: a branch, tag or commit on the hub.
    :param cache_dir: where downloaded models are kept.
    :param local_files_only: never ask the network.
    :param trust_remote_code: run Python code that comes with the model.
    :param show_progress: show progress bars for loading and scoring on stderr.
    :param token_cache: how many tokens of documents seen before to remember, 8 bytes each; 0 for none.
    :param score_cache: how many scores to remember (query, document), about 200 bytes each, or a
        :class:`~milvus_rerank.scoring.caches.ScoreCache` that several rerankers share; 0 for none.
    :raises InputError: for an option that cannot be used.
    :raises ModelError: if the model cannot be found, read or used for reranking.
    :raises DeviceError: if the device is absent.
    :raises MissingDependencyError: if no engine is installed, or not the one asked for.
    """

    def __init__(
        self,
        model_name: str = "BAAI/bge-reranker-v2-m3",
        use_fp16: bool = True,
        batch_size: int = 32,
        normalize: bool = True,
        device: str | None = None,
        query_max_length: int | None = 256,
        max_length: int | None = 512,
        *,
        query_instruction_for_rerank: str | None = None,
        query_instruction_format: str = "{}{}",
        passage_instruction_for_rerank: str | None = None,
        passage_instruction_format: str = "{}{}",
        prompt: str | None = None,
        cutoff_layers: int | Sequence[int] | None = None,
        compress_layers: Sequence[int] = (8,),
        compress_ratio: int = 1,
        long: Long | Chunks = "truncate",
        engine: EngineName = "auto",
        dtype: Dtype | None = None,
        threads: int | None = None,
        max_batch_tokens: int | None = None,
        revision: str | None = None,
        cache_dir: str | os.PathLike[str] | None = None,
        local_files_only: bool = False,
        trust_remote_code: bool = False,
        show_progress: bool = False,
        token_cache: int = TOKEN_CACHE,
        score_cache: int | ScoreCache = 0,
    ) -> None:
        options = LoadOptions(
            source=ModelSource(model_name, revision, cache_dir, local_files_only, trust_remote_code),
            device=device,
            engine=engine,
            threads=threads,
            dtype=dtype or ("float16" if use_fp16 else "float32"),
            max_length=max_length,
            query_max_length=query_max_length,
            truncation="only_second",
            activation="sigmoid" if normalize else "raw",
            prompt=prompt,
            flag=Flag(
                query_instruction_for_rerank,
                query_instruction_format,
                passage_instruction_for_rerank,
                passage_instruction_format,
                _one_layer(cutoff_layers),
                tuple(check_limit(layer, "compress_layers") for layer in _layers(compress_layers)),
                check_count(compress_ratio, "compress_ratio"),
            ),
            chunks=read_long(long),
            batch_size=batch_size,
            max_batch_tokens=max_batch_tokens,
            show_progress=show_progress,
            token_cache=token_cache,
            score_cache=score_cache,
        )
        super().__init__(load_scorer(options), model_name=str(model_name))


def _one_layer(layers: int | Sequence[int] | None) -> int | None:
    """Return the layer that is asked for: FlagEmbedding takes a list, and returns a list of scores for each."""
    if layers is None:
        return None
    found = _layers(layers)
    if len(found) != 1:
        raise InputError(
            f"cutoff_layers must be one layer, such as 28 or [28], got {found}: one score orders documents"
        )
    return check_count(found[0], "cutoff_layers")


def _layers(layers: object) -> list[object]:
    return [layers] if as_int(layers) is not None else check_list(layers, "layers", "numbers")
