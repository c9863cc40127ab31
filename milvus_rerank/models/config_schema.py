"""Values that this package reads from a model's JSON files: their types and ranges. Other values may be anything."""

import math
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

_MOST = 2**31 - 1  # of a size or a number of tokens
_ABOVE_0, _BELOW_1 = math.ulp(0.0), math.nextafter(1.0, 0.0)  # the nearest floats


class Rule(NamedTuple):
    """The values that a key may have.

    :param expected: these values, in words.
    :param types: their types. A bool is a number only if bool is among them.
    :param least: the least number.
    :param most: the largest number.
    :param pattern: a regular expression for a string, or for the names in an object.
    :param items: the rule for each item of a list, or each value of an object.
    :param key: the key whose value counts if an object stands in place of the value.
    """

    expected: str
    types: tuple[type, ...]
    least: float = -math.inf
    most: float = math.inf
    pattern: str = ""
    items: "Rule | None" = None
    key: str = ""

    def accepts(self, value: Any) -> bool:
        """Tell whether a value follows the rule."""
        if self.key and isinstance(value, dict):
            value = value.get(self.key)
        if isinstance(value, bool) or not isinstance(value, self.types):
            return isinstance(value, bool) and bool in self.types
        if isinstance(value, (int, float)):
            return self.least <= value <= self.most  # False for NaN
        names = [value] if isinstance(value, str) else value if isinstance(value, dict) else ()
        if self.pattern and not all(re.fullmatch(self.pattern, name) for name in names):
            return False
        items = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
        return self.items is None or all(map(self.items.accepts, items))


SIZE = Rule("a positive integer", (int,), 1, _MOST)
INDEX = Rule("an integer of 0 or more", (int,), 0, _MOST)
INTEGER = Rule("an integer", (int,), -_MOST, _MOST)
TEXT = Rule("a string", (str,))
TEXTS = Rule("a list of strings", (list,), items=TEXT)
SWITCH = Rule("true or false", (bool,))
MAPPING = Rule("an object", (dict,))
SIDE = Rule("'left' or 'right'", (str,), pattern="left|right")
LENGTH = Rule("a number of tokens, at least 8", (int, float), 8)  # transformers writes 1e30 for "no limit"
EPSILON = Rule("a number between 0 and 1", (float,), _ABOVE_0, _BELOW_1)
NUMBER = Rule("a positive number", (int, float), _ABOVE_0)
FRACTION = Rule("a number from 0 to 1", (int, float), 0, 1)
TOKEN = Rule("a string, or an object with 'content'", (str,), key="content")
_NAME = Rule("a name", (str, int, float, bool, type(None)))
LABELS = Rule("an object from numbers to names", (dict,), pattern="[0-9]{1,9}", items=_NAME)
PROMPTS = Rule("an object from names to strings", (dict,), items=Rule("a string", (str, type(None))))

SCHEMAS: Mapping[str, Mapping[str, Rule]] = {
    "config.json": {
        "architectures": TEXTS,
        "model_type": TEXT,
        "id2label": LABELS,
        "num_labels": Rule("a number of labels, at most 100000", (int,), 1, 100_000),
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
        "norm_eps": EPSILON,
        "global_attn_every_n_layers": SIZE,
        **dict.fromkeys(("local_attention", "position_buckets", "max_relative_positions"), INTEGER),
        **dict.fromkeys(("relative_attention_num_buckets", "num_hidden_groups", "inner_group_num"), SIZE),
        **dict.fromkeys(("conv_kernel_size", "pooler_hidden_size", "attention_head_size"), INDEX),
        **dict.fromkeys(("relative_attention", "position_biased_input", "share_att_key"), SWITCH),
        **dict.fromkeys(("norm_rel_ebd", "pooler_hidden_act"), TEXT),
        "pos_att_type": Rule("a string or a list of strings", (str, list), items=TEXT),
        "layer_types": TEXTS,
        "rope_parameters": MAPPING,
        "global_rope_theta": NUMBER,
        "local_rope_theta": NUMBER,
        "classifier_pooling": TEXT,
        **dict.fromkeys(("norm_bias", "attention_bias", "mlp_bias", "classifier_bias"), SWITCH),
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
        "hidden_activation": TEXT,
        "classifier_activation": TEXT,
        "position_embedding_type": TEXT,
        "pad_token_id": Rule("an integer of -1 or more", (int,), -1, _MOST),
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


def shown(value: Any) -> str:
    """Return the beginning of a JSON value, for an error."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
