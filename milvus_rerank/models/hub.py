"""Loading of tokenizers and models by transformers."""

import contextlib
import logging
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import transformers
from transformers.utils import logging as transformers_logging

from milvus_rerank.errors import ModelError, RerankError
from milvus_rerank.models.source import ModelSource, not_loaded
from milvus_rerank.models.weights import check_not_quantised

logger = logging.getLogger(__name__)

_LAYER = re.compile(r"\b(layers?|h|block)\.\d+\.")


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """Model with its tokenizer, in memory.

    :param tokenizer: a transformers tokenizer.
    :param model: a torch module on the CPU.
    :param config: the model's configuration as a dict.
    :param max_length: the most tokens of a pair by default.
    :param position_limit: the most tokens that the position table allows; None without such a table.
    """

    tokenizer: Any
    model: Any
    config: dict[str, Any]
    max_length: int
    position_limit: int | None


def load_model(
    source: ModelSource,
    folder: Path,
    dtype: str = "float32",
    *,
    causal: bool = False,
    stock: tuple[Any, Any] | None = None,
    show_progress: bool = False,
) -> LoadedModel:
    """Load a model with its tokenizer.

    :param source: the model, and whether its own code may run.
    :param folder: the folder with its files: transformers itself would ask the hub again, and try for half a minute
        where there is none.
    :param dtype: the precision of its weights in memory.
    :param causal: whether it is a causal language model; otherwise it is a sequence classifier.
    :param stock: a class of this package with its configuration, for weights whose own code does not run.
    :param show_progress: show transformers' and the hub's progress bars.
    :returns: the model on the CPU.
    :raises ModelError: if the model cannot be found or read, or lacks trained weights.
    """
    where, options = _where(source, folder)
    auto = transformers.AutoModelForCausalLM if causal else transformers.AutoModelForSequenceClassification
    with reports(show_progress, quiet=stock is not None), explained(source):
        if stock is None:
            model_class, config = auto, transformers.AutoConfig.from_pretrained(where, **options)
            tokenizer = transformers.AutoTokenizer.from_pretrained(where, **options)
        else:
            model_class, config = stock  # transformers does not know the configuration in the model's repository
            tokenizer = transformers.AutoTokenizer.from_pretrained(where, config=config, **options)
        model, info = model_class.from_pretrained(
            where, config=config, dtype=dtype, output_loading_info=True, **options
        )
    check_not_quantised(source.name, {"quantization_config": getattr(model.config, "quantization_config", None)})
    unexpected = [name for name in sorted(info["unexpected_keys"]) if stock is None and _LAYER.search(name)]
    if unexpected and not info["missing_keys"]:
        raise ModelError(
            f"model {source.name!r} does not fit together: config.json has no place for the weight {unexpected[0]}; "
            "download or save the model again"
        )
    missing = sorted(info["missing_keys"])
    if missing:
        raise ModelError(
            f"model {source.name!r} is not a trained reranker: its weights lack {', '.join(missing[:4])}. "
            "Is it an embedding model? Use a cross-encoder such as 'builtin/rerank'"
        )
    if model.config.pad_token_id is None:  # a language model looks for the last token of a row that is not padding
        model.config.pad_token_id = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else 0
    limit = _position_limit(model)
    lengths = (tokenizer.model_max_length, getattr(config, "max_position_embeddings", None), limit)
    max_length = min(length for length in lengths if length is not None and length > 0)
    return LoadedModel(tokenizer, model, config.to_dict(), int(max_length), limit)


def load_tokenizer(source: ModelSource, folder: Path) -> Any:
    """Return the transformers tokenizer of a model whose files are in a folder."""
    where, options = _where(source, folder)
    with explained(source):
        return transformers.AutoTokenizer.from_pretrained(where, **options)


def _where(source: ModelSource, folder: Path) -> tuple[str, dict[str, Any]]:
    """Return the arguments of transformers' ``from_pretrained``."""
    return str(folder), {"local_files_only": True, "trust_remote_code": source.trust_remote_code}


def _position_limit(model: Any) -> int | None:
    """Return the number of usable rows in the position table: RoBERTa's first ``padding_idx + 1`` rows do not count."""
    for path, module in model.named_modules():
        if path.endswith("position_embeddings") and hasattr(module, "num_embeddings"):
            padding = module.padding_idx
            return int(module.num_embeddings) - (0 if padding is None else padding + 1)
    return None


@contextlib.contextmanager
def explained(source: ModelSource) -> Iterator[None]:
    """Turn the errors of transformers and the hub into one :class:`ModelError` that says what to do."""
    try:
        yield
    except RerankError:
        raise
    except Exception as error:  # transformers fails in many ways on files that are damaged or of other formats
        logger.debug("model %s cannot be loaded", source.name, exc_info=True)
        raise not_loaded(source, error) from None


@contextlib.contextmanager
def reports(show_progress: bool, *, quiet: bool) -> Iterator[None]:
    """Set transformers' progress bars, and silence its reports of weights that are skipped on purpose, for a while."""
    bars, verbosity = transformers_logging.is_progress_bar_enabled(), transformers_logging.get_verbosity()
    (transformers_logging.enable_progress_bar if show_progress else transformers_logging.disable_progress_bar)()
    if quiet:
        transformers_logging.set_verbosity_error()
    try:
        yield
    finally:
        (transformers_logging.enable_progress_bar if bars else transformers_logging.disable_progress_bar)()
        transformers_logging.set_verbosity(verbosity)
