"""ONNX files made from a model, and kept in the user's cache folder: built from its weights, or traced by torch."""

import logging
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import platformdirs
from filelock import FileLock

from milvus_rerank.errors import ModelError
from milvus_rerank.models import ModelSource
from milvus_rerank.models.files import check_not_quantised, content_key, read_weights, weight_files
from milvus_rerank.requirements import ENGINES, require

logger = logging.getLogger(__name__)

VARIABLE = "MILVUS_RERANK_CACHE"
"""Environment variable that names another cache folder."""

GRAPH_VERSION = 2
"""Version of the graphs. It is raised whenever they change, so that older graphs in a cache are not used."""

GRAPH = "model.onnx"
INPUTS = ("input_ids", "attention_mask", "token_type_ids")

_spares: list["tempfile.TemporaryDirectory[str]"] = []


def build_cached(
    folder: Path, config: Mapping[str, Any], name: str, *, with_types: bool, show_progress: bool = False
) -> Path:
    """Return a graph built from a model's weights, from the cache if it is there.

    :param folder: the folder of a model of BERT's family with safetensors.
    :param config: its ``config.json``.
    :param name: the model's name, for the message.
    :param with_types: whether the tokenizer makes token types.
    :param show_progress: show a progress bar on stderr if the weights must be read.
    :returns: the ``.onnx`` file.
    :raises ModelError: if weights are missing or cannot be read.
    """

    def write(target: Path) -> None:
        write_built(target / GRAPH, folder, config, name, with_types=with_types, show_progress=show_progress)

    files = [folder / "config.json", *weight_files(folder)]
    return keep(content_key(files, GRAPH_VERSION, version("onnx"), with_types), write) / GRAPH


def write_built(
    path: Path, folder: Path, config: Mapping[str, Any], name: str, *, with_types: bool, show_progress: bool = False
) -> None:
    """Write the graph of :func:`build_cached` to a file, with its weights in a second file."""
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
    :raises ModelError: if the model cannot be loaded or traced.
    :raises MissingDependencyError: if the packages for tracing are not installed.
    """
    weights = weight_files(folder) or sorted(folder.glob("pytorch_model*.bin"))
    files = [folder / "config.json", *weights, *sorted(folder.glob("*.py"))]
    key = content_key(files, GRAPH_VERSION, version("torch"), version("transformers"), names)
    return keep(key, lambda target: write_traced(target / GRAPH, source, names)) / GRAPH


def write_traced(path: Path, source: ModelSource, names: list[str]) -> None:
    """Write the graph of :func:`trace_cached` to a file."""
    require("tracing a model", *ENGINES["torch"], "onnxscript")
    from milvus_rerank.engines.torch_engine import use_one_thread_in_forks
    from milvus_rerank.models.hub import load_model
    from milvus_rerank.onnx_graphs.torch_export import trace

    use_one_thread_in_forks()
    trace(load_model(source).model, names, path)


def keep(key: str, write: Callable[[Path], None]) -> Path:
    """Return the cached folder of a key, after writing it if it does not exist.

    Other processes that need the same key wait. A folder appears completely or not at all: it is written under another
    name and then renamed. The next writer removes the remains of a crash. If the cache cannot be written, a temporary
    folder serves until the process ends.

    :param key: the key from :func:`content_key`.
    :param write: the function that fills an empty folder.
    :returns: the folder.
    """
    variable = os.environ.get(VARIABLE)
    root = Path(variable) if variable else platformdirs.user_cache_path("milvus-rerank", appauthor=False)
    folder = root / key
    if folder.is_dir():
        return folder
    try:
        root.mkdir(parents=True, exist_ok=True)
        lock = FileLock(root / f"{key}.lock")
        lock.acquire()
    except OSError as error:
        logger.warning("cache folder %s cannot be written (%s): set %s to one that can", root, error, VARIABLE)
        spare = tempfile.TemporaryDirectory(prefix="milvus-rerank-")
        _spares.append(spare)
        write(Path(spare.name))
        return Path(spare.name)
    try:
        if not folder.is_dir():
            _write_whole(folder, write)
    finally:
        lock.release()
    return folder


def _write_whole(folder: Path, write: Callable[[Path], None]) -> None:
    for remains in folder.parent.glob(f".{folder.name}.*"):
        shutil.rmtree(remains, ignore_errors=True)
    unfinished = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        write(unfinished)
        os.replace(unfinished, folder)
        logger.debug("wrote %s", folder)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
