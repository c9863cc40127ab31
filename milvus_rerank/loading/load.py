"""Loading of a scorer: inspect the model, select the engine, load the model, and add an encoder."""

import logging
from collections.abc import Hashable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from milvus_rerank.engines.select import check_devices, choose_device
from milvus_rerank.errors import InputError
from milvus_rerank.loading.complete import check_complete
from milvus_rerank.loading.inspect import ModelInfo, inspect_model
from milvus_rerank.loading.load_onnx import load_graph
from milvus_rerank.loading.load_torch import load_torch
from milvus_rerank.loading.options import Loaded, LoadOptions, check_model_options, pick_label
from milvus_rerank.loading.select import select_engine
from milvus_rerank.models.calibration import FILE, Calibration, read_calibration
from milvus_rerank.models.files import identity_key
from milvus_rerank.scoring.activation import pick_activation
from milvus_rerank.scoring.caches import ScoreCache
from milvus_rerank.scoring.encoder import Encoder
from milvus_rerank.scoring.pair_encoder import Affixes, PairEncoder
from milvus_rerank.scoring.scorer import AT_ONCE, PairScorer

logger = logging.getLogger(__name__)

CPU_BATCH_TOKENS = 1024
"""Default token budget of a batch on a CPU, padding included. Small batches win there: they stay in its caches."""

GPU_BATCH_TOKENS = 65_536
"""Upper limit of the default budget on other devices: language models take 32,000 tokens and more for one pair."""

PACKED_WIDTH = 8192
"""Over a model's width: factor on the budget of batches without padding, 8 for bge-reranker-v2-m3, 21 for MiniLM. Small
batches of small models keep a GPU waiting for the next launch (benchmarks/results/gpu.json)."""
PACKED_AT_ONCE = 512
"""Pairs sorted together without padding. Their order hardly matters, and a GPU waits for the first to be tokenised."""

_CONTENTS = (".json", ".safetensors", ".bin", ".onnx", ".onnx_data", ".xml", ".jinja")


def load_scorer(options: LoadOptions) -> PairScorer:
    """Load a model and return its scorer.

    :param options: the model, and how to run it.
    :returns: a thread-safe scorer.
    :raises InputError: for an invalid option.
    :raises ModelError: if the model cannot be found, read or used for reranking.
    :raises DeviceError: if the device is absent.
    :raises MissingDependencyError: if no engine is installed, or the requested engine is not.
    """
    if isinstance(options.device, (list, tuple)):
        return _load_on_each(options, options.device)
    info = inspect_model(options.source, show_progress=options.show_progress)
    check_complete(info, options.dtype)
    if info.model_type != "classifier" or options.flag is not None:
        check_model_options(info, options)
    device = choose_device(options.device, options.engine)
    label = pick_label(info, options) if info.model_type == "classifier" else None
    engine_name = select_engine(info, options, device)
    if engine_name == "torch":
        loaded = load_torch(info, options, device, label)
    else:
        loaded = load_graph(engine_name, info, options, label)
    engine = loaded.engine
    # At level debug: the command shows level info to people, and this line only confirms their request.
    logger.debug("%s runs on %s with engine %s in %s", info.source.name, engine.device, engine.name, engine.dtype)
    max_length = options.max_length or loaded.max_length
    if loaded.position_limit is not None and max_length > loaded.position_limit:
        logger.info("max_length %d is more than the model's %d positions", max_length, loaded.position_limit)
        max_length = loaded.position_limit
    prompt = options.prompt if options.prompt is not None or options.flag is not None else loaded.settings.prompt
    encoder = _encoder(options, loaded, max_length, prompt)
    size = options.score_cache
    cache = size if isinstance(size, ScoreCache) else ScoreCache(size) if size else None
    packed = getattr(engine, "packed", False)
    full = min(options.batch_size * encoder.max_length, GPU_BATCH_TOKENS)
    if packed:
        full *= max(1, PACKED_WIDTH // int(loaded.config["hidden_size"]))
    return PairScorer(
        encoder,
        engine,
        activation=pick_activation(options.activation, loaded.config, loaded.settings.activation)
        if options.calibration is None
        else _calibration(info, Path(options.calibration), encoder.max_length),
        max_batch_tokens=options.batching.max_batch_tokens
        or (min(full, CPU_BATCH_TOKENS) if device == "cpu" else full),
        show_progress=options.show_progress,
        score_cache=cache,
        settings=_settings(info, options, loaded, encoder.max_length) if cache is not None else None,
        chunks=options.chunks,
        at_once=PACKED_AT_ONCE if packed else AT_ONCE,
        instruct=partial(_encoder, options, loaded, max_length) if loaded.takes_instruction else None,
    )


def _calibration(info: ModelInfo, path: Path, max_length: int) -> Calibration:
    """Return a calibration after checking that it is of this model and this length."""
    where = info.folder / path if path == Path(FILE) else path
    if not where.is_file():
        raise InputError(
            f"there is no calibration {where}; make one with: milvus-rerank calibrate --model {info.source.name}"
        )
    calibration = read_calibration(where)
    calibration.check(info.folder, max_length, where)
    return calibration


def _load_on_each(options: LoadOptions, devices: Sequence[str]) -> PairScorer:
    """Load a model once on each of several devices; return a scorer that runs batches on all of them."""
    names = check_devices(devices, options.engine)
    first, *others = (
        load_scorer(replace(options, device=name, score_cache=options.score_cache if number == 0 else 0))
        for number, name in enumerate(names)
    )
    return replace(first, others=tuple(replace(other, encoder=first.encoder) for other in others))


def _encoder(options: LoadOptions, loaded: Loaded, max_length: int, prompt: str | None) -> Encoder:
    if loaded.encode is not None:
        return loaded.encode(max_length, prompt)
    return PairEncoder(
        loaded.tokenizer,
        max_length=max_length,
        query_max_length=options.query_max_length,
        truncation=options.truncation,
        pad_to_multiple_of=loaded.engine.pad_to_multiple_of,
        affixes=Affixes(query_before=prompt or "") if options.flag is None else options.flag.affixes(),
        token_cache=options.batching.token_cache,
    )


def _settings(info: ModelInfo, options: LoadOptions, loaded: Loaded, max_length: int) -> Hashable:
    """Return everything that logits depend on: a local model by its files, a hub model by name and revision."""
    files = sorted(path for path in info.folder.rglob("*") if path.suffix in _CONTENTS) if info.is_local else []
    model = identity_key(files) if files else (options.source.name, options.source.revision)
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
        options.activation == "softmax",  # softmax changes the logits of a label
        options.prompt,
        options.flag,
        options.chunks,
    )
