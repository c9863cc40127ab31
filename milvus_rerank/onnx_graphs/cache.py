"""ONNX graphs made from a model: built over its weights, or traced by torch and kept in the user's cache folder."""

import atexit
import json
import logging
import os
import platform
import shutil
import tempfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import datetime
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import platformdirs
from filelock import FileLock, Timeout

from milvus_rerank.engines.base import LinkedGraph
from milvus_rerank.errors import RerankError, WriteError, write_errors
from milvus_rerank.models import ModelSource
from milvus_rerank.models.files import content_key, identity_key
from milvus_rerank.models.modules import Head
from milvus_rerank.models.weights import IN_GRAPHS, Tensor, check_not_quantised, weight_files
from milvus_rerank.onnx_graphs.architectures import check_shapes
from milvus_rerank.onnx_graphs.modernbert import HEAD
from milvus_rerank.requirements import ENGINES, require

logger = logging.getLogger(__name__)

VARIABLE = "MILVUS_RERANK_CACHE"
"""Environment variable that names another cache folder."""

GRAPH_VERSION = 5
"""Version of the graphs. It is raised whenever they change, so that older graphs in a cache are not used."""

GRAPH = "model.onnx"
CHECKSUMS = "checksums.json"
INPUTS = ("input_ids", "attention_mask", "token_type_ids")

LONGEST_WAIT = 900.0
"""Seconds to wait for another process that writes the same graph; bge-reranker-v2-m3 took 77 on two cores."""

_SILENT_WAIT = 5.0  # seconds before the log says for whom this process waits


def build_graph(
    folder: Path,
    tensors: Mapping[str, Tensor],
    config: Mapping[str, Any],
    name: str,
    *,
    with_types: bool,
    head: Head | None = None,
) -> Path | LinkedGraph:
    """Build the graph of a model, which reads the weights from the model's own files.

    Weights in types that graphs cannot read, such as 8-bit floats, are written to the cache in float32.

    :param folder: the folder of a model with safetensors.
    :param tensors: its weights, as :func:`~milvus_rerank.models.weights.read_tensors` returns them.
    :param config: its ``config.json``, for which :func:`~milvus_rerank.onnx_graphs.architectures.can_build` is true.
    :param name: its name, for messages.
    :param with_types: whether the tokenizer makes token types.
    :param head: its head, if that consists of sentence-transformers' modules.
    :returns: the graph over the model's files, or the file of a graph in the cache.
    :raises ModelError: if the weights are quantised, or do not fit the config.
    """
    files = tuple({tensor.path: None for tensor in tensors.values()})
    if all(tensor.dtype in IN_GRAPHS for tensor in tensors.values()):
        from milvus_rerank.onnx_graphs.build import build

        _check(name, config, tensors, head)
        graph = build(config, tensors, with_types=with_types, embed=False, head=head)
        held = HEAD if head else ()
        linked = {tensor.path: None for weight, tensor in tensors.items() if not weight.startswith(held)}
        return LinkedGraph(name, graph.SerializeToString(), tuple(linked))
    key = content_key((folder / "config.json", *files), GRAPH_VERSION, version("onnx"), with_types, head)
    write = partial(write_built, config=config, tensors=tensors, name=name, with_types=with_types, head=head)
    return keep(key, lambda target: write(target / GRAPH)) / GRAPH


def write_built(
    path: Path,
    config: Mapping[str, Any],
    tensors: Mapping[str, Tensor],
    name: str,
    *,
    with_types: bool,
    head: Head | None = None,
) -> None:
    """Write the graph of :func:`build_graph` to a file, with its weights in float32 in a second file."""
    from milvus_rerank.onnx_graphs.build import build, save

    _check(name, config, tensors, head)
    save(build(config, tensors, with_types=with_types, embed=True, head=head), path)


def _check(name: str, config: Mapping[str, Any], tensors: Mapping[str, Tensor], head: Head | None) -> None:
    check_not_quantised(name, config)
    check_shapes(name, config, tensors, head=head)


