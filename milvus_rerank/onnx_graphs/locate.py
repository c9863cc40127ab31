"""ONNX files for models without a graph: from the cache, built from the weights, or traced by torch."""

from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from milvus_rerank.errors import ModelError
from milvus_rerank.models import ModelSource
from milvus_rerank.models.files import check_not_quantised, content_key, read_weights, weight_files
from milvus_rerank.onnx_graphs.cache import keep
from milvus_rerank.requirements import ENGINES, require

GRAPH_VERSION = 2
"""Version of the graphs. It is raised whenever they change, so that older graphs in a cache are not used."""

GRAPH = "model.onnx"
INPUTS = ("input_ids", "attention_mask", "token_type_ids")


def build_cached(
    folder: Path, config: Mapping[str, Any], name: str, *, with_types: bool, show_progress: bool = False
) -> Path:
    """Return a graph built from a model's weights, from the cache if it is there.

    :param folder: the model's folder, for which :func:`~milvus_rerank.onnx_graphs.files.can_build` holds.
    :param config: its ``config.json``.
    :param name: the model's name, for the message.
    :param with_types: whether the tokenizer makes token types.
    :param show_progress: show a progress bar on stderr if the weights must be read.
    :returns: the ``.onnx`` file.
    :raises ModelError: if weights are missing or cannot be read.
    """
    key = content_key([folder / "config.json", *weight_files(folder)], GRAPH_VERSION, version("onnx"), with_types)

    def write(where: Path) -> None:
        write_built(where / GRAPH, folder, config, name, with_types=with_types, show_progress=show_progress)

    return keep(key, write) / GRAPH


def write_built(
    path: Path,
    folder: Path,
    config: Mapping[str, Any],
    name: str,
    *,
    with_types: bool,
    show_progress: bool = False,
) -> None:
    """Build a graph and write it, with its weights in a second file.

    :param path: the ``.onnx`` file to write.
    :param folder: the model's folder, for which :func:`~milvus_rerank.onnx_graphs.files.can_build` holds.
    :param config: its ``config.json``.
    :param name: the model's name, for the message.
    :param with_types: whether the tokenizer makes token types.
    :param show_progress: show a progress bar on stderr while the weights are read.
    :raises ModelError: if weights are missing or cannot be read.
    """
    from milvus_rerank.onnx_graphs.build_bert import build, save

    check_not_quantised(name, config)
    weights = read_weights(folder, show_progress=show_progress)
    try:
        graph = build(config, weights, with_types=with_types)
    except KeyError as error:
        raise ModelError(
            f"model {name!r} is not a trained reranker: its weights lack {error.args[0]}. "
            "Is it an embedding model? Use a cross-encoder such as 'builtin/rerank'"
        ) from error
    save(graph, path)


def trace_cached(folder: Path, source: ModelSource, names: list[str]) -> Path:
    """Return a graph of any model, traced by torch, from the cache if it is there.

    :param folder: the model's folder.
    :param source: the model's name, and how to download it.
    :param names: the inputs its tokenizer makes.
    :returns: the ``.onnx`` file.
    :raises ModelError: if the model cannot be loaded or traced, or the cache cannot be written.
    :raises MissingDependencyError: if the packages for tracing are not installed.
    """
    weights = weight_files(folder) or sorted(folder.glob("pytorch_model*.bin"))
    files = [folder / "config.json", *weights, *sorted(folder.glob("*.py"))]

    def write(where: Path) -> None:
        write_traced(where / GRAPH, source, names)

    return keep(content_key(files, GRAPH_VERSION, version("torch"), version("transformers"), names), write) / GRAPH


def write_traced(path: Path, source: ModelSource, names: list[str]) -> None:
    """Trace a model and write its graph.

    :param path: the ``.onnx`` file to write.
    :param source: the model's name, and how to download it.
    :param names: the inputs its tokenizer makes.
    :raises ModelError: if the model cannot be loaded or traced.
    :raises MissingDependencyError: if the packages for tracing are not installed.
    """
    require("tracing a model", *ENGINES["torch"], "onnxscript")
    from milvus_rerank.models.hub import load_model
    from milvus_rerank.onnx_graphs.torch_export import trace

    trace(load_model(source).model, names, path)
