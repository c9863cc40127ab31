"""Location of a model's files, by its name."""

import errno
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from milvus_rerank.errors import InputError, ModelError

BUILTIN = "builtin/"
"""Prefix of the models that the package ships."""

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_REFUSALS = {
    "RepositoryNotFoundError": "the hub has no such model, or it is private: check the name, or set HF_TOKEN",
    "RevisionNotFoundError": "the hub has no such branch, tag or commit of it",
    "GatedRepoError": "it is gated: accept its terms on the hub, and set HF_TOKEN",
    "DisabledRepoError": "the hub has disabled it",
}
"""What the hub client's errors mean, by class; their own texts begin with a status and a request number."""
_SHIPPED = Path(__file__).parent


@dataclass(frozen=True, slots=True)
class ModelSource:
    """Name of a model, with options for downloading it.

    :param name: ``builtin/...``, a local folder, or a name on the model hub such as ``BAAI/bge-reranker-base``.
    :param revision: a branch, tag or commit on the hub; None for its main branch.
    :param cache_dir: the folder for downloaded files; None for the hub client's default folder.
    :param local_files_only: use only files that are already on this machine, never the network.
    :param trust_remote_code: run Python code that comes with the model. Off by default.
    """

    name: str
    revision: str | None = None
    cache_dir: str | os.PathLike[str] | None = None
    local_files_only: bool = False
    trust_remote_code: bool = False


def not_loaded(source: ModelSource, error: BaseException) -> ModelError:
    """Return the error for a model whose files cannot be downloaded or read. The error says what to do.

    :param source: the model, and whether the network may be used.
    :param error: the error of the hub's client or transformers.
    :returns: the error to raise from ``error``.
    """
    if "trust_remote_code" in str(error):
        return ModelError(
            f"model {source.name!r} comes with Python code of its own, which is not run. "
            "Read it; if you trust it, pass trust_remote_code=True"
        )
    if "ignore_mismatched_sizes" in str(error):
        return ModelError(
            f"model {source.name!r} does not fit together: its weights have other shapes than config.json asks for; "
            "download or save the model again"
        )
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    first = _REFUSALS.get(type(error).__name__) or next(iter(lines), type(error).__name__)
    if model_folder(source.name) is not None:
        return ModelError(f"model {source.name!r} cannot be read: {first}")
    full = next((cause for cause in causes(error) if getattr(cause, "errno", None) in _FULL), None)
    if full is not None:
        return ModelError(f"model {source.name!r} cannot be downloaded: {full}; free space, or set HF_HOME")
    hint = (
        "local_files_only=True and it is not in the cache; leave that out to download it"
        if source.local_files_only
        else "check the name and the network, or give a local folder; models named 'builtin/...' need no network"
    )
    if type(error).__name__ in _REFUSALS:
        revision = f" in revision {source.revision!r}" if source.revision else ""
        return ModelError(f"model {source.name!r}{revision} cannot be downloaded: {first}")
    return ModelError(f"model {source.name!r} cannot be loaded ({hint}): {first}")


def causes(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an error, its cause, the cause of that, and so on."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def adapter_error(name: str) -> ModelError:
    """Return the error for a LoRA adapter: its weights are only the difference from another model's."""
    return ModelError(
        f"model {name!r} holds a LoRA adapter, not a whole model; merge it into the model it belongs to with peft: "
        "model.merge_and_unload().save_pretrained(FOLDER)"
    )


def builtin_names() -> list[str]:
    """Return the names of the shipped models, such as ``builtin/rerank``."""
    return sorted(BUILTIN + path.parent.name for path in _SHIPPED.glob("*/config.json"))


def model_folder(name: str) -> Path | None:
    """Return the folder of a built-in or local model, None for a name on the hub.

    :param name: the name, as in :class:`ModelSource`.
    :returns: a folder that holds a ``config.json``, or None.
    :raises InputError: if the name is empty or not a string.
    :raises ModelError: for an unknown built-in model, a path that is not a folder, or a folder without a model.
    """
    if not isinstance(name, (str, os.PathLike)) or not str(name).strip():
        raise InputError(
            f"model_name must name a model, got {name!r}; for example 'builtin/rerank', a local folder, "
            "or 'cross-encoder/ms-marco-MiniLM-L6-v2'"
        )
    text = str(name)
    if text.startswith(BUILTIN):
        name = text.removeprefix(BUILTIN)
        if not name.isidentifier() or not (_SHIPPED / name / "config.json").is_file():
            raise ModelError(f"no built-in model {text!r}; there are: {', '.join(builtin_names())}")
        return _SHIPPED / name
    try:
        folder = Path(text).expanduser()
        exists = folder.exists()
    except (OSError, RuntimeError, ValueError) as error:  # too long, no such user, a NUL character
        raise ModelError(f"model_name {text[:80]!r} can be neither a name nor a folder: {error}") from error
    if not exists:
        if folder.is_absolute() or text.startswith((".", "~")) or text.count("/") > 1 or "\\" in text:
            raise ModelError(f"model_name {text!r} looks like a path, but there is no such folder")
        return None
    if not folder.is_dir():
        raise ModelError(f"model_name {text!r} is a file; expected the folder that holds the model")
    if not (folder / "config.json").is_file():
        if (folder / "adapter_config.json").exists():
            raise adapter_error(text)
        names = ", ".join(sorted(path.name for path in folder.iterdir())[:8]) or "nothing"
        raise ModelError(
            f"folder {text!r} holds no model: expected config.json, model.safetensors and tokenizer.json, found {names}"
        )
    return folder