def link_files(graph: LinkedGraph) -> Path:
    """Return a graph as a file with the model's files beside it, for engines that read nothing from other folders.

    :param graph: the graph.
    :returns: the ``.onnx`` file in the cache folder. The files beside it are hard links, which take no space; they are
        copies where the cache folder is on another file system, or the files belong to somebody else.
    :raises WriteError: if neither the cache nor the temporary folder can be written.
    """

    def write(target: Path) -> None:
        (target / GRAPH).write_bytes(graph.model)
        for path in graph.files:
            try:
                os.link(path, target / path.name)
            except OSError:
                logger.info("copying %s into %s, which cannot have a link to it", path, target.parent)
                shutil.copyfile(path, target / path.name)

    numbers = [path.stat().st_ino for path in graph.files]  # a file that replaced another is not the one linked to
    return keep(identity_key(graph.files, graph.model, numbers), write) / GRAPH


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
    key = identity_key(files, GRAPH_VERSION, version("torch"), version("transformers"), names)
    return keep(key, lambda target: write_traced(target / GRAPH, source, folder, names)) / GRAPH


def write_traced(path: Path, source: ModelSource, folder: Path, names: list[str]) -> None:
    """Write the graph of :func:`trace_cached` to a file."""
    require("tracing a model", *ENGINES["torch"], "onnxscript")
    from milvus_rerank.engines.torch_engine import use_one_thread_in_forks
    from milvus_rerank.models.hub import load_model
    from milvus_rerank.onnx_graphs.torch_export import trace

    use_one_thread_in_forks()
    trace(load_model(source, folder).model, names, path)


def keep(key: str, write: Callable[[Path], None], longest_wait: float = LONGEST_WAIT) -> Path:
    """Return the cached folder of a key, after writing it if it does not exist.

    Other processes that need the same key wait. A folder appears completely or not at all: it is written under another
    name and then renamed. The next writer removes the remains of a crash, and entries whose model is gone. A damaged
    folder is written again. If the cache cannot be written, a temporary folder serves until the process ends.

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
        if not _is_whole(folder):
            root.mkdir(parents=True, exist_ok=True)
            with _locked(folder, longest_wait):
                if not _is_whole(folder):
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
    root = folder.parent
    for remains in [*root.glob(f".{folder.name}.*"), *filter(_is_orphan, root.iterdir())]:
        shutil.rmtree(remains, ignore_errors=True)
    if folder.is_dir():
        logger.warning("the graph in cache folder %s is damaged: it is made again", folder)
        shutil.rmtree(folder)
    unfinished = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=root))
    try:
        write(unfinished)
        files = [path for path in sorted(unfinished.iterdir()) if path.stat().st_nlink == 1]  # not links to a model
        (unfinished / CHECKSUMS).write_text(json.dumps({path.name: _checksum(path) for path in files}), "utf-8")
        os.replace(unfinished, folder)
        logger.debug("wrote %s", folder)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def _is_whole(folder: Path) -> bool:
    """Tell whether a cached folder exists, and its files are those that were written."""
    try:
        checksums = json.loads((folder / CHECKSUMS).read_text("utf-8"))
        return all(_checksum(folder / name) == checksum for name, checksum in checksums.items())
    except (OSError, ValueError, AttributeError):
        return False


def _is_orphan(folder: Path) -> bool:
    """Tell whether a cached folder keeps the weights of a model that was deleted since."""
    try:
        checksums = json.loads((folder / CHECKSUMS).read_text("utf-8"))
        return any(path.stat().st_nlink == 1 for path in folder.iterdir() if path.name not in (CHECKSUMS, *checksums))
    except (OSError, ValueError, TypeError):
        return False


def _checksum(path: Path) -> int:
    """Return the CRC-32 of a file, which finds damage at 1.5 GB/s or more."""
    checksum = 0
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            checksum = zlib.crc32(block, checksum)
    return checksum
