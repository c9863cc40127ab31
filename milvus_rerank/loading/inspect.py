"""Inspection of a model: its small files say what it is and which engines can run it. Reads no weights."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from milvus_rerank.errors import ModelError
from milvus_rerank.models.catalogue import find_card
from milvus_rerank.models.files import (
    CONFIGS,
    fetch_folder,
    has_plain_tokenizer,
    label_count,
    list_files,
    list_hub_files,
    read_config,
)
from milvus_rerank.models.model_type import ModelType, Settings, model_type, read_settings
from milvus_rerank.models.source import ModelSource, model_folder
from milvus_rerank.onnx_graphs.architectures import is_known, position_limit
from milvus_rerank.onnx_graphs.files import can_build


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """Facts about a model, from its small files.

    :param source: the model's name, and how to download it.
    :param folder: the folder with its small files.
    :param is_local: whether all its files are in that folder; False for a model of the hub.
    :param files: the names of all its files, including files on the hub that are not downloaded.
    :param config: its ``config.json``.
    :param settings: the settings that sentence-transformers saved with it.
    :param model_type: its type.
    :param labels: the names of its labels.
    :param has_chat_template: whether pairs go through a chat template, as sentence-transformers sends them.
    :param can_build: whether an ONNX graph can be built from its weights, without torch.
    :param position_limit: the most tokens that its position table allows; None if unknown before loading.
    """

    source: ModelSource
    folder: Path
    is_local: bool
    files: tuple[str, ...]
    config: dict[str, Any]
    settings: Settings
    model_type: ModelType
    labels: tuple[str, ...]
    has_chat_template: bool
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

    @property
    def has_plain_tokenizer(self) -> bool:
        """Tell whether its tokenizer runs without transformers. Reads ``tokenizer.json``, which can have megabytes."""
        return has_plain_tokenizer(self.folder)

    def fetch(self, *patterns: str, show_progress: bool = False) -> Path:
        r"""Return a folder with more of the model's files.

        :param \*patterns: the files to download, as globs such as ``model*.safetensors``.
        :param show_progress: show the hub client's progress bars.
        :returns: the folder.
        :raises ModelError: if the files cannot be downloaded.
        """
        if self.is_local:
            return self.folder
        return fetch_folder(self.source, (*CONFIGS, *patterns), show_progress=show_progress)


def inspect_model(source: ModelSource, *, show_progress: bool = False) -> ModelInfo:
    """Inspect a model, after downloading its small files if they are missing.

    :param source: the model's name, and how to download it.
    :param show_progress: show the hub client's progress bars.
    :returns: the facts about the model.
    :raises InputError: if the name is empty or not a string.
    :raises ModelError: if the model cannot be found, or one of its small files cannot be read.
    """
    folder = model_folder(source.name)
    if folder is not None:
        return inspect_folder(folder, source)
    folder = fetch_folder(source, CONFIGS, show_progress=show_progress)
    return inspect_folder(folder, source, is_local=False, files=list_hub_files(source))


def inspect_folder(
    folder: Path, source: ModelSource, *, is_local: bool = True, files: tuple[str, ...] | None = None
) -> ModelInfo:
    """Inspect a model whose small files are in a folder.

    :param folder: the folder.
    :param source: the model's name, and how to download it.
    :param is_local: whether all its files are in the folder.
    :param files: the names of all its files; None for the files in the folder.
    :returns: the facts about the model.
    :raises ModelError: if one of the small files cannot be read.
    """
    config, settings = read_config(folder), read_settings(folder)
    tokenizer = read_config(folder, "tokenizer_config.json", optional=True)
    files = list_files(folder) if files is None else files
    chat_template = "chat_template" in tokenizer or (folder / "chat_template.jinja").is_file()
    try:
        known = is_known(config)
        return ModelInfo(
            source=source,
            folder=folder,
            is_local=is_local,
            files=files,
            config=config,
            settings=settings,
            model_type=model_type(config, settings),
            labels=_labels(config),
            has_chat_template=chat_template and (not settings.modules if settings.chat is None else settings.chat),
            can_build=can_build(files, config, tokenizer.get("padding_side", "right")),
            position_limit=position_limit(config) if known else None,
        )
    except (AttributeError, TypeError, ValueError) as error:
        raise ModelError(f"{folder / 'config.json'} cannot be read: {error}") from error


def _labels(config: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the names of a classifier's labels, with transformers' names for labels that its config omits."""
    names = {int(number): str(name) for number, name in (config.get("id2label") or {}).items()}
    return tuple(names.get(number, f"LABEL_{number}") for number in range(label_count(config)))
