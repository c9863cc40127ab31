"""ONNX files made from a model, and kept in the user's cache folder: built from its weights, or traced by torch."""

import atexit
import logging
import os
import platform
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import platformdirs
from filelock import FileLock, Timeout

from milvus_rerank.errors import ModelError, RerankError, WriteError, write_errors
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

LONGEST_WAIT = 900.0
"""Seconds to wait for another process that writes the same graph; bge-reranker-v2-m3 took 77 on two cores."""

_SILENT_WAIT = 5.0  # seconds before the log says for whom this process waits


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


def keep(key: str, write: Callable[[Path], None], longest_wait: float = LONGEST_WAIT) -> Path:
    """Return the cached folder of a key, after writing it if it does not exist.

    Other processes that need the same key wait. A folder appears completely or not at all: it is written under another
    name and then renamed. The next writer removes the remains of a crash. If the cache cannot be written, a temporary
    folder serves until the process ends.

    :param key: the key from :func:`content_key`.
    :param write: the function that fills an empty folder.
    :param longest_wait: the seconds to wait for another process.
    :returns: the folder.
    :raises WriteError: if another process writes for too long, or neither folder can be written.
    """
    variable = os.environ.get(VARIABLE)
    root = Path(variable) if variable else platformdirs.user_cache_path("milvus-rerank", appauthor=False)
    folder = root / key
    try:
        if not folder.is_dir():
            root.mkdir(parents=True, exist_ok=True)
            with _locked(folder, longest_wait):
                if not folder.is_dir():
                    _write_whole(folder, write)
    except RerankError:
        raise
    except OSError as error:
        logger.warning("cache folder %s cannot be written (%s): set %s to one that can", root, error, VARIABLE)
        with write_errors(f"cache folder {root} and the temporary folder", f"free space, or set {VARIABLE} or TMPDIR"):
            return _write_spare(write)
    return folder


@contextmanager
def _locked(folder: Path, longest_wait: float) -> Iterator[None]:
    """Hold the lock of a folder, and say in a second file who holds it."""
    lock, holder = FileLock(f"{folder}.lock"), Path(f"{folder}.holder")
    try:
        lock.acquire(timeout=min(_SILENT_WAIT, longest_wait))
    except Timeout:
        logger.warning("waiting for %s, which writes %s", _read(holder), folder)
        try:
            lock.acquire(timeout=longest_wait)
        except Timeout as error:
            raise WriteError(
                f"{_read(holder)} still holds the lock of {folder} after {longest_wait:g} s; if it does not write any "
                f"more, end it or delete {lock.lock_file}; or set {VARIABLE} to another folder"
            ) from error
    try:
        now = datetime.now().astimezone().isoformat(timespec="seconds")
        holder.write_text(f"process {os.getpid()} on {platform.node()} (since {now})", "utf-8")
        yield
    finally:
        with suppress(OSError):
            holder.unlink(missing_ok=True)
        lock.release()


def _read(holder: Path) -> str:
    with suppress(OSError):
        return holder.read_text("utf-8") or "another process"
    return "another process"


def _write_spare(write: Callable[[Path], None]) -> Path:
    """Write a temporary folder that this process removes at its end."""
    spare = Path(tempfile.mkdtemp(prefix="milvus-rerank-"))
    atexit.register(_remove, spare, os.getpid())
    try:
        write(spare)
    except BaseException:
        shutil.rmtree(spare, ignore_errors=True)
        raise
    return spare


def _remove(spare: Path, process: int) -> None:
    if os.getpid() == process:  # not at the end of a forked process
        shutil.rmtree(spare, ignore_errors=True)


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
