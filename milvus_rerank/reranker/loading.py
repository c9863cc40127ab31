"""From options to a scorer: which engine runs the model, and where its files come from."""

import logging
from collections.abc import Hashable

from milvus_rerank.engines.choice import candidates, choose_device
from milvus_rerank.errors import InputError
from milvus_rerank.inputs import check_count, check_limit
from milvus_rerank.models import model_folder
from milvus_rerank.models.files import content_key
from milvus_rerank.requirements import ENGINES, require
from milvus_rerank.reranker.on_graphs import load_graph
from milvus_rerank.reranker.on_torch import load_torch
from milvus_rerank.reranker.options import Loaded, LoadOptions, NotReadyError
from milvus_rerank.scoring.activation import pick_activation
from milvus_rerank.scoring.caches import ScoreCache
from milvus_rerank.scoring.encoding import Encoder
from milvus_rerank.scoring.pairs import PairEncoder, Wording
from milvus_rerank.scoring.scorer import PairScorer

logger = logging.getLogger(__name__)

CPU_BATCH_TOKENS = 1024
"""Small batches win on a CPU, where they stay in its caches: the default budget there, padding included."""

GPU_BATCH_TOKENS = 65_536
"""The most of the default budget elsewhere: language models have limits of 32,000 tokens and more for one pair."""

_CONTENTS = (".json", ".safetensors", ".bin", ".onnx", ".onnx_data", ".xml", ".jinja")


def load_scorer(options: LoadOptions) -> PairScorer:
    """Load a model and put a scorer around it.

    :param options: which model and how to run it.
    :returns: a scorer that threads may share.
    :raises InputError: for an option that cannot be used.
    :raises ModelError: if the model cannot be found, read or used for reranking.
    :raises DeviceError: if the device is absent.
    :raises MissingDependencyError: if no engine is installed, or not the one asked for.
    """
    model_folder(options.source.name)  # a misspelt name is told before torch takes seconds to load
    check_count(options.batch_size, "batch_size")
    for name in ("max_length", "query_max_length", "max_batch_tokens", "threads"):
        if getattr(options, name) is not None:
            check_count(getattr(options, name), name)
    if options.prompt is not None and not isinstance(options.prompt, str):
        raise InputError(f"prompt must be a string, got {options.prompt!r}")
    check_limit(options.token_cache, "token_cache")
    cache = _score_cache(options.score_cache)
    device = choose_device(options.device, options.engine)
    loaded = _load(options, device)
    max_length = options.max_length or loaded.max_length
    if loaded.position_limit is not None and max_length > loaded.position_limit:
        logger.info("max_length %d is more than the model's %d positions", max_length, loaded.position_limit)
        max_length = loaded.position_limit
    encoder = loaded.encode(max_length) if loaded.encode else _pair_encoder(options, loaded, max_length)
    full = min(options.batch_size * max_length, GPU_BATCH_TOKENS)
    return PairScorer(
        encoder,
        loaded.engine,
        activation=pick_activation(options.activation, loaded.config, loaded.settings.activation),
        max_batch_tokens=options.max_batch_tokens or (min(full, CPU_BATCH_TOKENS) if device == "cpu" else full),
        show_progress=options.show_progress,
        score_cache=cache,
        settings=_settings(options, loaded, max_length) if cache is not None else None,
        chunks=options.chunks,
    )


def _pair_encoder(options: LoadOptions, loaded: Loaded, max_length: int) -> Encoder:
    prompt = options.prompt if options.prompt is not None else loaded.settings.prompt
    return PairEncoder(
        loaded.tokenizer,
        max_length=max_length,
        query_max_length=options.query_max_length,
        truncation=options.truncation,
        pad_to_multiple_of=loaded.engine.pad_to_multiple_of,
        wording=Wording(query_before=prompt or "") if options.flag is None else options.flag.wording(),
        token_cache=options.token_cache,
    )


def _score_cache(given: int | ScoreCache) -> ScoreCache | None:
    if isinstance(given, ScoreCache):
        return given
    size = check_limit(given, "score_cache")
    return ScoreCache(size) if size else None


def _settings(options: LoadOptions, loaded: Loaded, max_length: int) -> Hashable:
    """Return all that logits depend on: the model by its contents, or on the hub by name and revision."""
    folder = model_folder(options.source.name)
    files = sorted(path for path in folder.rglob("*") if path.suffix in _CONTENTS) if folder else []
    model = content_key(files) if files else (options.source.name, options.source.revision)
    engine = loaded.engine
    return (
        model,
        engine.name,
        engine.dtype,
        engine.device,
        max_length,
        options.query_max_length,
        options.truncation,
        options.label,
        options.activation == "softmax",  # which changes the logits of a label
        options.prompt,
        options.flag,
        options.chunks,
    )


def _load(options: LoadOptions, device: str) -> Loaded:
    """Load with the first engine that can run the model; with one engine asked for, its error is the answer."""
    automatic = options.engine == "auto"
    problem: NotReadyError | None = None
    for name in candidates(options.engine, device, options.dtype):
        try:
            loaded = _load_with(name, options, device, only_ready=automatic)
        except NotReadyError as error:
            logger.info("engine %s is not used for %s: %s", name, options.source.name, error)
            problem = error
        else:
            break
    else:
        if automatic and options.dtype != "int8":
            require(f"model {options.source.name!r}", *ENGINES["torch"])
        raise InputError(str(problem)) from None  # no other engine is left: from here on it is the caller's
    engine = loaded.engine
    # Not at the level of info, which the command shows to people: only what differs from what was asked belongs there.
    logger.debug("%s runs on %s with engine %s in %s", options.source.name, engine.device, engine.name, engine.dtype)
    return loaded


def _load_with(name: str, options: LoadOptions, device: str, *, only_ready: bool) -> Loaded:
    return load_torch(options, device) if name == "torch" else load_graph(name, options, only_ready=only_ready)
