"""ModernBERT: its config, and the names and shapes of its weights. Imports quickly."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

from milvus_rerank.models.files import label_names
from milvus_rerank.models.modules import Head
from milvus_rerank.models.weights import Tensor, read_tensors

Pooling = Literal["cls", "mean"]
"""Ways to make one row of a pair: its first token's, or the mean of all tokens'."""

MODEL_TYPE = "modernbert"
TOKENS = "model.embeddings.tok_embeddings.weight"
"""Name of the table of tokens."""
BODY = "model."
"""Prefix of the encoder's weights."""
HEAD = ("head.", "classifier.")
"""Prefixes of the head's weights."""
LAYER = "model.layers.{}."
"""Prefix of the weights of a layer, with ``{}`` for its number."""

ACTIVATIONS = {"gelu": "Gelu", "relu": "Relu"}
_HEAD_ACTIVATIONS = {**ACTIVATIONS, "tanh": "Tanh"}
_MODULE_EPSILON = 1e-5  # of sentence-transformers' norm
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
    :param head_epsilon: that of the head's norm.
    :param activation: the ONNX operator in the feed-forward part.
    :param head_activation: the ONNX operator in the classifier's head.
    :param pooling: how one row is made of a pair.
    :param labels: the number of its labels.
    :param biases: the parts that have biases: some of ``norm``, ``attention``, ``mlp``, ``head.dense`` and
        ``head.norm``.
    """

    hidden: int
    heads: int
    inner: int
    layers: tuple[Layer, ...]
    positions: int
    epsilon: float
    head_epsilon: float
    activation: str
    head_activation: str
    pooling: Pooling
    labels: int
    biases: frozenset[str]


def read_facts(config: Mapping[str, Any], head: Head | None = None) -> ModernBert | None:
    """Return the facts of a ModernBERT model.

    :param config: its ``config.json``.
    :param head: its head, if that consists of sentence-transformers' modules.
    :returns: the facts; None for other models, and for settings that no graph is built for.
    """
    hidden, heads, count = (config.get(key) for key in ("hidden_size", "num_attention_heads", "num_hidden_layers"))
    activation = ACTIVATIONS.get(config.get("hidden_activation", "gelu"))
    head_activation = ACTIVATIONS.get(config.get("classifier_activation", "gelu"))
    pooling: Any = config.get("classifier_pooling", "cls")
    known = (
        config.get("model_type") == MODEL_TYPE
        and bool(hidden and heads and count)
        and (hidden or 0) % (2 * (heads or 1)) == 0  # rotary positions take pairs of numbers
        and pooling in get_args(Pooling)
        and not any(config.get(key) for key in ("auto_map", "rope_scaling", "head_dim"))
    )
    layers = _layers(config, int(count)) if known and count else None
    if layers is None or activation is None or head_activation is None or not hidden or not heads:
        return None
    epsilon = float(config.get("norm_eps") or 1e-5)
    biases = {part for part in ("norm", "attention", "mlp") if config.get(f"{part}_bias")}
    with_bias = {"head.dense": config.get("classifier_bias"), "head.norm": config.get("norm_bias")}
    facts = ModernBert(
        hidden=int(hidden),
        heads=int(heads),
        inner=int(config.get("intermediate_size") or 1152),
        layers=layers,
        positions=int(config.get("max_position_embeddings") or 8192),
        epsilon=epsilon,
        head_epsilon=epsilon,
        activation=activation,
        head_activation=head_activation,
        pooling=pooling,
        labels=len(label_names(config)),
        biases=frozenset(biases | {part for part, has_bias in with_bias.items() if has_bias}),
    )
    if head is None:
        return facts
    return replace(
        facts,
        head_epsilon=_MODULE_EPSILON,
        head_activation=_HEAD_ACTIVATIONS[head.activation],
        pooling=head.pooling,
        labels=1,
        biases=frozenset(biases | {"head.norm", *["head.dense"] * head.has_bias}),
    )


def read_modules(folder: Path, head: Head) -> dict[str, Tensor]:
    """Return the weights of a ModernBERT model with a head of modules, under the names of a classifier's weights.

    :param folder: the model's folder.
    :param head: its head.
    :returns: the weights by name.
    :raises ModelError: if a file is missing, incomplete or damaged.
    """
    tensors = {name if name.startswith(BODY) else BODY + name: tensor for name, tensor in read_tensors(folder).items()}
    for module, prefix, name in ((head.dense, "linear.", "head.dense."), (head.norm, "norm.", "head.norm.")):
        tensors |= {name + key.removeprefix(prefix): tensor for key, tensor in read_tensors(folder / module).items()}
    score = read_tensors(folder / head.score)
    return tensors | {"classifier." + key.removeprefix("linear."): tensor for key, tensor in score.items()}


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
        ("head.dense", "head.dense", (hidden, hidden)),
        ("head.norm", "head.norm", (hidden,)),
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
