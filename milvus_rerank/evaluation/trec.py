"""Runs in TREC's format."""

from collections.abc import Iterable
from pathlib import Path

from milvus_rerank.errors import InputError, write_errors
from milvus_rerank.evaluation.systems import System


def write_runs(systems: Iterable[System], folder: Path) -> list[Path]:
    """Write a file in TREC's format for each system.

    :param systems: the systems.
    :param folder: the folder, which is created.
    :returns: the files.
    :raises InputError: if an id holds a space, or two systems would have the same file.
    :raises WriteError: if one cannot be written.
    """
    paths: dict[Path, System] = {}
    for system in systems:
        for query, ranking in system.rankings.items():
            broken = next((name for name in (query, *ranking.ids) if len(name.split()) != 1), None)
            if broken is not None:
                raise InputError(f"TREC's format has no ids with spaces, got {broken!r}; use to_dict() or --json")
        path = folder / f"{_tag(system)}.run"
        if path in paths:
            raise InputError(f"{system.name!r} and {paths[path].name!r} would both be {path.name}; rename one")
        paths[path] = system
    for path, system in paths.items():
        with write_errors(path, "choose another folder"):
            folder.mkdir(parents=True, exist_ok=True)
            with path.open("w", encoding="utf-8") as file:
                for name, ranking in system.rankings.items():
                    # Tools order a run by its scores, so they must fall: minus the rank.
                    for rank, document in enumerate(ranking.ids, 1):
                        file.write(f"{name} Q0 {document} {rank} {-rank} {_tag(system)}\n")
    return list(paths)


def _tag(system: System) -> str:
    return "".join(char if char.isalnum() or char in "-_." else "-" for char in system.name)
