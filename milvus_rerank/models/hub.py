"""Loading of tokenizers and models by transformers."""

import contextlib
import pickle
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import transformers
from safetensors import SafetensorError
from transformers.utils import logging as transformers_logging

from milvus_rerank.errors import ModelError
from milvus_rerank.models.files import check_not_quantised
from milvus_rerank.models.source import ModelSource, model_folder, not_loaded

# Errors that transformers raises for files that are absent, truncated or of another format.
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
    """Model with its tokenizer, in memory.

    :param tokenizer: a transformers tokenizer.
    :param model: a torch module on the CPU.
    :param config: the model's ``config.json`` as a dict.
    :param max_length: the most tokens of a pair by default.
    :param position_limit: the most tokens that the position table allows; None without such a table.
    """

    tokenizer: Any
    model: Any
    config: dict[str, Any]
    max_length: int
    position_limit: int | None


def load_model(source: ModelSource, *, show_progress: bool = False) -> LoadedModel:
    """Load a sequence classification model.

    :param source: the model, and whether the network may be used.
    :param show_progress: show transformers' and the hub's progress bars.
    :returns: the model in float32 on the CPU, with its tokenizer.
    :raises ModelError: if the model cannot be found or read, or is not a trained classifier.
    """
    where, options = _where(source)
    with _bars(show_progress), explained(source):
        config = transformers.AutoConfig.from_pretrained(where, **options)
        tokenizer = transformers.AutoTokenizer.from_pretrained(where, **options)
        model, info = transformers.AutoModelForSequenceClassification.from_pretrained(
            where, config=config, dtype="float32", output_loading_info=True, **options
        )
    _check_trained(source, model, info)
    if model.config.pad_token_id is None:  # a language model looks for the last token of a row that is not padding
        model.config.pad_token_id = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else 0
    limit = _position_limit(model)
    lengths = (tokenizer.model_max_length, getattr(config, "max_position_embeddings", None), limit)
    max_length = min(length for length in lengths if length is not None and length > 0)
    return LoadedModel(tokenizer, model, config.to_dict(), int(max_length), limit)


def load_causal(source: ModelSource, dtype: str, *, show_progress: bool = False) -> LoadedModel:
    """Load a causal language model.

    :param source: the model, and whether the network may be used.
    :param dtype: the precision of its weights in memory.
    :param show_progress: show transformers' and the hub's progress bars.
    :returns: the model on the CPU, with its tokenizer.
    :raises ModelError: if the model or its tokenizer cannot be found or read.
    """
    where, options = _where(source)
    with _bars(show_progress), explained(source):
        config = transformers.AutoConfig.from_pretrained(where, **options)
        tokenizer = transformers.AutoTokenizer.from_pretrained(where, **options)
        model, info = transformers.AutoModelForCausalLM.from_pretrained(
            where, config=config, dtype=dtype, output_loading_info=True, **options
        )
    _check_trained(source, model, info)
    return _language_model(tokenizer, model, config.to_dict())


def load_layerwise(
    source: ModelSource, dtype: str, config: dict[str, Any], layer: int | None, *, show_progress: bool = False
) -> LoadedModel:
    """Load a layerwise MiniCPM up to the layer whose score head is read.

    :param source: the model, and whether the network may be used.
    :param dtype: the precision of its weights in memory.
    :param config: its ``config.json``.
    :param layer: the layer; None for the last.
    :param show_progress: show transformers' and the hub's progress bars.
    :returns: the model on the CPU, with its tokenizer.
    :raises ModelError: if the model cannot be found or read, or that layer has no head.
    """
    from milvus_rerank.models.bge_llm import LayerwiseModel, layerwise_config

    loaded = _load_stock(source, dtype, config, LayerwiseModel, layerwise_config(config, layer), show_progress)
    loaded.model.fold()
    return loaded


