"""Architectures whose graphs are built from the weights, and the names and shapes of these. Imports quickly."""

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from milvus_rerank.errors import ModelError
from milvus_rerank.models.files import label_names
from milvus_rerank.models.modules import Head
from milvus_rerank.models.weights import Tensor
from milvus_rerank.onnx_graphs import modernbert, relative
from milvus_rerank.onnx_graphs.relative import BIAS_TABLE, BUCKETS, DEBERTA, MPNET, read_disentangled


@dataclass(frozen=True, slots=True)
class Layout:
    """Names of an architecture's weights, with ``{}`` for the layer's number.

    :param body: the prefix of the encoder.
    :param layer: the prefix of one layer.
    :param names: the weights of a layer: query, key, value, attention output and its norm, both halves of the
        feed-forward part and its norm.
    :param head: the dense layer and the projection after it.
    :param head_activation: the activation between the two, a key of :data:`ACTIVATIONS`.
    :param projection: the projection of embeddings that are narrower than the states.
    """

    body: str
    layer: str
    names: tuple[str, ...]
    head: tuple[str, str]
    head_activation: str
    projection: str = "embeddings_project"


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
_DEBERTA = ("attention.self.query_proj", "attention.self.key_proj", "attention.self.value_proj", *_BERT[3:])
_MPNET = (*(f"attention.attn.{name}" for name in "qkvo"), "attention.LayerNorm", *_BERT[5:])
_ALBERT = (
    *(f"attention.{name}" for name in ("query", "key", "value", "dense", "LayerNorm")),
    "ffn",
    "ffn_output",
    "full_layer_layer_norm",
)
_ROBERTA_HEAD = ("classifier.dense", "classifier.out_proj")
LAYOUTS = {
    "bert": Layout("bert.", "encoder.layer.{}.", _BERT, ("bert.pooler.dense", "classifier"), "tanh"),
    "roberta": Layout("roberta.", "encoder.layer.{}.", _BERT, _ROBERTA_HEAD, "tanh"),
    "xlm-roberta": Layout("roberta.", "encoder.layer.{}.", _BERT, _ROBERTA_HEAD, "tanh"),
    "camembert": Layout("roberta.", "encoder.layer.{}.", _BERT, _ROBERTA_HEAD, "tanh"),
    "electra": Layout("electra.", "encoder.layer.{}.", _BERT, _ROBERTA_HEAD, "gelu"),
    "distilbert": Layout("distilbert.", "transformer.layer.{}.", _DISTIL, ("pre_classifier", "classifier"), "relu"),
    "albert": Layout(
        "albert.",
        "encoder.albert_layer_groups.{}.albert_layers.0.",
        _ALBERT,
        ("albert.pooler", "classifier"),
        "tanh",
        "encoder.embedding_hidden_mapping_in",
    ),
    MPNET: Layout("mpnet.", "encoder.layer.{}.", _MPNET, _ROBERTA_HEAD, "tanh"),
    DEBERTA: Layout("deberta.", "encoder.layer.{}.", _DEBERTA, ("pooler.dense", "classifier"), "gelu"),
}
_TANH_GELU = ("Gelu", {"approximate": "tanh"})
ACTIVATIONS: Mapping[str, tuple[str, Mapping[str, str]]] = {
    "gelu": ("Gelu", {}),
    "gelu_new": _TANH_GELU,
    "gelu_pytorch_tanh": _TANH_GELU,
    "relu": ("Relu", {}),
    "tanh": ("Tanh", {}),
}
"""transformers' names of activations, with the ONNX operator of each and its attributes."""
SIZES = (("hidden_size", "dim"), ("num_hidden_layers", "n_layers"), ("num_attention_heads", "n_heads"))


def can_build(config: Mapping[str, Any], head: Head | None = None) -> bool:
    """Tell whether :func:`~milvus_rerank.onnx_graphs.build.build` can build a graph of a model.

    :param config: the model's ``config.json``.
    :param head: its head, if that consists of sentence-transformers' modules.
    :returns: True for classifiers of BERT's family and ModernBERT, with settings that change nothing else of their
        architecture, and for ModernBERT with a head of modules.
    """
    return position_limit(config) is not None if head is None else modernbert.read_facts(config, head) is not None


