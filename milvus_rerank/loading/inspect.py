"""Inspection of a model: its small files say what it is and which engines can run it. Reads no weights."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from milvus_rerank.errors import ModelError
from milvus_rerank.models.catalogue import find_card
from milvus_rerank.models.files import (
    CONFIGS,
    fetch_folder,
    is_pointer,
    label_names,
    list_files,
    list_hub_files,
    read_config,
)
from milvus_rerank.models.model_type import ModelType, SavedSettings, model_type, read_settings
from milvus_rerank.models.modules import Head, read_head
from milvus_rerank.models.source import ModelSource, adapter_error, model_folder
from milvus_rerank.models.weights import WHOLE
from milvus_rerank.onnx_graphs.architectures import can_build, position_limit


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """Facts about a model, from its small files.

    :param source: the model's name, and how to download it.
    :param folder: the folder with its small files.
    :param is_local: whether all its files are in that folder; False for a model of the hub.
    :param files: the names of all its files, including files on the hub that are not downloaded.
    :param pointers: the names of files that are only Git LFS pointers; they are not among ``files``.
    :param config: its ``config.json``.
    :param tokenizer_config: its ``tokenizer_config.json``.
    :param settings: the settings that sentence-transformers saved with it.
    :param model_type: its type.
    :param labels: the names of its labels.
    :param has_chat_template: whether pairs go through a chat template, as sentence-transformers sends them.
    :param head: the head, if it consists of sentence-transformers' modules that a graph can hold; None for others.
    :param can_build: whether an ONNX graph can be built from its weights, without torch.
    :param position_limit: the most tokens that its position table allows; None if unknown before loading.
    """

    source: ModelSource
    folder: Path
    is_local: bool
    files: tuple[str, ...]
    pointers: tuple[str, ...]
    config: dict[str, Any]
    tokenizer_config: dict[str, Any]
    settings: SavedSettings
    model_type: ModelType
    labels: tuple[str, ...]
    has_chat_template: bool
    head: Head | None
    can_build: bool
    position_limit: int | None

    @property
    def is_bge(self) -> bool:
        """Tell whether it is a BGE reranker, by its files, or by the model catalogue if the files do not show it."""
        if self.model_type in ("layerwise", "lightweight"):
            return True
        card = find_card(self.source.name)
        return card is not None and card.function == "BGERerankFunction"

    @property
    def reranks(self) -> bool:
        """Tell whether its files or the model catalogue call it a reranker. Most language models' files do not."""
        if self.model_type in ("none", "layerwise", "lightweight", "library"):
            return self.model_type != "none"
        said = self.config.get("architectures") if self.model_type == "classifier" else self.settings.tokens
        return bool(said) or find_card(self.source.name) is not None

    def fetch(self, *patterns: str, show_progress: bool = False) -> Path:
        r"""Return a folder with more of the model's files, after downloading those that match glob patterns."""
        return fetch_folder(self.source, (*CONFIGS, *patterns), show_progress=show_progress)


def inspect_model(source: ModelSource, folder: Path | None = None, *, show_progress: bool = False) -> ModelInfo:
    """Inspect a model, after downloading its small files if they are missing.

    :param source: the model's name, and how to download it.
    :param folder: the folder with all its files; None finds it by the name.
    :param show_progress: show the hub client's progress bars.
    :returns: the facts about the model.
    :raises InputError: if the name is empty or not a string.
    :raises ModelError: if the model cannot be found, or one of its small files cannot be read.
    """
    listed = None
    folder = folder or model_folder(source.name)
    is_local = folder is not None
    if folder is None:
        folder = fetch_folder(source, CONFIGS, show_progress=show_progress)
        listed = list_hub_files(source)
    listed = list_files(folder) if listed is None else listed
    pointers = tuple(name for name in listed if is_local and is_pointer(folder / name))
    files = tuple(name for name in listed if name not in pointers)
    if not (folder / "config.json").exists() and "adapter_config.json" in files:
        raise adapter_error(source.name)
    config, settings = read_config(folder), read_settings(folder)
    tokenizer_config = read_config(folder, "tokenizer_config.json", optional=True)
    has_template = "chat_template" in tokenizer_config or (folder / "chat_template.jinja").is_file()
    has_weights = "model.safetensors" in files or "model.safetensors.index.json" in files
    try:
        kind = model_type(config, settings)
        limit, head = position_limit(config), _head(folder, files) if kind == "library" else None
        known = limit is not None if kind != "library" else head is not None and can_build(config, head)
        return ModelInfo(
            source=source,
            folder=folder,
            is_local=is_local,
            files=files,
            pointers=pointers,
            config=config,
            tokenizer_config=tokenizer_config,
            settings=settings,
            model_type=kind,
            labels=label_names(config),
            has_chat_template=has_template and (not settings.modules if settings.chat is None else settings.chat),
            head=head,
            # A graph that is built counts positions from the left.
            can_build=known and has_weights and (tokenizer_config.get("padding_side") or "right") == "right",
            position_limit=limit,
        )
    except (AttributeError, TypeError, ValueError) as error:
        raise ModelError(f"{folder / 'config.json'} cannot be read: {error}") from error


def _head(folder: Path, files: tuple[str, ...]) -> Head | None:
    """Return the head of a model of modules; None if its weights are in other files than safetensors."""
    head = read_head(folder)
    weights = [f"{module}/{WHOLE}" for module in head.folders] if head is not None else []
    return head if all(path in files or (folder / path).is_file() for path in weights) else None
