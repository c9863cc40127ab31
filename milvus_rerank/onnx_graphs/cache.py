"""Cache of graphs in the user's cache folder. One process at a time writes a graph, completely or not at all."""

import logging
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import platformdirs
from filelock import FileLock

logger = logging.getLogger(__name__)

VARIABLE = "MILVUS_RERANK_CACHE"
"""Environment variable that names another cache folder."""

_spares: list["tempfile.TemporaryDirectory[str]"] = []


def cache_folder() -> Path:
    """Return the cache folder, which need not exist."""
    own = os.environ.get(VARIABLE)
    return Path(own) if own else platformdirs.user_cache_path("milvus-rerank", appauthor=False)


def keep(key: str, write: Callable[[Path], None]) -> Path:
    """Return the cached folder of a key, after writing it if it does not exist.

    Other processes that need the same key wait. A folder appears completely or not at all: it is written under another
    name and then renamed. The next writer removes the remains of a crash. If the cache cannot be written, a temporary
    folder serves until the process ends.

    :param key: the key from :func:`content_key`.
    :param write: the function that fills an empty folder.
    :returns: the folder.
    """
    root = cache_folder()
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
    for left in folder.parent.glob(f".{folder.name}.*"):
        shutil.rmtree(left, ignore_errors=True)
    unfinished = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        write(unfinished)
        os.replace(unfinished, folder)
        logger.debug("wrote %s", folder)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