def position_limit(config: Mapping[str, Any]) -> int | None:
    """Return the most tokens that the table of positions of a graph allows.

    :param config: the model's ``config.json``.
    :returns: the rows of the model's table, without those that RoBERTa's family leaves unused at its beginning;
        ``max_position_embeddings`` for ModernBERT, whose table the graph computes; None if no graph can be built.
    """
    if config.get("model_type") == modernbert.MODEL_TYPE:
        facts = modernbert.read_facts(config)
        return None if facts is None else facts.positions
    kind = config.get("model_type")
    known = (
        kind in LAYOUTS
        and all(any(config.get(name) for name in names) for names in [*SIZES, ("max_position_embeddings",)])
        and config.get("hidden_act", config.get("activation")) in ACTIVATIONS
        and config.get("position_embedding_type", "absolute") == "absolute"
        and not any(config.get(name) for name in ("is_decoder", "pruned_heads", "sinusoidal_pos_embds", "auto_map"))
        and (kind != DEBERTA or (read_disentangled(config) is not None and head_activation(config) in ACTIVATIONS))
        and (kind != MPNET or config.get("relative_attention_num_buckets", BUCKETS) == BUCKETS)
        and (kind != "albert" or config.get("inner_group_num", 1) == 1)
    )
    if not known:
        return None
    padding = 1 if kind == MPNET or config.get("pad_token_id") is None else int(config["pad_token_id"])
    unused = padding + 1 if kind == MPNET or LAYOUTS[config["model_type"]].body == "roberta." else 0
    return int(config["max_position_embeddings"]) - unused


def head_activation(config: Mapping[str, Any]) -> str:
    """Return the activation between the two parts of a classifier's head, a key of :data:`ACTIVATIONS` if it is known.

    :param config: the model's ``config.json``, of one of :data:`LAYOUTS`.
    :returns: transformers' name of it.
    """
    if config["model_type"] == DEBERTA:
        return str(config.get("pooler_hidden_act") or "gelu")
    return LAYOUTS[config["model_type"]].head_activation


def layer_prefix(config: Mapping[str, Any], number: int) -> str:
    """Return the prefix of the weights of a layer. Several layers of ALBERT have the same weights."""
    layout = LAYOUTS[config["model_type"]]
    if config["model_type"] == "albert":  # the division is transformers' own
        number = int(number / (_size(config, "num_hidden_layers") / int(config.get("num_hidden_groups") or 1)))
    return layout.body + layout.layer.format(number)


def float32_bytes(config: Mapping[str, Any]) -> int:
    """Return about how many bytes a model's weights take in float32; 0 if the config does not show it.

    :param config: the model's ``config.json``.
    :returns: the bytes of its tables and layers.
    """
    if position_limit(config) is None:
        return 0
    if config["model_type"] == modernbert.MODEL_TYPE:
        facts = modernbert.read_facts(config)
        return 0 if facts is None else 4 * sum(math.prod(shape) for _, shape in modernbert.shapes(facts, config))
    hidden, layers = _size(config, "hidden_size"), _size(config, "num_hidden_layers")
    layers = int(config.get("num_hidden_groups") or 1) if config["model_type"] == "albert" else layers
    inner = int(config.get("intermediate_size") or config.get("hidden_dim") or 4 * hidden)
    rows = int(config.get("vocab_size") or 0) + int(config["max_position_embeddings"])
    return 4 * (rows * hidden + layers * (4 * hidden * hidden + 2 * hidden * inner))


