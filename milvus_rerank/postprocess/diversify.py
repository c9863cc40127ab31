"""Diversify results: put results that repeat each other further down."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from milvus_rerank.errors import InputError
from milvus_rerank.postprocess.normalize import minmax
from milvus_rerank.postprocess.read import label, read_results, unscored
from milvus_rerank.result_list import RerankResults, Score
from milvus_rerank.results import RerankResult
from milvus_rerank.validation import check_list, check_top_k

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


def diversify(
    results: Sequence[RerankResult[Score]],
    vectors: str | Sequence[Any],
    top_k: int | None = None,
    trade_off: float = 0.5,
) -> RerankResults[Score]:
    """Return results in an order that is relevant and varied: maximal marginal relevance.

    Each step picks the result with the largest ``trade_off * relevance - (1 - trade_off) * similarity``. The relevance
    is the score, normalised to 0 to 1 over these results as by ``normalize(..., "minmax")``. The similarity is the
    largest cosine similarity to a result that was picked before, and 0 for the first. Ties keep the input order. The
    method is from Carbonell and Goldstein, SIGIR 1998.

    :param results: the results of one query, best first.
    :param vectors: the field of ``entity`` that holds the dense vector of each result (request it from Milvus with
        ``output_fields``), or one vector for each result. The similarity of a zero vector to any other is 0.
    :param top_k: the number of results to return; None or 0 for all.
    :param trade_off: a number from 0, the most variety, to 1, which keeps the order.
    :returns: the same results, with their scores, in the new order; results without a score come last.
    :raises InputError: for an option that cannot be used, or a vector that is missing, is not dense, or differs in
        length from the first.
    """
    checked, scores = read_results(results)
    keep = check_top_k(top_k)
    weight = check_trade_off(trade_off)
    scored = list(scores)
    rows = [_row(row, name) for row, name in _vectors(checked, scored, vectors)]
    for index, row in zip(scored, rows, strict=True):
        if len(row) != len(rows[0]):
            raise InputError(
                f"the vector of {label(checked[index], index)} has {len(row)} dimensions, that of "
                f"{label(checked[scored[0]], scored[0])} has {len(rows[0])}"
            )
    if weight == 1:
        return RerankResults(checked[:keep])
    order = _order(minmax(list(scores.values())), rows, keep, weight)
    return RerankResults([*(checked[scored[position]] for position in order), *unscored(checked)][:keep])


def _order(
    scores: Sequence[float], rows: Sequence["NDArray[np.float64]"], keep: int | None, weight: float
) -> list[int]:
    import numpy as np

    if not scores:
        return []
    relevance, units = np.array(scores), _units(np.stack(rows))
    closest = np.zeros(len(scores))
    free = np.ones(len(scores), dtype=bool)
    order: list[int] = []
    while len(order) < min(keep or len(scores), len(scores)):
        gain = weight * relevance - (1 - weight) * closest
        order.append(int(np.argmax(np.where(free, gain, -np.inf))))  # argmax picks the first of equal gains
        free[order[-1]] = False
        # Not a matrix product: it may sum equal rows in different orders, but equal vectors must tie.
        similar = (units * units[order[-1]]).sum(axis=1)
        closest = np.maximum(closest, similar) if len(order) > 1 else similar
    return order


def _units(rows: "NDArray[np.float64]") -> "NDArray[np.float64]":
    """Return the vectors scaled to length 1; zero vectors stay zero."""
    import numpy as np

    largest = np.abs(rows).max(axis=1, keepdims=True)
    rows = np.divide(rows, largest, out=np.zeros_like(rows), where=largest > 0)  # now squares cannot overflow
    lengths = np.sqrt((rows * rows).sum(axis=1, keepdims=True))
    units: NDArray[np.float64] = np.divide(rows, lengths, out=np.zeros_like(rows), where=lengths > 0)
    return units


def _vectors(results: Sequence[RerankResult[Any]], scored: Sequence[int], vectors: Any) -> list[tuple[Any, str]]:
    """Return the vector of each scored result, and its name for errors."""
    if not isinstance(vectors, str):
        rows = check_list(vectors, "vectors", "vectors")
        if len(rows) != len(results):
            raise InputError(
                f"vectors must be one vector per result or a field's name: expected {len(results)}, got {len(rows)}"
            )
        return [(rows[index], f"vectors[{index}]") for index in scored]
    named = []
    for index in scored:
        entity, name = results[index].entity or {}, label(results[index], index)
        if entity.get(vectors) is None:
            raise InputError(
                f"{name} has no field {vectors!r} in its entity; it has {sorted(map(str, entity)) or 'none'}. "
                f"Ask Milvus for it with output_fields=[{vectors!r}], or pass the vectors themselves"
            )
        named.append((entity[vectors], f"field {vectors!r} of {name}"))
    return named


def _row(row: Any, name: str) -> "NDArray[np.float64]":
    import numpy as np

    try:
        vector = np.asarray(None if isinstance(row, (str, bytes)) else row, dtype=np.float64)
    except (TypeError, ValueError):
        vector = np.empty(0)
    if vector.ndim != 1 or not len(vector) or not np.isfinite(vector).all():
        raise InputError(f"{name} must be a dense vector of finite numbers, got {type(row).__name__}")
    return vector


def check_trade_off(value: object) -> float:
    """Return a number from 0 to 1; raise InputError for any other value."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= 1:
        raise InputError(f"trade_off must be a number from 0 (most variety) to 1 (unchanged order), got {value!r}")
    return float(value)
