"""From options to a scorer: which engine runs the model, and where its files come from."""

import logging
from collections.abc import Callable, Hashable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from milvus_rerank.engines import Engine
from milvus_rerank.engines.choice import (
    DTYPES,
    candidates,
    choose_device,
    choose_dtype,
    cpu_limit,
    missing_package,
    require,
)
from milvus_rerank.errors import InputError, MissingDependencyError
from milvus_rerank.inputs import check_choice, check_count, check_limit
from milvus_rerank.models import ModelSource, model_folder
from milvus_rerank.models.files import content_key
from milvus_rerank.scoring.activation import pick_activation
from milvus_rerank.scoring.caches import TOKEN_CACHE, ScoreCache
from milvus_rerank.scoring.pairs import PairEncoder, Truncation
from milvus_rerank.scoring.scorer import PairScorer

logger = logging.getLogger(__name__)

CPU_BATCH_TOKENS = 1024
"""Small batches win on a CPU, where they stay in its caches: the default budget there, padding included."""

_CONTENTS = (".json", ".safetensors", ".bin", ".onnx", ".onnx_data", ".xml")


@dataclass(frozen=True, slots=True)
class LoadOptions:
    """What loading a reranker can be told, already in this package's words.

    :param source: which model.
    :param device: ``cpu``, ``cuda``, ``cuda:n``, ``mps``; None, "" or ``auto`` pick.
    :param engine: ``torch``, ``onnx``, ``openvino``; ``auto`` takes the fastest that is installed and can run it.
    :param dtype: ``float32``, ``bfloat16``, ``float16``, ``int8`` or ``auto``.
    :param threads: the most CPU threads of a forward pass; None for the CPUs this process may use.
    :param max_length: the most tokens of a pair; None for the model's own limit.
    :param query_max_length: the most tokens of a query, as :class:`PairEncoder` knows it.
    :param truncation: which text to shorten, as :class:`PairEncoder` knows it.
    :param activation: from logits to scores, as :func:`pick_activation` knows it.
    :param batch_size: a hint: how many pairs of full length a batch may hold.
    :param max_batch_tokens: the budget of a batch; None derives it from ``batch_size``.
    :param show_progress: show progress bars on stderr.
    :param token_cache: how many tokens of documents to remember; 0 for none.
    :param score_cache: how many scores to remember, or a cache that rerankers share; 0 for none.
    :param screen: a dtype for an early look at all candidates, as :mod:`milvus_rerank.scoring.screen` does it.
    """

    source: ModelSource
    device: str | None = None
    engine: str = "auto"
    dtype: str = "float32"
    threads: int | None = None
    max_length: int | None = None
    query_max_length: int | None = None
    truncation: Truncation = "longest_first"
    activation: str | Callable[[Any], Any] | None = None
    batch_size: int = 32
    max_batch_tokens: int | None = None
    show_progress: bool = False
    token_cache: int = TOKEN_CACHE
    score_cache: int | ScoreCache = 0
    screen: str | None = None


@dataclass(frozen=True, slots=True)
class _Loaded:
    """A model that is ready to run, and what scoring must know of it."""

    engine: Engine
    tokenizer: Any
    config: dict[str, Any]
    max_length: int
    position_limit: int | None


class _NotReadyError(InputError):
    """An engine is installed, but this model has no file for it; another engine may do."""


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
    check_limit(options.token_cache, "token_cache")
    cache = _score_cache(options.score_cache)
    device = choose_device(options.device, options.engine)
    loaded = _load(options, device)
    max_length = options.max_length or loaded.max_length
    if loaded.position_limit is not None and max_length > loaded.position_limit:
        logger.info("max_length %d is more than the model's %d positions", max_length, loaded.position_limit)
        max_length = loaded.position_limit
    encoder = PairEncoder(
        loaded.tokenizer,
        max_length=max_length,
        query_max_length=options.query_max_length,
        truncation=options.truncation,
        pad_to_multiple_of=loaded.engine.pad_to_multiple_of,
        token_cache=options.token_cache,
    )
    full = options.batch_size * max_length
    return PairScorer(
        encoder,
        loaded.engine,
        activation=pick_activation(options.activation, loaded.config),
        max_batch_tokens=options.max_batch_tokens or (min(full, CPU_BATCH_TOKENS) if device == "cpu" else full),
        show_progress=options.show_progress,
        score_cache=cache,
        settings=_settings(options, loaded, max_length) if cache is not None else None,
    )


def load_screen(options: LoadOptions) -> PairScorer | None:
    """Load a model a second time, in the faster precision of its early look.

    :param options: which model and how to run it.
    :returns: a scorer in the precision that ``screen`` names; None without one.
    :raises InputError: if ``screen`` is no dtype, or is that of the scores themselves.
    """
    if options.screen is None:
        return None
    check_choice(options.screen, "screen", DTYPES)
    if options.screen == options.dtype:
        raise InputError(f"screen={options.screen!r} is the dtype of the scores themselves; use a faster one, or None")
    return load_scorer(replace(options, dtype=options.screen, screen=None))


def _score_cache(given: int | ScoreCache) -> ScoreCache | None:
    if isinstance(given, ScoreCache):
        return given
    size = check_limit(given, "score_cache")
    return ScoreCache(size) if size else None


def _settings(options: LoadOptions, loaded: _Loaded, max_length: int) -> Hashable:
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
    )


