"""BERT's family: its models and the names of their weights. Imports quickly."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Layout:
    """Names of an architecture's weights, with ``{}`` for the layer's number.

    :param body: the prefix of the encoder.
    :param layer: the prefix of one layer.
    :param names: the weights of a layer: query, key, value, attention output and its norm, both halves of the
        feed-forward part and its norm.
    :param head: the dense layer and the projection after it.
    :param head_activation: the ONNX operator between the two.
    """

    body: str
    layer: str
    names: tuple[str, str, str, str, str, str, str, str]
    head: tuple[str, str]
    head_activation: str


_BERT = (
    "attention.self.query",
    "attention.self.key",
    "attention.self.value",
    "attention.output.dense",
    "attention.output.LayerNorm",
    "intermediate.dense",
    "output.dense",
    "output.LayerNorm",
)
_DISTIL = (
    "attention.q_lin",
    "attention.k_lin",
    "attention.v_lin",
    "attention.out_lin",
    "sa_layer_norm",
    "ffn.lin1",
    "ffn.lin2",
    "output_layer_norm",
)
_ROBERTA_HEAD = ("classifier.dense", "classifier.out_proj")
LAYOUTS = {
    "bert": Layout("bert.", "encoder.layer.{}.", _BERT, ("bert.pooler.dense", "classifier"), "Tanh"),
    "roberta": Layout("roberta.", "encoder.layer.{}.", _BERT, _ROBERTA_HEAD, "Tanh"),
    "xlm-roberta": Layout("roberta.", "encoder.layer.{}.", _BERT, _ROBERTA_HEAD, "Tanh"),
    "camembert": Layout("roberta.", "encoder.layer.{}.", _BERT, _ROBERTA_HEAD, "Tanh"),
    "electra": Layout("electra.", "encoder.layer.{}.", _BERT, _ROBERTA_HEAD, "Gelu"),
    "distilbert": Layout("distilbert.", "transformer.layer.{}.", _DISTIL, ("pre_classifier", "classifier"), "Relu"),
}
ACTIVATIONS = {"gelu": "Gelu", "relu": "Relu"}
SIZES = (("hidden_size", "dim"), ("num_hidden_layers", "n_layers"), ("num_attention_heads", "n_heads"))


def position_limit(config: Mapping[str, Any]) -> int | None:
    """Return the most tokens that a model's position table allows.

    :param config: the model's ``config.json``.
    :returns: the rows of the table, without those that RoBERTa's family leaves unused at its beginning; None if
        :func:`~milvus_rerank.onnx_graphs.build_bert.build` cannot build a graph of the model.
    """
    known = (
        config.get("model_type") in LAYOUTS
        and all(any(config.get(name) for name in names) for names in [*SIZES, ("max_position_embeddings",)])
        and config.get("hidden_act", config.get("activation")) in ACTIVATIONS
        and config.get("position_embedding_type", "absolute") == "absolute"
        and not any(config.get(name) for name in ("is_decoder", "pruned_heads", "sinusoidal_pos_embds", "auto_map"))
    )
    if not known:
        return None
    padding = config.get("pad_token_id")
    unused = (1 if padding is None else int(padding)) + 1 if LAYOUTS[config["model_type"]].body == "roberta." else 0
    return int(config["max_position_embeddings"]) - unused
