"""Exported folders appear whole or not at all, and may be extended by another precision of the same model."""

import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from milvus_rerank.errors import InputError
from milvus_rerank.models.files import read_config

RECORD = "fidelity.json"
"""What an export says of itself: the model, and for each graph how it was made and what it keeps."""


def held_record(target: Path, key: str, file: str) -> dict[str, Any] | None:
    """Return the record of an export that may be extended.

    :param target: the folder that is to be written.
    :param key: the model's, as :func:`~milvus_rerank.export.write.original_key` returns it.
    :param file: the graph to be added.
    :returns: what :data:`RECORD` holds; None where there is nothing yet.
    :raises InputError: if the folder holds other files, another model, or this graph.
    """
    if target.exists() and not target.is_dir():
        raise InputError(f"{target} is a file; give a folder that does not exist yet")
    if not target.exists() or not any(target.iterdir()):
        return None
    if not (target / RECORD).is_file():
        raise InputError(f"folder {target} holds other files; give one that does not exist yet or is empty")
    record = read_config(target, RECORD)
    if record.get("key") != key:
        raise InputError(
            f"folder {target} holds an export of {record.get('model')!r} with other weights; give another folder"
        )
    if (target / file).exists():
        raise InputError(f"folder {target} holds {file} already; give another folder, or delete it and export again")
    return record


@contextmanager
def workplace(target: Path) -> Iterator[Path]:
    """Make a folder on the target's disk, from which a rename is enough, and remove it in the end.

    A process that is killed leaves it, under a hidden name; never half a target.

    :param target: the folder that is to be written, as an absolute path.
    :yields: an empty folder beside it, or beside the first of its parents that is not there yet.
    """
    parent = next(folder for folder in target.parents if folder.is_dir())
    work = parent / f".{target.name}.{secrets.token_hex(4)}"
    work.mkdir()  # not tempfile's, whose folders only their owner may read
    try:
        yield work
    finally:
        shutil.rmtree(work, ignore_errors=True)


def publish(made: Path, target: Path, file: str) -> None:
    """Rename a folder to its place; in a folder that is there, add the graph after its weights, the record last.

    :param made: the whole folder, with its record.
    :param target: its place, for which :func:`held_record` holds.
    :param file: the graph's name in the folder.
    """
    _open_to_readers(made)
    target.parent.mkdir(parents=True, exist_ok=True)
    if not (target / RECORD).exists():
        if target.exists():
            target.rmdir()  # an empty one, which not every system lets a rename replace
        os.replace(made, target)
        return
    graph = made / file
    (target / file).parent.mkdir(exist_ok=True)
    for path in [*sorted(one for one in graph.parent.iterdir() if one != graph), graph]:
        os.replace(path, (target / file).parent / path.name)
    os.replace(made / RECORD, target / RECORD)


def _open_to_readers(made: Path) -> None:
    """Give every file the mode of those written plainly: onnx makes weights that only their owner may read."""
    mode = (made / RECORD).stat().st_mode
    for path in made.rglob("*"):
        if path.is_file():
            path.chmod(mode)
