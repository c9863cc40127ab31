"""Loading for the engines that run graphs: from what a model carries, from its weights, or traced by torch."""

from pathlib import Path
from typing import Any

from milvus_rerank.engines import Engine
from milvus_rerank.engines.base import Label
from milvus_rerank.engines.choice import choose_dtype, cpu_limit, require_engine
from milvus_rerank.models import ModelSource
from milvus_rerank.requirements import ENGINES, require
from milvus_rerank.reranker.options import Loaded, LoadOptions, NotReadyError, check_flag, pick_label


def load_graph(name: str, options: LoadOptions, *, only_ready: bool) -> Loaded:
    """Load for onnx or openvino.

    :param name: the engine.
    :param options: which model and how to run it.
    :param only_ready: raise rather than trace the model, which takes torch and a while.
    :returns: the model.
    :raises NotReadyError: if torch must run it, or trace it first.
    :raises ModelError: if the model cannot be run so.
    """
    require_engine(name)
    from milvus_rerank.graphs import family, find
    from milvus_rerank.models.files import CONFIGS, check_reranker, fetch_folder, read_config
    from milvus_rerank.models.kinds import kind_of, may_chat, read_settings

    source = options.source
    carried = (*CONFIGS, *find.carried_patterns(name, options.dtype))
    folder = fetch_folder(source, carried, show_progress=options.show_progress)
    config, settings = read_config(folder), read_settings(folder)
    kind = kind_of(config, settings)
    if kind == "none":
        check_reranker(source.name, config)
    if kind != "classifier":
        raise NotReadyError(
            f"model {source.name!r} is no sequence classifier: engine 'torch' runs it, {name!r} does not"
        )
    if options.flag is None and may_chat(folder, settings):
        raise NotReadyError(f"model {source.name!r} has a chat template: engine 'torch' runs it, {name!r} does not")
    check_flag(kind, options)
    label = pick_label(source, config, options)
    tokenizer = _tokenizer(source, folder, config)
    graph = find.find_carried(folder, name, options.dtype)
    if graph is None:
        graph = _make_graph(name, options, config, tokenizer, only_ready=only_ready, label=label)
    limit = family.position_limit(config) if family.is_known(config) else None
    lengths = (tokenizer.model_max_length, config.get("max_position_embeddings"), limit)
    max_length = min(length for length in lengths if length is not None and length > 0)
    return Loaded(_engine(name, graph, options, label), tokenizer, config, int(max_length), limit, settings)


def _make_graph(
    name: str, options: LoadOptions, config: dict[str, Any], tokenizer: Any, *, only_ready: bool, label: Label | None
) -> Path:
    from milvus_rerank.graphs import find
    from milvus_rerank.models.files import CONFIGS, fetch_folder

    source = options.source
    if options.dtype == "int8":
        raise NotReadyError(
            f"model {source.name!r} carries no int8 files for engine {name!r}. Make them, checked on your own texts: "
            f"milvus-rerank export {source.name} FOLDER --dtype int8 --engine {name} --texts FILE; then load FOLDER"
        )
    if label is not None:  # the graphs that are made here have one label
        raise NotReadyError(f"model {source.name!r} has several labels: engine 'torch' runs it, {name!r} does not")
    bars = options.show_progress
    folder = fetch_folder(source, (*CONFIGS, *find.WEIGHTS), show_progress=bars)
    if find.can_build(folder, config, tokenizer):
        with_types = "token_type_ids" in tokenizer.model_input_names
        return find.build_cached(folder, config, source.name, with_types=with_types, show_progress=bars)
    if only_ready:
        raise NotReadyError(f"model {source.name!r} must be traced by torch first; ask for engine={name!r} to do so")
    folder = fetch_folder(source, (*CONFIGS, *find.WEIGHTS, *find.PICKLED), show_progress=bars)
    return find.trace_cached(folder, source, [key for key in tokenizer.model_input_names if key in find.INPUTS])


def _engine(name: str, graph: Path, options: LoadOptions, label: Label | None) -> Engine:
    threads = options.threads or cpu_limit()
    if name == "openvino":
        from milvus_rerank.engines.openvino_engine import OpenVINOEngine, has_bfloat16

        dtype = choose_dtype(options.dtype, name, "cpu", has_bfloat16)
        return OpenVINOEngine(graph, dtype=dtype, threads=threads, label=label)
    from milvus_rerank.engines.onnx_engine import OnnxEngine

    dtype = choose_dtype(options.dtype, name, "cpu", lambda: False)
    return OnnxEngine(graph, dtype=dtype, threads=threads, label=label)


def _tokenizer(source: ModelSource, folder: Path, config: dict[str, Any]) -> Any:
    from milvus_rerank.models.files import FileTokenizer, has_plain_tokenizer

    if has_plain_tokenizer(folder):
        return FileTokenizer(folder, config)
    require(f"the tokenizer of model {source.name!r}", *ENGINES["torch"])
    from milvus_rerank.models.hub import load_tokenizer

    return load_tokenizer(source)
