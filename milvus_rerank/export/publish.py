"""Publish exported folders: a folder appears whole or not at all; another precision of the same model may be added."""

import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from milvus_rerank.errors import InputError, write_errors
from milvus_rerank.models.files import read_config

RECORD = "fidelity.json"
"""The file that describes an export: the model, and the options and fidelity of each graph."""


def held_record(target: Path, key: str, file: str) -> dict[str, Any] | None:
    """Return the record of an export that this graph file may be added to; None for an empty or a new folder."""
    if target.exists() and not target.is_dir():
        raise InputError(f"{target} is a file; give a folder that does not exist yet")
    if not target.exists() or not any(target.iterdir()):
        return None
    if not (target / RECORD).is_file():
        raise InputError(f"folder {target} holds other files; give a new or an empty folder")
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
    """Make a hidden temporary folder on the target's disk, so that a rename publishes it; remove it at the end."""
    parent = next(folder for folder in target.parents if folder.is_dir())
    work = parent / f".{target.name}.{secrets.token_hex(4)}"
    with write_errors(target, "free space on its disk, or give another folder"):
        work.mkdir()  # only the owner may read the folders that tempfile makes
        try:
            yield work
        finally:
            shutil.rmtree(work, ignore_errors=True)


def publish(folder: Path, target: Path, file: str) -> None:
    """Rename a complete folder to the target; if that holds an export, add the weights, then the graph and record."""
    mode = (folder / RECORD).stat().st_mode
    for path in folder.rglob("*"):
        if path.is_file():
            path.chmod(mode)  # onnx writes weights that only their owner may read
    target.parent.mkdir(parents=True, exist_ok=True)
    if not (target / RECORD).exists():
        if target.exists():
            target.rmdir()  # empty; some systems cannot rename over an empty folder
        os.replace(folder, target)
        return
    graph = folder / file
    (target / file).parent.mkdir(exist_ok=True)
    for path in [*sorted(path for path in graph.parent.iterdir() if path != graph), graph]:
        os.replace(path, (target / file).parent / path.name)
    os.replace(folder / RECORD, target / RECORD)
