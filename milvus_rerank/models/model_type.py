"""Model types, and the settings of sentence-transformers beside a model. Imports nothing heavy, reads no weights."""

import inspect
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from milvus_rerank.errors import ModelError
from milvus_rerank.models.files import read_config

ModelType = Literal["classifier", "causal", "layerwise", "lightweight", "library", "none"]
"""A sequence classifier; a language model whose next token says yes or no; BGE's two with score heads on layers; a
cross-encoder that only sentence-transformers can assemble; and a model that does not rerank."""

_PLAIN = {"Transformer", "LogitScore"}


@dataclass(frozen=True, slots=True)
class Settings:
    """What sentence-transformers wrote beside a model.

    :param activation: the class that makes scores of logits, such as ``torch.nn.modules.activation.Sigmoid``.
    :param prompt: what to put before a query, or to tell a language model; None for nothing.
    :param tokens: the tokens that say yes and no, for a language model; the second may be None.
    :param plain: whether the model is made of nothing but a transformer, and perhaps the choice of those tokens.
    :param cross_encoder: whether it says that it is a cross-encoder.
    :param modules: whether it was saved by sentence-transformers at all.
    :param chat: whether pairs go through the chat template; None if nothing says so.
    :param in_parts: whether the template wants contents as lists of parts; None if nothing says so.
    :param chat_options: more arguments of the template.
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
    """Return the argument of a language model's forward pass that takes the keys and values of earlier tokens.

    transformers 5.24 renamed it from ``past_key_values`` to ``cache``. The output's field has the argument's name.

    :param forward: the forward method of a model or of its body.
    :returns: the name; None if it takes none.
    """
    names = inspect.signature(forward).parameters
    return next((name for name in ("cache", "past_key_values") if name in names), None)


def read_settings(folder: Path) -> Settings:
    """Read the settings that sentence-transformers wrote beside a model.

    :param folder: the model's folder.
    :returns: the settings; defaults without such files.
    :raises ModelError: if a file cannot be read.
    """
    settings = read_config(folder, "config_sentence_transformers.json", optional=True)
    prompts = settings.get("prompts") or {}
    modules = _read_modules(folder / "modules.json") if (folder / "modules.json").is_file() else []
    body = read_config(folder, "sentence_bert_config.json", optional=True)
    kinds = body.get("modality_config")
    form = ((kinds or {}).get("message") or {}).get("format")
    options = dict((body.get("processing_kwargs") or {}).get("chat_template") or {})
    options.pop("restore_suffix", None)  # sentence-transformers' own: here it is always restored
    tokens = None
    for module in modules:
        if str(module.get("type", "")).endswith("LogitScore"):
            answers = read_config(folder, f"{module.get('path', '')}/config.json", optional=True)
            if answers.get("true_token_id") is not None:
                tokens = int(answers["true_token_id"]), answers.get("false_token_id")
    return Settings(
        activation=settings.get("activation_fn"),
        prompt=prompts.get(settings.get("default_prompt_name")) or None,
        tokens=tokens,
        cross_encoder=settings.get("model_type") == "CrossEncoder",
        modules=bool(modules),
        chat=None if kinds is None else "message" in kinds,
        in_parts=None if form not in ("structured", "flat") else form == "structured",
        chat_options=options,
        plain=all(str(module.get("type", "")).rpartition(".")[2] in _PLAIN for module in modules),
    )


def model_type(config: Mapping[str, Any], settings: Settings) -> ModelType:
    """Return the type of a model.

    :param config: its ``config.json``.
    :param settings: what sentence-transformers wrote beside it.
    :returns: its type; ``classifier`` where its config does not say.
    """
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


def _read_modules(path: Path) -> list[dict[str, Any]]:
    """Return the modules of ``modules.json``, the one file that holds a list."""
    try:
        return [dict(module) for module in json.loads(path.read_text(encoding="utf-8"))]
    except (OSError, ValueError, TypeError) as error:
        raise ModelError(f"{path} cannot be read: {error}") from error
