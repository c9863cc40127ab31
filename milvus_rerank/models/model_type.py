"""Model types, and the settings that sentence-transformers saves with a model. Reads no weights, imports quickly."""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from milvus_rerank.errors import ModelError
from milvus_rerank.models.files import read_config, read_json

ModelType = Literal["classifier", "causal", "layerwise", "lightweight", "library", "none"]
"""Types of model, in this order: a sequence classifier; a language model whose next token says yes or no; BGE's two
types with score heads on layers; a cross-encoder that only sentence-transformers can assemble; a model that does not
rerank."""

_PLAIN = {"Transformer", "LogitScore"}


@dataclass(frozen=True, slots=True)
class SavedSettings:
    """Settings that sentence-transformers saves with a model.

    :param activation: the class that turns logits into scores, such as ``torch.nn.modules.activation.Sigmoid``.
    :param prompt: the text before a query, or the instruction for a language model; None for neither.
    :param tokens: the tokens that mean yes and no, for a language model; the second may be None.
    :param plain: whether the model consists only of a transformer, and optionally the choice of those tokens.
    :param cross_encoder: whether the settings call it a cross-encoder.
    :param modules: whether sentence-transformers saved the model.
    :param chat: whether pairs go through the chat template; None if the files do not say.
    :param in_parts: whether the template expects contents as lists of parts; None if the files do not say.
    :param chat_options: further arguments of the template.
    """

    activation: str | None = None
    prompt: str | None = None
    tokens: tuple[int, int | None] | None = None
    plain: bool = True
    cross_encoder: bool = False
    modules: bool = False
    chat: bool | None = None
    in_parts: bool | None = None
    chat_options: Mapping[str, Any] = field(default_factory=dict, hash=False)


def cache_argument(forward: Callable[..., Any]) -> str | None:
    """Return the argument of a forward pass that takes the keys and values of earlier tokens; None without one.

    transformers 5.24 renamed it from ``past_key_values`` to ``cache``. The output's field has the argument's name.
    """
    names = inspect.signature(forward).parameters
    return next((name for name in ("cache", "past_key_values") if name in names), None)


def read_settings(folder: Path) -> SavedSettings:
    """Return the settings that sentence-transformers saved with a model; defaults if its files do not exist."""
    settings = read_config(folder, "config_sentence_transformers.json", optional=True)
    body = read_config(folder, "sentence_bert_config.json", optional=True)
    try:
        modules = []
        if (path := folder / "modules.json").is_file():  # the only file that holds a list
            modules = [dict(module) for module in read_json(path)]
        kinds = body.get("modality_config")
        form = ((kinds or {}).get("message") or {}).get("format")
        options = dict((body.get("processing_kwargs") or {}).get("chat_template") or {})
        options.pop("restore_suffix", None)  # sentence-transformers only: it is always restored here
        tokens = None
        for module in modules:
            if str(module.get("type", "")).endswith("LogitScore"):
                answers = read_config(folder, f"{module.get('path', '')}/config.json", optional=True)
                if answers.get("true_token_id") is not None:
                    tokens = int(answers["true_token_id"]), answers.get("false_token_id")
        return SavedSettings(
            activation=settings.get("activation_fn"),
            prompt=(settings.get("prompts") or {}).get(settings.get("default_prompt_name")) or None,
            tokens=tokens,
            cross_encoder=settings.get("model_type") == "CrossEncoder",
            modules=bool(modules),
            chat=None if kinds is None else "message" in kinds,
            in_parts=None if form not in ("structured", "flat") else form == "structured",
            chat_options=options,
            plain=all(str(module.get("type", "")).rpartition(".")[2] in _PLAIN for module in modules),
        )
    except (AttributeError, TypeError, ValueError) as error:
        files = "modules.json, sentence_bert_config.json or config_sentence_transformers.json"
        raise ModelError(f"{files} in {folder} cannot be read: {error}") from error


def model_type(config: Mapping[str, Any], settings: SavedSettings) -> ModelType:
    """Return the type of a model; ``classifier`` if its ``config.json`` does not say."""
    if not settings.plain:
        return "library" if settings.cross_encoder else "none"
    names = [str(name) for name in config.get("architectures") or []]
    if config.get("model_type") == "cost_wise_gemma" or any(name.startswith("CostWise") for name in names):
        return "lightweight"
    if any(name.startswith("LayerWise") for name in names):
        return "layerwise"
    if not names or any("ForSequenceClassification" in name for name in names):
        return "classifier"
    return "causal" if any(name.endswith("ForCausalLM") for name in names) else "none"
