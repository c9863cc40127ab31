"""Relative positions of DeBERTa-v2 and MPNet: their configs, and the names and shapes of weights. Imports quickly."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

DEBERTA = "deberta-v2"
"""Model type of DeBERTa-v2 and DeBERTa-v3."""
MPNET = "mpnet"

TABLE = "deberta.encoder.rel_embeddings.weight"
"""Name of DeBERTa's table of distances; all layers read it."""
TABLE_NORM = "deberta.encoder.LayerNorm"
"""Name of the norm of that table."""
BIAS_TABLE = "mpnet.encoder.relative_attention_bias.weight"
"""Name of MPNet's table of distances, a number for each head."""

BUCKETS, FARTHEST = 32, 128
"""MPNet's rows of that table, and the distance from which on all share the last row. transformers reads neither from
the config."""

_TERMS = frozenset({"c2p", "p2c"})


@dataclass(frozen=True, slots=True)
class Disentangled:
    """DeBERTa's attention: to the products of contents it adds products of contents with distances.

    :param span: half the rows of the table of distances.
    :param buckets: the rows for distances on one side; 0 for a row for each distance.
    :param farthest: the largest distance that the buckets tell apart.
    :param terms: the products that are added: some of ``c2p``, of queries with distances, and ``p2c``, of keys.
    :param shared: whether the projections of queries and keys also project the table.
    :param norm: whether the table has a norm.
    """

    span: int
    buckets: int
    farthest: int
    terms: frozenset[str]
    shared: bool
    norm: bool


def read_disentangled(config: Mapping[str, Any]) -> Disentangled | None:
    """Return the facts of DeBERTa's attention.

    :param config: the ``config.json`` of a model of type :data:`DEBERTA`.
    :returns: the facts; None for settings that no graph is built for, such as positions that are added to the tokens,
        or the convolution of DeBERTa-v2's largest models.
    """
    named = config.get("pos_att_type") or ()
    terms = frozenset(part.strip() for part in named.lower().split("|")) if isinstance(named, str) else frozenset(named)
    hidden, width = config.get("hidden_size"), config.get("embedding_size")
    plain = not any(config.get(key) for key in ("attention_head_size", "conv_kernel_size"))
    same_width = width in (None, hidden) and config.get("pooler_hidden_size") in (None, hidden)
    if not (plain and same_width and config.get("relative_attention")) or config.get("position_biased_input", True):
        return None
    if not terms <= _TERMS:
        return None
    farthest, buckets = (int(config.get(key) or -1) for key in ("max_relative_positions", "position_buckets"))
    farthest = farthest if farthest > 0 else int(config.get("max_position_embeddings") or 512)
    if buckets > 0 and not 2 <= buckets < 2 * (farthest - 1):  # the logarithms of its buckets need room
        return None
    return Disentangled(
        span=buckets if buckets > 0 else farthest,
        buckets=max(buckets, 0),
        farthest=farthest,
        terms=terms,
        shared=bool(config.get("share_att_key")),
        norm="layer_norm" in str(config.get("norm_rel_ebd") or "none").lower(),
    )


def shapes(facts: Disentangled, config: Mapping[str, Any]) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Yield the weights of DeBERTa's relative positions, with their shapes."""
    hidden = int(config["hidden_size"])
    yield TABLE, (2 * facts.span, hidden)
    if facts.norm:
        yield from ((f"{TABLE_NORM}.{part}", (hidden,)) for part in ("weight", "bias"))
    if facts.shared:
        return
    for number in range(int(config["num_hidden_layers"])):
        for term, name in PROJECTIONS.items():
            if term in facts.terms:
                prefix = f"deberta.encoder.layer.{number}.attention.self.{name}"
                yield from ((f"{prefix}.weight", (hidden, hidden)), (f"{prefix}.bias", (hidden,)))


PROJECTIONS = {"c2p": "pos_key_proj", "p2c": "pos_query_proj"}
"""Projections of the table for each term, if those of keys and queries are not shared."""
