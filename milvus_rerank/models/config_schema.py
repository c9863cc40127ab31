"""Values that this package reads from a model's JSON files: their types and ranges. Other values may be anything."""

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from milvus_rerank.errors import ModelError

_MOST = 2**31 - 1  # of a size or a number of tokens

Rule = tuple[str, Callable[[Any], bool]]
"""The expected value, in words, and whether a value is one."""


def _is_int(value: Any, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and least <= value <= _MOST


def _each(value: Any, test: Callable[[Any], bool]) -> bool:
    return isinstance(value, list) and all(map(test, value))


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_number_name(value: Any) -> bool:
    return isinstance(value, str) and value.isascii() and value.isdigit() and int(value[:10]) <= _MOST


def _is_nested(value: Any) -> bool:
    return isinstance(value, (dict, list))


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _is_length(value: Any) -> bool:
    """Tell whether a value is a number of tokens: transformers writes 1e30 for "no limit"."""
    return _is_number(value) and value >= 8  # NaN is not


SIZE: Rule = ("a positive integer", lambda value: _is_int(value, 1))
INDEX: Rule = ("an integer of 0 or more", lambda value: _is_int(value, 0))
TEXT: Rule = ("a string", _is_text)
TEXTS: Rule = ("a list of strings", lambda value: _each(value, _is_text))
SWITCH: Rule = ("true or false", lambda value: isinstance(value, bool))
MAPPING: Rule = ("an object", lambda value: isinstance(value, dict))
SIDE: Rule = ("'left' or 'right'", lambda value: value in ("left", "right"))
LENGTH: Rule = ("a number of tokens, at least 8", _is_length)
EPSILON: Rule = ("a number between 0 and 1", lambda value: isinstance(value, float) and 0 < value < 1)
NUMBER: Rule = ("a positive number", lambda value: _is_number(value) and value > 0)
FRACTION: Rule = ("a number from 0 to 1", lambda value: _is_number(value) and 0 <= value <= 1)
TOKEN: Rule = (
    "a string, or an object with 'content'",
    lambda value: _is_text(value.get("content") if isinstance(value, dict) else value),
)
LABELS: Rule = (
    "an object from numbers to names",
    lambda value: (
        isinstance(value, dict) and all(map(_is_number_name, value)) and not any(map(_is_nested, value.values()))
    ),
)
PROMPTS: Rule = (
    "an object from names to strings",
    lambda value: isinstance(value, dict) and all(text is None or isinstance(text, str) for text in value.values()),
)

SCHEMAS: Mapping[str, Mapping[str, Rule]] = {
    "config.json": {
        "architectures": TEXTS,
        "model_type": TEXT,
        "id2label": LABELS,
        "num_labels": ("a number of labels, at most 100000", lambda value: _is_int(value, 1) and value <= 100_000),
        "hidden_size": SIZE,
        "dim": SIZE,
        "hidden_dim": SIZE,
        "intermediate_size": SIZE,
        "embedding_size": SIZE,
        "num_hidden_layers": SIZE,
        "n_layers": SIZE,
        "num_attention_heads": SIZE,
        "n_heads": SIZE,
        "max_position_embeddings": SIZE,
        "vocab_size": SIZE,
        "type_vocab_size": INDEX,
        "layer_norm_eps": EPSILON,
        **dict.fromkeys(
            (
                "attention_dropout",
                "attention_probs_dropout_prob",
                "classifier_dropout",
                "dropout",
                "hidden_dropout_prob",
                "seq_classif_dropout",
            ),
            FRACTION,
        ),
        "hidden_act": TEXT,
        "activation": TEXT,
        "position_embedding_type": TEXT,
        "pad_token_id": ("an integer of -1 or more", lambda value: _is_int(value, -1)),
        "sentence_transformers": MAPPING,
        "sbert_ce_default_activation_function": TEXT,
        "quantization_config": MAPPING,
        "head_dim": SIZE,
        "num_key_value_heads": SIZE,
        "start_layer": INDEX,
        "layer_sep": SIZE,
        "rms_norm_eps": EPSILON,
        "rope_theta": NUMBER,
        "scale_emb": NUMBER,
        "scale_depth": NUMBER,
    },
    "tokenizer_config.json": {
        "tokenizer_class": TEXT,
        "padding_side": SIDE,
        "truncation_side": SIDE,
        "model_max_length": LENGTH,
        "model_input_names": TEXTS,
        "pad_token": TOKEN,
        "pad_token_type_id": INDEX,
        "do_lower_case": SWITCH,
        "strip_accents": SWITCH,
        "tokenize_chinese_chars": SWITCH,
    },
    "config_sentence_transformers.json": {
        "activation_fn": TEXT,
        "prompts": PROMPTS,
        "default_prompt_name": TEXT,
        "model_type": TEXT,
    },
    "sentence_bert_config.json": {"modality_config": MAPPING, "processing_kwargs": MAPPING, "max_seq_length": LENGTH},
}
"""Rules by file and key. A value of null is that of an absent key."""


def check_values(path: Path, values: Mapping[str, Any]) -> None:
    """Raise if a value of one of a model's JSON files cannot be meant.

    :param path: the file.
    :param values: its values.
    :raises ModelError: with the file, the key, the value and what is expected.
    """
    for key, (expected, test) in SCHEMAS.get(path.name, {}).items():
        value = values.get(key)
        if value is not None and not test(value):
            raise ModelError(f"{path}: {key!r} must be {expected}, got {_shown(value)}")


def _shown(value: Any) -> str:
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
