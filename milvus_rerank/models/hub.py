"""Loading of tokenizers and models. The only module that imports transformers."""

import contextlib
import pickle
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import transformers
from safetensors import SafetensorError
from transformers.utils import logging as transformers_logging

from milvus_rerank.errors import ModelError
from milvus_rerank.models.files import check_reranker
from milvus_rerank.models.names import ModelSource, model_folder, not_loaded

# What transformers raises for files that are absent, cut short or of another format.
_UNREADABLE = (
    OSError,
    ValueError,
    TypeError,
    KeyError,
    ImportError,
    RuntimeError,
    SafetensorError,
    pickle.UnpicklingError,
)


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A classification model with its tokenizer, in memory.

    :param tokenizer: a transformers tokenizer.
    :param model: a torch module with one label, float32 on the CPU.
    :param config: the model's ``config.json`` as a dict.
    :param max_length: the tokens a pair may have by default.
    :param position_limit: the tokens a pair can have at all; None if positions are not counted in a table.
    """

    tokenizer: Any
    model: Any
    config: dict[str, Any]
    max_length: int
    position_limit: int | None


def load_model(source: ModelSource, *, show_progress: bool = False) -> LoadedModel:
    """Load a sequence classification model with one label.

    :param source: which model, and whether the network may be asked.
    :param show_progress: show transformers' and the hub's progress bars.
    :returns: the model in float32 on the CPU, with its tokenizer.
    :raises ModelError: if it cannot be found or read, is of another kind, or has other than one label.
    """
    where, options = _where(source)
    with _bars(show_progress), _explained(source):
        config = transformers.AutoConfig.from_pretrained(where, **options)
        check_reranker(source.name, config.to_dict())
        tokenizer = transformers.AutoTokenizer.from_pretrained(where, **options)
        model, info = transformers.AutoModelForSequenceClassification.from_pretrained(
            where, config=config, dtype="float32", output_loading_info=True, **options
        )
    missing = sorted(info["missing_keys"])
    if missing:
        raise ModelError(
            f"model {source.name!r} is not a trained reranker: its weights lack {', '.join(missing[:4])}. "
            "Is it an embedding model? Use a cross-encoder such as 'builtin/rerank'"
        )
    limit = _position_limit(model)
    lengths = (tokenizer.model_max_length, getattr(config, "max_position_embeddings", None), limit)
    max_length = min(length for length in lengths if length is not None and length > 0)
    return LoadedModel(tokenizer, model, config.to_dict(), int(max_length), limit)


def load_tokenizer(source: ModelSource) -> Any:
    """Load a model's tokenizer.

    :param source: which model, and whether the network may be asked.
    :returns: a transformers tokenizer.
    :raises ModelError: if it cannot be found or read.
    """
    where, options = _where(source)
    with _explained(source):
        return transformers.AutoTokenizer.from_pretrained(where, **options)


def _where(source: ModelSource) -> tuple[str, dict[str, Any]]:
    """Return what transformers' ``from_pretrained`` is to be told."""
    folder = model_folder(source.name)
    return str(folder) if folder else source.name, {
        "revision": source.revision or "main",
        "cache_dir": source.cache_dir,
        "local_files_only": source.local_files_only or folder is not None,
        "trust_remote_code": source.trust_remote_code,
    }


def _position_limit(model: Any) -> int | None:
    """Return how many positions the model's table holds; RoBERTa's family keeps its first ``padding_idx + 1`` free."""
    for path, module in model.named_modules():
        if path.endswith("position_embeddings") and hasattr(module, "num_embeddings"):
            padding = module.padding_idx
            return int(module.num_embeddings) - (0 if padding is None else padding + 1)
    return None


@contextlib.contextmanager
def _bars(show: bool) -> Iterator[None]:
    """Show or hide transformers' progress bars while a model loads, then put the setting back."""
    was = transformers_logging.is_progress_bar_enabled()
    (transformers_logging.enable_progress_bar if show else transformers_logging.disable_progress_bar)()
    try:
        yield
    finally:
        (transformers_logging.enable_progress_bar if was else transformers_logging.disable_progress_bar)()


@contextlib.contextmanager
def _explained(source: ModelSource) -> Iterator[None]:
    """Turn what transformers and the hub raise into one error that says what to do."""
    try:
        yield
    except ModelError:
        raise
    except _UNREADABLE as error:
        raise not_loaded(source, error) from error