def check_shapes(
    name: str,
    config: Mapping[str, Any],
    tensors: Mapping[str, Tensor],
    *,
    complete: bool = True,
    head: Head | None = None,
) -> None:
    """Raise if a model's weights are not those that its config describes.

    :param name: the model's name, for the message.
    :param config: its ``config.json``, for which :func:`can_build` is true.
    :param tensors: its weights.
    :param complete: whether to look for missing weights, too.
    :param head: its head, if that consists of sentence-transformers' modules.
    :raises ModelError: if a weight is missing, has another shape, or belongs to a layer that the config does not have.
    """
    facts = modernbert.read_facts(config, head)
    if facts is not None:
        expected, prefix = modernbert.shapes(facts, config), modernbert.LAYER
    else:
        layout = LAYOUTS[config["model_type"]]
        expected, prefix = _shapes(name, layout, config, tensors), layout.body + layout.layer
    for weight, shape in expected:
        if weight not in tensors:
            if not complete:
                continue
            wrapped = next((other for other in tensors if other.endswith("." + weight)), "")
            if wrapped:
                begin = wrapped.removesuffix(weight)
                raise ModelError(
                    f"model {name!r}: the names of its weights begin with {begin!r}: they were saved from a wrapped "
                    "model; save the model inside with save_pretrained(FOLDER)"
                )
            raise ModelError(
                f"model {name!r} is not a trained reranker: its weights lack {weight}. "
                "Is it an embedding model? Use a cross-encoder such as 'builtin/rerank'"
            )
        if tensors[weight].shape != shape:
            raise ModelError(
                f"model {name!r} does not fit together: its weight {weight} has shape {list(tensors[weight].shape)}, "
                f"config.json asks for {list(shape)}; download or save the model again"
            )
    layer = re.compile(re.escape(prefix).replace(r"\{\}", r"(\d+)"))
    found = {int(match[1]) for match in map(layer.match, tensors) if match}
    if found - set(range(_size(config, "num_hidden_layers"))):
        raise ModelError(
            f"model {name!r} does not fit together: its weights have {max(found) + 1} layers, "
            f"config.json has {_size(config, 'num_hidden_layers')}; download or save the model again"
        )


def _shapes(
    name: str, layout: Layout, config: Mapping[str, Any], tensors: Mapping[str, Tensor]
) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Yield the weights that a graph needs, with their shapes, the head first: embedding models lack it."""
    hidden, heads = _size(config, "hidden_size"), _size(config, "num_attention_heads")
    if hidden % heads:
        raise ModelError(f"model {name!r}: config.json's hidden size {hidden} is not a multiple of its {heads} heads")
    labels = len(label_names(config))
    dense, projection = layout.head
    yield from _linear(projection, labels, hidden)
    yield from _linear(dense, hidden, hidden)
    words = f"{layout.body}embeddings.word_embeddings.weight"
    # The embeddings of ELECTRA and ALBERT may be narrower. Their default is transformers'.
    width = int(config.get("embedding_size") or 128) if config["model_type"] in ("electra", "albert") else hidden
    yield words, (int(config.get("vocab_size") or _rows(tensors, words)), width)
    facts = read_disentangled(config) if config["model_type"] == DEBERTA else None
    if facts is not None:
        yield from relative.shapes(facts, config)
    else:
        yield f"{layout.body}embeddings.position_embeddings.weight", (int(config["max_position_embeddings"]), width)
    if config["model_type"] == MPNET:
        yield BIAS_TABLE, (BUCKETS, heads)
    types = f"{layout.body}embeddings.token_type_embeddings.weight"
    if layout.names in (_BERT, _ALBERT) or (facts is not None and config.get("type_vocab_size")):
        yield types, (int(config.get("type_vocab_size") or _rows(tensors, types)), width)
    yield from _norm(f"{layout.body}embeddings.LayerNorm", width)
    if width != hidden or config["model_type"] == "albert":
        yield from _linear(layout.body + layout.projection, hidden, width)
    for number in range(_size(config, "num_hidden_layers")):
        query, key, value, output, norm, up, down, last = (layer_prefix(config, number) + part for part in layout.names)
        for part in (query, key, value, output):
            yield from _linear(part, hidden, hidden)
        inner = int(config.get("intermediate_size") or config.get("hidden_dim") or _rows(tensors, up + ".weight"))
        yield from _norm(norm, hidden)
        yield from _linear(up, inner, hidden)
        yield from _linear(down, hidden, inner)
        yield from _norm(last, hidden)


def _linear(name: str, rows: int, columns: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    yield from ((f"{name}.weight", (rows, columns)), (f"{name}.bias", (rows,)))


def _norm(name: str, width: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    yield from ((f"{name}.weight", (width,)), (f"{name}.bias", (width,)))


def _rows(tensors: Mapping[str, Tensor], name: str) -> int:
    shape = tensors[name].shape if name in tensors else ()
    return shape[0] if shape else 0


def _size(config: Mapping[str, Any], name: str) -> int:
    """Return one of the sizes that :func:`position_limit` has found in the config, under either name."""
    names = next(names for names in SIZES if name in names)
    return int(next(config[key] for key in names if config.get(key)))
