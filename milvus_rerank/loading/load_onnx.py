"""Loading for engines that run ONNX graphs: shipped with the model, built from its weights, or traced by torch."""

from typing import Any

from milvus_rerank.engines import Engine
from milvus_rerank.engines.base import Label
from milvus_rerank.engines.select import choose_dtype, cpu_limit
from milvus_rerank.loading.inspect import ModelInfo
from milvus_rerank.loading.options import Loaded, LoadOptions
from milvus_rerank.models.files import read_tokenizer
from milvus_rerank.onnx_graphs.files import PICKLED, WEIGHTS, find_carried, graph_files
from milvus_rerank.requirements import ENGINES, require


def load_graph(name: str, info: ModelInfo, options: LoadOptions, label: Label | None) -> Loaded:
    """Load a model for onnx or openvino.

    :param name: the engine, as :func:`~milvus_rerank.loading.select.select_engine` returns it.
    :param info: the model.
    :param options: how to run it.
    :param label: the label that is the score; None for a model with one label.
    :returns: the model.
    :raises ModelError: if the engine cannot run the model.
    """
    from milvus_rerank.onnx_graphs import cache

    tokenizer: Any = read_tokenizer(info.folder, info.config, info.tokenizer_config)
    if tokenizer is None:
        require(f"the tokenizer of model {info.source.name!r}", *ENGINES["torch"])
        from milvus_rerank.models.hub import load_tokenizer

        tokenizer = load_tokenizer(info.source)
    carried = find_carried(info.files, name, options.dtype)
    files = graph_files(carried) if carried else WEIGHTS if info.can_build else (*WEIGHTS, *PICKLED)
    folder, bars = info.folder, options.show_progress
    if not info.is_local:
        folder = info.fetch(*files, show_progress=bars)
    inputs = [key for key in tokenizer.model_input_names if key in cache.INPUTS]
    if carried:
        graph = folder / carried
    elif info.can_build:
        with_types = "token_type_ids" in inputs
        graph = cache.build_cached(folder, info.config, info.source.name, with_types=with_types, show_progress=bars)
    else:
        graph = cache.trace_cached(folder, info.source, inputs)
    threads = options.threads or cpu_limit()
    engine: Engine
    if name == "openvino":
        from milvus_rerank.engines.openvino_engine import OpenVINOEngine, has_bfloat16

        dtype = choose_dtype(options.dtype, name, "cpu", has_bfloat16)
        engine = OpenVINOEngine(graph, dtype=dtype, threads=threads, label=label)
    else:
        from milvus_rerank.engines.onnx_engine import OnnxEngine

        dtype = choose_dtype(options.dtype, name, "cpu", lambda: False)
        engine = OnnxEngine(graph, dtype=dtype, threads=threads, label=label)
    lengths = (tokenizer.model_max_length, info.config.get("max_position_embeddings"), info.position_limit)
    max_length = min(length for length in lengths if length is not None and length > 0)
    return Loaded(engine, tokenizer, info.config, int(max_length), info.position_limit, info.settings)
