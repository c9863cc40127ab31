"""First stages: the kinds of Milvus search, and their query vectors."""

import dataclasses
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, TypeAlias

from milvus_rerank.errors import InputError
from milvus_rerank.postprocess.fuse import RRF, Weighted
from milvus_rerank.validation import check_list

Embed: TypeAlias = Callable[[list[str]], Any]
"""A function from queries to one vector each: a list, a numpy array or a scipy sparse matrix of vectors."""

Vector: TypeAlias = list[float] | dict[int, float] | bytes
"""A dense, sparse or binary vector in the form that pymilvus takes."""


@dataclass(frozen=True, slots=True)
class Dense:
    """Vector search.

    :param field: the vector field; None if the collection has only one vector field.
    :param params: Milvus' search parameters, such as ``{"params": {"ef": 200}}``.
    :param embed: embeds the queries for this field; None for the ``embed`` of the :class:`TwoStageSearch`.
    """

    field: str | None = None
    params: Mapping[str, Any] = dataclasses.field(default_factory=dict, hash=False)
    embed: Embed | None = None


@dataclass(frozen=True, slots=True)
class FullText:
    """Search by the query's text: BM25, or a field that Milvus embeds.

    :param field: the field that Milvus' function fills, sparse for BM25.
    :param params: Milvus' search parameters, such as ``{"drop_ratio_search": 0.2}``.
    """

    field: str = "sparse"
    params: Mapping[str, Any] = dataclasses.field(default_factory=dict, hash=False)


@dataclass(frozen=True, slots=True)
class Hybrid:
    """Several searches that Milvus fuses; each search may return as many hits as the fused list has candidates.

    :param searches: the searches.
    :param fusion: the method by which Milvus fuses their hits into one list.
    :raises InputError: for fewer than two searches, an item that is not a search, or a wrong number of weights.
    """

    searches: tuple[Dense | FullText, ...]
    fusion: RRF | Weighted = dataclasses.field(default_factory=RRF)

    def __post_init__(self) -> None:
        searches = check_list(self.searches, "searches", "searches")
        for index, search in enumerate(searches):
            if not isinstance(search, (Dense, FullText)):
                raise InputError(f"searches[{index}] must be Dense(...) or FullText(...), got {search!r}")
        if len(searches) < 2:
            raise InputError(
                f"Hybrid fuses at least two searches, got {len(searches)}; pass a single search as first_stage"
            )
        if not isinstance(self.fusion, (RRF, Weighted)):
            raise InputError(f"fusion must be RRF(...) or Weighted(...), got {self.fusion!r}")
        if isinstance(self.fusion, Weighted) and len(self.fusion.weights) != len(searches):
            raise InputError(
                f"Weighted needs one weight per search: expected {len(searches)}, got {len(self.fusion.weights)}"
            )
        object.__setattr__(self, "searches", tuple(searches))


FirstStage: TypeAlias = Dense | FullText | Hybrid


def searches_of(stage: FirstStage) -> tuple[Dense | FullText, ...]:
    """Return the single search of a first stage, or all searches of a :class:`Hybrid`."""
    return tuple(stage.searches) if isinstance(stage, Hybrid) else (stage,)


def check_vectors(vectors: object, count: int, name: str) -> list[Vector]:
    """Check query vectors and convert them to the form that pymilvus takes.

    :param vectors: one vector per query: lists, numpy arrays, sparse dicts, bytes, or a scipy sparse matrix.
    :param count: the number of queries.
    :param name: the name of the vectors in error messages.
    :returns: Python lists of floats, dicts or bytes.
    :raises InputError: for another number of vectors, or a value that is not a vector.
    """
    if isinstance(vectors, Mapping):
        raise InputError(
            f"{name} must be one vector per query, got a mapping with the keys {sorted(map(str, vectors))[:5]}; "
            f"pass one of its values"
        )
    rows = _sparse_rows(vectors) if hasattr(vectors, "tocsr") else check_list(vectors, name, "vectors")
    if len(rows) != count:
        raise InputError(f"{name} must be one vector per query: expected {count}, got {len(rows)}")
    return [_vector(row, f"{name}[{index}]") for index, row in enumerate(rows)]


def _vector(row: Any, name: str) -> Vector:
    if isinstance(row, (bytes, dict)):
        return row
    if hasattr(row, "tocsr"):
        return _sparse_rows(row)[0]
    # numpy arrays of any dtype and torch tensors have tolist; pymilvus would send float16 as another vector type.
    items = row.tolist() if hasattr(row, "tolist") else row
    if not isinstance(items, (list, tuple)):
        raise InputError(
            f"{name} must be a vector, got {type(row).__name__}; put a single vector into a list: [vector]"
        )
    for item in items:
        if isinstance(item, bool) or not hasattr(item, "__float__"):
            raise InputError(f"{name} must hold numbers, got {type(item).__name__}")
    numbers = [float(item) for item in items]
    if not all(map(math.isfinite, numbers)):
        raise InputError(f"{name} must hold finite numbers, got NaN or infinity; Milvus would return arbitrary hits")
    return numbers


def _sparse_rows(matrix: Any) -> list[Vector]:
    rows = matrix.tocsr()
    columns, values = rows.indices.tolist(), rows.data.tolist()
    return [dict(zip(columns[a:b], values[a:b], strict=True)) for a, b in pairwise(rows.indptr.tolist())]
