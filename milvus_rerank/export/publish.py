"""Publish exported folders: a folder appears whole or not at all; another precision of the same model may be added."""

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
"""The file that describes an export: the model, and the options and fidelity of each graph."""


def held_record(target: Path, key: str, file: str) -> dict[str, Any] | None:
    """Return the record of an export that a graph may be added to.

    :param target: the folder to write.
    :param key: the model's key, as :func:`~milvus_rerank.export.write.original_key` returns it.
    :param file: the name of the graph to add.
    :returns: the contents of :data:`RECORD`; None if the folder is empty or does not exist.
    :raises InputError: if the folder holds other files, another model, or already this graph.
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
    """Make a temporary folder on the target's disk, so that a rename publishes it; remove it at the end.

    A killed process leaves this folder behind, under a hidden name, but never a partial target.

    :param target: the folder to write, as an absolute path.
    :yields: an empty folder in the nearest parent of the target that exists.
    """
    parent = next(folder for folder in target.parents if folder.is_dir())
    work = parent / f".{target.name}.{secrets.token_hex(4)}"
    work.mkdir()  # only the owner may read the folders that tempfile makes
    try:
        yield work
    finally:
        shutil.rmtree(work, ignore_errors=True)


def publish(made: Path, target: Path, file: str) -> None:
    """Rename a folder to the target; if the target has an export, add the weights, then the graph, then the record.

    :param made: the complete folder, with its record.
    :param target: the target folder, which :func:`held_record` accepted.
    :param file: the graph's file name in the folder.
    """
    _open_to_readers(made)
    target.parent.mkdir(parents=True, exist_ok=True)
    if not (target / RECORD).exists():
        if target.exists():
            target.rmdir()  # empty; some systems cannot rename over an empty folder
        os.replace(made, target)
        return
    graph = made / file
    (target / file).parent.mkdir(exist_ok=True)
    for path in [*sorted(one for one in graph.parent.iterdir() if one != graph), graph]:
        os.replace(path, (target / file).parent / path.name)
    os.replace(made / RECORD, target / RECORD)


def _open_to_readers(made: Path) -> None:
    """Give every file the default mode: onnx writes weights that only their owner may read."""
    mode = (made / RECORD).stat().st_mode
    for path in made.rglob("*"):
        if path.is_file():
            path.chmod(mode)