def _load(options: LoadOptions, device: str) -> _Loaded:
    """Load with the first engine that can run the model; with one engine asked for, its error is the answer."""
    names = candidates(options.engine, device, options.dtype)
    for name in names[:-1]:
        try:
            loaded = _load_with(name, options, device, only_ready=True)
        except _NotReadyError as error:
            logger.info("engine %s is not used for %s: %s", name, options.source.name, error)
        else:
            break
    else:
        try:
            loaded = _load_with(names[-1], options, device, only_ready=False)
        except _NotReadyError as error:
            raise InputError(str(error)) from None  # no other engine is left: from here on it is the caller's
    engine = loaded.engine
    # Not at the level of info, which the command shows to people: only what differs from what was asked belongs there.
    logger.debug("%s runs on %s with engine %s in %s", options.source.name, engine.device, engine.name, engine.dtype)
    return loaded


def _load_with(name: str, options: LoadOptions, device: str, *, only_ready: bool) -> _Loaded:
    return _load_torch(options, device) if name == "torch" else _load_graph(name, options, only_ready=only_ready)


def _load_torch(options: LoadOptions, device: str) -> _Loaded:
    require("torch")
    from milvus_rerank.engines.torch_engine import TorchEngine, has_bfloat16
    from milvus_rerank.models.hub import load_model

    dtype = choose_dtype(options.dtype, "torch", device, has_bfloat16)
    loaded = load_model(options.source, show_progress=options.show_progress)
    engine = TorchEngine(loaded.model, device=device, dtype=dtype, threads=options.threads or cpu_limit())
    return _Loaded(engine, loaded.tokenizer, loaded.config, loaded.max_length, loaded.position_limit)


def _load_graph(name: str, options: LoadOptions, *, only_ready: bool) -> _Loaded:
    """Load for onnx or openvino.

    :param name: the engine.
    :param options: which model and how to run it.
    :param only_ready: raise rather than trace the model, which takes torch and a while.
    :returns: the model.
    :raises ModelError: if the model cannot be run so.
    """
    require(name)
    from milvus_rerank.graphs import family, find
    from milvus_rerank.models.files import CONFIGS, check_reranker, fetch_folder, read_config

    source = options.source
    carried = (*CONFIGS, *find.carried_patterns(name, options.dtype))
    folder = fetch_folder(source, carried, show_progress=options.show_progress)
    config = read_config(folder)
    check_reranker(source.name, config)
    tokenizer = _tokenizer(source, folder, config)
    graph = find.find_carried(folder, name, options.dtype)
    if graph is None:
        graph = _make_graph(name, options, config, tokenizer, only_ready=only_ready)
    limit = family.position_limit(config) if family.is_known(config) else None
    lengths = (tokenizer.model_max_length, config.get("max_position_embeddings"), limit)
    max_length = min(length for length in lengths if length is not None and length > 0)
    return _Loaded(_graph_engine(name, graph, options), tokenizer, config, int(max_length), limit)


def _make_graph(name: str, options: LoadOptions, config: dict[str, Any], tokenizer: Any, *, only_ready: bool) -> Path:
    from milvus_rerank.graphs import find
    from milvus_rerank.models.files import CONFIGS, fetch_folder

    source = options.source
    if options.dtype == "int8":
        raise _NotReadyError(
            f"model {source.name!r} carries no int8 files for engine {name!r}. Make them, checked on your own texts: "
            f"milvus-rerank export {source.name} FOLDER --dtype int8 --engine {name} --texts FILE; then load FOLDER"
        )
    bars = options.show_progress
    folder = fetch_folder(source, (*CONFIGS, *find.WEIGHTS), show_progress=bars)
    if find.can_build(folder, config, tokenizer):
        with_types = "token_type_ids" in tokenizer.model_input_names
        return find.build_cached(folder, config, source.name, with_types=with_types, show_progress=bars)
    if only_ready:
        raise _NotReadyError(f"model {source.name!r} must be traced by torch first; ask for engine={name!r} to do so")
    folder = fetch_folder(source, (*CONFIGS, *find.WEIGHTS, *find.PICKLED), show_progress=bars)
    return find.trace_cached(folder, source, [key for key in tokenizer.model_input_names if key in find.INPUTS])


def _graph_engine(name: str, graph: Path, options: LoadOptions) -> Engine:
    threads = options.threads or cpu_limit()
    if name == "openvino":
        from milvus_rerank.engines.openvino_engine import OpenVINOEngine, has_bfloat16

        dtype = choose_dtype(options.dtype, name, "cpu", has_bfloat16)
        return OpenVINOEngine(graph, dtype=dtype, threads=threads)
    from milvus_rerank.engines.onnx_engine import OnnxEngine

    dtype = choose_dtype(options.dtype, name, "cpu", lambda: False)
    return OnnxEngine(graph, dtype=dtype, threads=threads)


def _tokenizer(source: ModelSource, folder: Path, config: dict[str, Any]) -> Any:
    from milvus_rerank.models.files import FileTokenizer, has_plain_tokenizer

    if has_plain_tokenizer(folder):
        return FileTokenizer(folder, config)
    package = missing_package("torch")
    if package is not None:
        raise MissingDependencyError(package, "torch", f"the tokenizer of model {source.name!r}")
    from milvus_rerank.models.hub import load_tokenizer

    return load_tokenizer(source)
