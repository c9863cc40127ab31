"""Inventory of this machine: registered rerankers, shipped and cached models, and the packages they need."""

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from fnmatch import fnmatchcase
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from milvus_rerank.errors import RerankError, install_command
from milvus_rerank.loading.inspect import inspect_model
from milvus_rerank.models import ModelSource, builtin_names, model_folder
from milvus_rerank.registry import Entry, available, load
from milvus_rerank.requirements import ENGINES, EXTRAS, PACKAGES, missing
from milvus_rerank.reranker.local import EngineRerankFunction
from milvus_rerank.reranker.remote.function import RemoteRerankFunction


@dataclass(frozen=True, slots=True)
class PackageStatus:
    """An optional package: its installed version or None, its purpose, and the command that installs it."""

    name: str
    version: str | None
    purpose: str
    install: str


@dataclass(frozen=True, slots=True)
class RerankerStatus:
    """A registered reranker.

    :param name: the reranker's name, as users type it.
    :param origin: the distribution that registered it, or ``register()``.
    :param target: its class or function.
    :param problem: the reason why it does not import, or the packages that it lacks; None if it is usable.
    """

    name: str
    origin: str
    target: str
    problem: str | None


@dataclass(frozen=True, slots=True)
class ModelStatus:
    """A model on this machine.

    :param name: the value for ``model_name``.
    :param kind: ``reranker``, ``embedder`` or ``other``.
    :param origin: ``built-in`` or ``hub cache``.
    :param size: the bytes on disk.
    :param problem: the reason why it cannot be used; None if there is no known problem.
    """

    name: str
    kind: str
    origin: str
    size: int
    problem: str | None


@dataclass(frozen=True, slots=True)
class Inventory:
    """Registered rerankers, models on this machine, and optional packages."""

    rerankers: tuple[RerankerStatus, ...]
    models: tuple[ModelStatus, ...]
    packages: tuple[PackageStatus, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return the inventory as JSON-safe Python values."""
        return asdict(self)


def take_inventory(load: Callable[[ModelStatus], object] | None = None, cache_dir: Path | None = None) -> Inventory:
    """Find the rerankers, models and packages of this machine, without the network.

    :param load: a function that loads a model, called with each usable model; its errors are recorded. None inspects
        the files only.
    :param cache_dir: the hub's cache; None for the hub client's default.
    :returns: the inventory.
    """
    models = [*_builtin_models(), *_cached_models(cache_dir)]
    return Inventory(
        rerankers=tuple(_reranker(entry) for entry in available()),
        models=tuple(model if load is None or model.problem else _loaded(model, load) for model in models),
        packages=tuple(
            PackageStatus(name.replace("_", "-"), installed_version(name), EXTRAS[extra], install_command(extra))
            for name, extra in PACKAGES.items()
            if extra and "." not in name
        ),
    )


def load_model(model: ModelStatus) -> None:
    """Load a reranker or embedder as a user would, from this machine's files."""
    if model.kind == "embedder":
        from milvus_rerank.embedding import StaticEmbedder

        StaticEmbedder(model.name)
    else:
        load(model.name, device="cpu", local_files_only=True)


def _reranker(entry: Entry) -> RerankerStatus:
    target = entry.target if isinstance(entry.target, str) else repr(entry.target)
    try:
        factory = entry.load()
    except RerankError as error:
        return RerankerStatus(entry.name, entry.origin, target, str(error))
    kinds = {EngineRerankFunction: "reranker", RemoteRerankFunction: "service"}
    kind = next((kind for base, kind in kinds.items() if isinstance(factory, type) and issubclass(factory, base)), "")
    return RerankerStatus(entry.name, entry.origin, target, _lacking(kind))


def _lacking(kind: str) -> str | None:
    """Return the packages that models of a kind lack, with the command that installs them; None if they lack none."""
    if kind == "reranker" and all(missing(*packages) for packages in ENGINES.values()):
        return f"no engine installed; type: {install_command()}"
    needed = {"embedder": ("model2vec",), "service": ("httpx",)}.get(kind, ())
    return _problem(*needed)


def _problem(*packages: str) -> str | None:
    absent = missing(*packages)
    if not absent:
        return None
    return f"{' and '.join(absent)} not installed; type: {install_command(*(PACKAGES[name] for name in absent))}"


def _loaded(model: ModelStatus, load: Callable[[ModelStatus], object]) -> ModelStatus:
    try:
        load(model)
    except RerankError as error:
        return ModelStatus(model.name, model.kind, model.origin, model.size, str(error))
    return model


def _builtin_models() -> Iterator[ModelStatus]:
    for name in builtin_names():
        folder = model_folder(name)
        if folder is not None:
            yield _status(name, folder, "built-in", sum(path.stat().st_size for path in folder.rglob("*.*")))


def _cached_models(cache_dir: Path | None) -> Iterator[ModelStatus]:
    try:
        from huggingface_hub import CacheNotFound, scan_cache_dir
    except ModuleNotFoundError:  # every engine installs it; without it there is no cache
        return
    try:
        cache = scan_cache_dir(cache_dir)
    except (CacheNotFound, ValueError):  # ValueError: a file is at the cache's path
        return
    for repo in sorted(cache.repos, key=lambda repo: repo.repo_id):
        revisions = sorted(repo.revisions, key=lambda revision: revision.last_modified, reverse=True)
        if repo.repo_type == "model" and revisions:
            status = _status(repo.repo_id, revisions[0].snapshot_path, "hub cache", repo.size_on_disk)
            if status.kind == "reranker":
                yield status


def _status(name: str, folder: Path, origin: str, size: int) -> ModelStatus:
    try:
        info = inspect_model(ModelSource(name), folder)
    except RerankError as error:
        return ModelStatus(name, "other", origin, size, str(error))
    kind, problem = "other", None
    if "embedding_dtype" in info.config:  # model2vec writes this key
        kind = "embedder"
    elif info.reranks:
        kind = "reranker"
        if info.model_type != "classifier" and not (info.head is not None and info.can_build):
            problem = _problem(*ENGINES["torch"])
        elif len(info.labels) != 1:
            problem = f"it has {len(info.labels)} labels; say which is the score with label=..."
    weights = ("*.safetensors", "pytorch_model*.bin", "onnx/*.onnx", "openvino/*.xml")
    if not any(fnmatchcase(file, pattern) for pattern in weights for file in info.files):
        problem = "its weights are not there; only a part was downloaded"
    return ModelStatus(name, kind, origin, size, problem or _lacking(kind))


def installed_version(package: str) -> str | None:
    """Return the version of a package by the name to install it by; None if it is not installed."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None
