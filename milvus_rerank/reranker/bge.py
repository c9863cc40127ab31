"""BGERerankFunction: encoder-only BGE rerankers and any classifier with one label."""

import os

from milvus_rerank.models import ModelSource
from milvus_rerank.reranker.engine import EngineRerankFunction
from milvus_rerank.reranker.loading import LoadOptions, load_scorer, load_screen
from milvus_rerank.scoring.caches import TOKEN_CACHE, ScoreCache


class BGERerankFunction(EngineRerankFunction):
    """Rerank with a BGE reranker: base, large, v2-m3. The first seven arguments are pymilvus.model's.

    Scores equal ``FlagEmbedding.FlagReranker.compute_score`` on the same model: the query keeps at most
    ``query_max_length`` tokens, the document gets the rest. One object may be shared by threads.

    :param model_name: a name on the model hub, a local folder, or ``builtin/rerank``.
    :param use_fp16: run in float16 on a GPU; a CPU runs in float32 all the same.
    :param batch_size: a hint: how many pairs of full length a batch may hold. Batches are cut by tokens.
    :param normalize: scores from 0 to 1 by the sigmoid; False for raw logits.
    :param device: ``cpu``, ``cuda``, ``cuda:n`` or ``mps``; None, "" or ``auto`` take a GPU if there is one.
    :param query_max_length: the most tokens of a query; None, or a number that leaves the document no room, for three
        quarters of ``max_length``.
    :param max_length: the most tokens of a pair; None for the model's limit.
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
    :param screen: a faster dtype, such as ``bfloat16``, in which all candidates are looked at first; only those that
        can reach the ``top_k`` are then scored in ``dtype``. Results are the same as without.
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
        engine: str = "auto",
        dtype: str | None = None,
        threads: int | None = None,
        max_batch_tokens: int | None = None,
        revision: str | None = None,
        cache_dir: str | os.PathLike[str] | None = None,
        local_files_only: bool = False,
        trust_remote_code: bool = False,
        show_progress: bool = False,
        token_cache: int = TOKEN_CACHE,
        score_cache: int | ScoreCache = 0,
        screen: str | None = None,
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
            batch_size=batch_size,
            max_batch_tokens=max_batch_tokens,
            show_progress=show_progress,
            token_cache=token_cache,
            score_cache=score_cache,
            screen=screen,
        )
        super().__init__(load_scorer(options), model_name=str(model_name), screen=load_screen(options))
