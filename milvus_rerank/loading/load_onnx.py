"""Loading for engines that run ONNX graphs: shipped with the model, built from its weights, or traced by torch."""

import logging
from typing import Any

from milvus_rerank.engines import Engine
from milvus_rerank.engines.base import Label, LinkedGraph
from milvus_rerank.engines.select import choose_dtype, cpu_limit
from milvus_rerank.errors import ModelError
from milvus_rerank.loading.inspect import ModelInfo
from milvus_rerank.loading.memory import check_memory
from milvus_rerank.loading.options import Loaded, LoadOptions
from milvus_rerank.models.files import TOKENIZERS, check_vocabulary, read_tokenizer
from milvus_rerank.models.weights import INDEX, WHOLE, check_weights, read_tensors
from milvus_rerank.onnx_graphs.files import PICKLED, WEIGHTS, OpenedGraph, find_carried, graph_files
from milvus_rerank.onnx_graphs.modernbert import read_modules
from milvus_rerank.requirements import ENGINES, require

logger = logging.getLogger(__name__)


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

        tokenizer = load_tokenizer(info.source, info.folder if info.is_local else info.fetch(*TOKENIZERS))
    inputs = [key for key in tokenizer.model_input_names if key in cache.INPUTS]
    made = _graph(name, info, options, inputs)
    check_vocabulary(info.source.name, tokenizer, made.word_rows or info.config.get("vocab_size"))
    limit = info.position_limit if info.position_limit is not None else made.position_limit(tokenizer.model_max_length)
    threads = options.threads or cpu_limit()
    engine: Engine
    graph = made.graph
    if name == "openvino":
        from milvus_rerank.engines.openvino_engine import OpenVINOEngine, has_bfloat16

        dtype = choose_dtype(options.dtype, name, "cpu", has_bfloat16)
        path = cache.link_files(graph) if isinstance(graph, LinkedGraph) else graph
        engine = OpenVINOEngine(path, dtype=dtype, threads=threads, label=label)
    else:
        from milvus_rerank.engines.onnx_engine import OnnxEngine

        dtype = choose_dtype(options.dtype, name, "cpu", lambda: False)
        if isinstance(graph, LinkedGraph) and graph.folder is None:
            graph = cache.link_files(graph)
        engine = OnnxEngine(graph, dtype=dtype, threads=threads, label=label)
    lengths = (tokenizer.model_max_length, info.config.get("max_position_embeddings"), limit)
    max_length = min(length for length in lengths if length is not None and length > 0)
    return Loaded(engine, tokenizer, info.config, int(max_length), limit, info.settings)


def _graph(name: str, info: ModelInfo, options: LoadOptions, inputs: list[str]) -> OpenedGraph:
    """Return a model's graph. One that is built from the weights cannot differ from them, so it comes first."""
    from milvus_rerank.onnx_graphs import cache
    from milvus_rerank.onnx_graphs.carried import open_carried, open_carried_ir

    carried = find_carried(info.files, name, options.dtype)
    build = info.can_build and options.dtype != "int8"
    weights = WEIGHTS if info.head is None else (*WEIGHTS, *(f"{module}/{WHOLE}" for module in info.head.folders))
    files = weights if build else graph_files(carried) if carried else (*WEIGHTS, *PICKLED, *TOKENIZERS)
    folder = info.folder if info.is_local else info.fetch(*files, show_progress=options.show_progress)
    if build:
        if carried:
            logger.info("model %s runs from its weights; its %s is not used", info.source.name, carried)
        tensors = read_tensors(folder) if info.head is None else read_modules(folder, info.head)
        check_memory(info.source.name, tensors, "float32", "cpu")
        with_types = "token_type_ids" in inputs
        return OpenedGraph(
            cache.build_graph(folder, tensors, info.config, info.source.name, with_types=with_types, head=info.head)
        )
    has_tensors = bool({WHOLE, INDEX} & set(info.files))
    tensors = check_weights(info.source.name, info.config, folder) if has_tensors or not carried else {}
    if carried:
        path = folder / carried
    else:
        check_memory(info.source.name, tensors, "float32", "cpu")
        path, tensors = cache.trace_cached(folder, info.source, inputs), {}
    opened = open_carried_ir(path, tensors) if path.suffix == ".xml" else open_carried(path, info.source.name, tensors)
    expected = info.config.get("max_position_embeddings")
    if opened.position_rows is not None and expected is not None and opened.position_rows < expected:
        raise ModelError(
            f"model {info.source.name!r} does not fit together: {path.name} has {opened.position_rows} positions, "
            f"config.json says {expected}; download the model again, or export it again"
        )
    return opened
