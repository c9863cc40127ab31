"""ModernBERT: what its config says, and the names and shapes of its weights. Imports quickly."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

from milvus_rerank.models.files import label_names

Pooling = Literal["cls", "mean"]
"""Ways to make one row of a pair: its first token's, or the mean of all tokens'."""

TOKENS = "model.embeddings.tok_embeddings.weight"
"""Name of the table of tokens."""
LAYER = "model.layers.{}."
"""Prefix of the weights of a layer, with ``{}`` for its number."""

ACTIVATIONS = {"gelu": "Gelu", "relu": "Relu"}
_FULL, _SLIDING = "full_attention", "sliding_attention"
_THETAS = {_FULL: ("global_rope_theta", 160_000.0), _SLIDING: ("local_rope_theta", 10_000.0)}
"""Keys of older configs, and transformers' defaults."""


@dataclass(frozen=True, slots=True)
class Layer:
    """Attention of one layer.

    :param window: the most tokens that a token sees on each side; None for all.
    :param theta: the base of the frequencies of its rotary positions.
    """

    window: int | None
    theta: float


@dataclass(frozen=True, slots=True)
class ModernBert:
    """Facts of a ModernBERT classifier.

    :param hidden: the width of its states.
    :param heads: the heads of its attention.
    :param inner: the width of its feed-forward part.
    :param layers: its layers.
    :param positions: the most tokens that it was made for.
    :param epsilon: the number that norms add to a variance.
    :param activation: the ONNX operator in the feed-forward part.
    :param head_activation: the ONNX operator in the classifier's head.
    :param pooling: how one row is made of a pair.
    :param labels: the number of its labels.
    :param biases: the parts that have biases: some of ``norm``, ``attention``, ``mlp`` and ``classifier``.
    """

    hidden: int
    heads: int
    inner: int
    layers: tuple[Layer, ...]
    positions: int
    epsilon: float
    activation: str
    head_activation: str
    pooling: Pooling
    labels: int
    biases: frozenset[str]


def read_facts(config: Mapping[str, Any]) -> ModernBert | None:
    """Return the facts of a ModernBERT model.

    :param config: its ``config.json``.
    :returns: the facts; None for other models, and for settings that no graph is built for.
    """
    hidden, heads, count = (config.get(key) for key in ("hidden_size", "num_attention_heads", "num_hidden_layers"))
    activation = ACTIVATIONS.get(config.get("hidden_activation", "gelu"))
    head_activation = ACTIVATIONS.get(config.get("classifier_activation", "gelu"))
    pooling: Any = config.get("classifier_pooling", "cls")
    known = (
        config.get("model_type") == "modernbert"
        and bool(hidden and heads and count)
        and (hidden or 0) % (2 * (heads or 1)) == 0  # rotary positions take pairs of numbers
        and pooling in get_args(Pooling)
        and not any(config.get(key) for key in ("auto_map", "rope_scaling", "head_dim"))
    )
    layers = _layers(config, int(count)) if known and count else None
    if layers is None or activation is None or head_activation is None or not hidden or not heads:
        return None
    return ModernBert(
        hidden=int(hidden),
        heads=int(heads),
        inner=int(config.get("intermediate_size") or 1152),
        layers=layers,
        positions=int(config.get("max_position_embeddings") or 8192),
        epsilon=float(config.get("norm_eps") or 1e-5),
        activation=activation,
        head_activation=head_activation,
        pooling=pooling,
        labels=len(label_names(config)),
        biases=frozenset(part for part in ("norm", "attention", "mlp", "classifier") if config.get(f"{part}_bias")),
    )


def _layers(config: Mapping[str, Any], count: int) -> tuple[Layer, ...] | None:
    """Return the attention of each layer; None for one that is not known here."""
    every, window = int(config.get("global_attn_every_n_layers") or 3), int(config.get("local_attention", 128))
    kinds = config.get("layer_types") or [_SLIDING if number % every else _FULL for number in range(count)]
    rotary_kinds = config.get("rope_parameters") or {}
    if len(kinds) != count or window < 0 or not _THETAS.keys() >= {*kinds, *rotary_kinds}:
        return None
    attention: dict[str, Layer] = {}
    for kind, (key, default) in _THETAS.items():
        rotary = rotary_kinds.get(kind) or {}
        theta = rotary.get("rope_theta", config.get(key, default))
        if rotary.get("rope_type", "default") != "default" or rotary.keys() - {"rope_type", "rope_theta"} or not theta:
            return None
        attention[kind] = Layer(window // 2 if kind == _SLIDING else None, float(theta))
    return tuple(attention[kind] for kind in kinds)


def shapes(facts: ModernBert, config: Mapping[str, Any]) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Yield the weights that a graph needs, with their shapes, the head first: embedding models lack it."""
    hidden, inner = facts.hidden, facts.inner
    yield "classifier.weight", (facts.labels, hidden)
    yield "classifier.bias", (facts.labels,)
    parts = [
        ("head.dense", "classifier", (hidden, hidden)),
        ("head.norm", "norm", (hidden,)),
        ("model.embeddings.norm", "norm", (hidden,)),
        ("model.final_norm", "norm", (hidden,)),
    ]
    for number in range(len(facts.layers)):
        layer = LAYER.format(number)
        parts += [
            *([(layer + "attn_norm", "norm", (hidden,))] if number else []),  # the embeddings' norm is the first one's
            (layer + "attn.Wqkv", "attention", (3 * hidden, hidden)),
            (layer + "attn.Wo", "attention", (hidden, hidden)),
            (layer + "mlp_norm", "norm", (hidden,)),
            (layer + "mlp.Wi", "mlp", (2 * inner, hidden)),
            (layer + "mlp.Wo", "mlp", (hidden, inner)),
        ]
    yield TOKENS, (int(config.get("vocab_size") or 50368), hidden)
    for name, part, shape in parts:
        yield f"{name}.weight", shape
        if part in facts.biases:
            yield f"{name}.bias", shape[:1]
