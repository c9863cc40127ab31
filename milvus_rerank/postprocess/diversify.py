"""Diversity: results that do not say the same thing again."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from milvus_rerank.errors import InputError
from milvus_rerank.postprocess.normalize import minmax
from milvus_rerank.postprocess.read import label, read_results, unscored
from milvus_rerank.results import RerankResult
from milvus_rerank.validation import check_list, check_top_k

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


def diversify(
    results: Sequence[RerankResult],
    vectors: str | Sequence[Any],
    top_k: int | None = None,
    trade_off: float = 0.5,
) -> list[RerankResult]:
    """Return results in an order that is relevant and varied: maximal marginal relevance.

    One after the other takes the next place that has the largest ``trade_off * relevance - (1 - trade_off) *
    similarity``: its score, brought to 0 to 1 over these results as ``normalize(..., "minmax")`` does, and the largest
    cosine similarity to a result that is placed already, 0 for the first. Ties go to the one that stood before.
    The method is that of Carbonell and Goldstein, SIGIR 1998.

    :param results: the results of one query, best first.
    :param vectors: the field of ``entity`` that holds each one's dense vector (ask Milvus for it with
        ``output_fields``), or one vector for each result. One of nothing but zeros is similar to none.
    :param top_k: how many to return; None or 0 for all.
    :param trade_off: from 0, varied above all, to 1, which leaves the order as it is.
    :returns: the same results, with their scores, in the new order; those without a score last.
    :raises InputError: for an option that cannot be used, or a vector that is missing, no dense vector, or of another
        length than the first.
    """
    given, scores = read_results(results)
    keep = check_top_k(top_k)
    weight = _check_trade_off(trade_off)
    places = list(scores)
    rows = [_row(row, name) for row, name in _vectors(given, places, vectors)]
    for place, row in zip(places, rows, strict=True):
        if len(row) != len(rows[0]):
            raise InputError(
                f"the vector of {label(given[place], place)} has {len(row)} dimensions, that of "
                f"{label(given[places[0]], places[0])} has {len(rows[0])}"
            )
    if weight == 1:
        return given[:keep]
    order = _order(minmax(list(scores.values())), rows, keep, weight)
    return ([given[places[index]] for index in order] + unscored(given))[:keep]


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
        order.append(int(np.argmax(np.where(free, gain, -np.inf))))  # of equal ones the first
        free[order[-1]] = False
        # Not a matrix product: that may add up the same row differently in another place, and equal ones must tie.
        similar = (units * units[order[-1]]).sum(axis=1)
        closest = np.maximum(closest, similar) if len(order) > 1 else similar
    return order


def _units(rows: "NDArray[np.float64]") -> "NDArray[np.float64]":
    """Return vectors of length 1; zeros stay zeros."""
    import numpy as np

    largest = np.abs(rows).max(axis=1, keepdims=True)
    rows = np.divide(rows, largest, out=np.zeros_like(rows), where=largest > 0)  # squares of it are within floats
    lengths = np.sqrt((rows * rows).sum(axis=1, keepdims=True))
    units: NDArray[np.float64] = np.divide(rows, lengths, out=np.zeros_like(rows), where=lengths > 0)
    return units


def _vectors(given: Sequence[RerankResult], places: Sequence[int], vectors: Any) -> list[tuple[Any, str]]:
    """Return the vector of each scored result, and what to call it."""
    if isinstance(vectors, str):
        found = []
        for place in places:
            entity = given[place].entity or {}
            name = label(given[place], place)
            if entity.get(vectors) is None:
                raise InputError(
                    f"{name} has no field {vectors!r} in its entity; it has {sorted(map(str, entity)) or 'none'}. "
                    f"Ask Milvus for it with output_fields=[{vectors!r}], or pass the vectors themselves"
                )
            found.append((entity[vectors], f"field {vectors!r} of {name}"))
        return found
    rows = check_list(vectors, "vectors", "vectors")
    if len(rows) != len(given):
        raise InputError(f"got {len(rows)} vectors for {len(given)} results; expected one for each, or a field's name")
    return [(rows[place], f"vectors[{place}]") for place in places]


def _row(row: Any, name: str) -> "NDArray[np.float64]":
    import numpy as np

    try:
        found = np.asarray(None if isinstance(row, (str, bytes)) else row, dtype=np.float64)
    except (TypeError, ValueError):
        found = np.empty(0)
    if found.ndim != 1 or not len(found) or not np.isfinite(found).all():
        raise InputError(f"{name} must be a dense vector of finite numbers, got {type(row).__name__}")
    return found


def _check_trade_off(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= 1:
        raise InputError(f"trade_off must be a number from 0 (varied) to 1 (the order as it is), got {value!r}")
    return float(value)