def load_lightweight(
    source: ModelSource,
    dtype: str,
    config: dict[str, Any],
    layer: int | None,
    compress_layers: tuple[int, ...],
    compress_ratio: int,
    *,
    show_progress: bool = False,
) -> LoadedModel:
    """Load a lightweight Gemma 2 up to the layer whose states are scored.

    :param source: the model, and whether the network may be used.
    :param dtype: the precision of its weights in memory.
    :param config: its ``config.json``.
    :param layer: the layer; None for the last.
    :param compress_layers: the layers before which document tokens are merged.
    :param compress_ratio: the number of tokens merged into one.
    :param show_progress: show transformers' and the hub's progress bars.
    :returns: the model on the CPU, with its tokenizer.
    :raises ModelError: if the model cannot be found or read, or that layer has no head.
    """
    from milvus_rerank.models.bge_llm import LightweightModel, lightweight_config

    stock = lightweight_config(config, layer, compress_layers, compress_ratio)
    return _load_stock(source, dtype, config, LightweightModel, stock, show_progress)


def _load_stock(
    source: ModelSource, dtype: str, config: dict[str, Any], model_class: Any, stock: Any, show_progress: bool
) -> LoadedModel:
    """Load weights into a class of this package. The code of the model's repository does not run."""
    where, options = _where(source)
    with _bars(show_progress), explained(source), _quiet():
        # The tokenizer follows the stock configuration: transformers does not know the repository's configuration.
        tokenizer = transformers.AutoTokenizer.from_pretrained(where, config=stock, **options)
        model, info = model_class.from_pretrained(where, config=stock, dtype=dtype, output_loading_info=True, **options)
    _check_trained(source, model, info)
    return _language_model(tokenizer, model, config)


def _language_model(tokenizer: Any, model: Any, config: dict[str, Any]) -> LoadedModel:
    lengths = (tokenizer.model_max_length, config.get("max_position_embeddings"))
    return LoadedModel(tokenizer, model, config, int(min(length for length in lengths if length)), None)


def _check_trained(source: ModelSource, model: Any, info: dict[str, Any]) -> None:
    check_not_quantised(source.name, {"quantization_config": getattr(model.config, "quantization_config", None)})
    missing = sorted(info["missing_keys"])
    if missing:
        raise ModelError(
            f"model {source.name!r} is not a trained reranker: its weights lack {', '.join(missing[:4])}. "
            "Is it an embedding model? Use a cross-encoder such as 'builtin/rerank'"
        )


def load_tokenizer(source: ModelSource) -> Any:
    """Load a model's tokenizer.

    :param source: the model, and whether the network may be used.
    :returns: a transformers tokenizer.
    :raises ModelError: if the model or its tokenizer cannot be found or read.
    """
    where, options = _where(source)
    with explained(source):
        return transformers.AutoTokenizer.from_pretrained(where, **options)


def _where(source: ModelSource) -> tuple[str, dict[str, Any]]:
    """Return the arguments of transformers' ``from_pretrained``."""
    folder = model_folder(source.name)
    return str(folder) if folder else source.name, {
        "revision": source.revision or "main",
        "cache_dir": source.cache_dir,
        "local_files_only": source.local_files_only or folder is not None,
        "trust_remote_code": source.trust_remote_code,
    }


def _position_limit(model: Any) -> int | None:
    """Return the number of usable rows in the position table: RoBERTa's first ``padding_idx + 1`` rows do not count."""
    for path, module in model.named_modules():
        if path.endswith("position_embeddings") and hasattr(module, "num_embeddings"):
            padding = module.padding_idx
            return int(module.num_embeddings) - (0 if padding is None else padding + 1)
    return None


@contextlib.contextmanager
def _bars(show: bool) -> Iterator[None]:
    """Show or hide transformers' progress bars while a model loads, then restore the setting."""
    was = transformers_logging.is_progress_bar_enabled()
    (transformers_logging.enable_progress_bar if show else transformers_logging.disable_progress_bar)()
    try:
        yield
    finally:
        (transformers_logging.enable_progress_bar if was else transformers_logging.disable_progress_bar)()


@contextlib.contextmanager
def explained(source: ModelSource) -> Iterator[None]:
    """Turn the errors of transformers and the hub into one error that says what to do.

    :param source: the model to load.
    :yields: nothing.
    :raises ModelError: for their errors.
    """
    try:
        yield
    except ModelError:
        raise
    except _UNREADABLE as error:
        raise not_loaded(source, error) from error
    except Exception as error:
        if type(error) is not Exception:  # the tokenizers library, written in Rust, raises bare Exceptions
            raise
        raise not_loaded(source, error) from error


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence transformers' reports of weights skipped on purpose: those of the layers after the last used layer."""
    was = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(was)
