"""Arguments of one search, checked before anything is computed or sent."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypedDict

from milvus_rerank.choices import MAX_CANDIDATES
from milvus_rerank.errors import InputError
from milvus_rerank.search.first_stage import Vector, check_vectors
from milvus_rerank.validation import check_count, check_documents, check_text, check_threshold, check_top_k

MAX_TIMEOUT = 86400
"""The longest timeout in seconds; gRPC fails on deadlines beyond the range of its clock."""


class SearchOptions(TypedDict, total=False):
    """Keyword arguments of :meth:`TwoStageSearch.__call__`, which documents them."""

    top_k: int | None
    candidates: int
    threshold: float | None
    filter: str
    partitions: Sequence[str] | None
    output_fields: Sequence[str] | None
    vectors: Any
    timeout: float | None
    instruction: str | None


@dataclass(frozen=True, slots=True)
class SearchArguments:
    """Checked arguments of :meth:`TwoStageSearch.__call__`, which documents them; ``top_k`` is None for all."""

    queries: list[str]
    top_k: int | None
    candidates: int
    threshold: float | None
    filter: str
    partitions: list[str] | None
    output_fields: list[str]
    vectors: list[Vector] | None
    timeout: float | None
    instruction: str | None


def check_arguments(
    query: str | Sequence[str],
    top_k: int | None,
    candidates: int,
    threshold: float | None,
    filter: str,
    partitions: Sequence[str] | None,
    output_fields: Sequence[str] | None,
    vectors: Any,
    timeout: float | None,
    instruction: str | None,
) -> SearchArguments:
    """Return the arguments of a search in one form; raise an ``InputError`` that names a wrong one."""
    single = isinstance(query, str) or query is None
    queries = [check_text(query, "query")] if single else check_documents(query, "queries")
    keep, limit = check_top_k(top_k), check_count(candidates, "candidates")
    if limit > MAX_CANDIDATES:
        raise InputError(f"candidates must be at most {MAX_CANDIDATES}, Milvus' limit, got {limit}")
    if keep is not None and keep > limit:
        raise InputError(f"candidates={limit} is less than top_k={keep}; pass candidates={keep} or top_k={limit}")
    if not isinstance(filter, str):
        raise InputError(f"filter must be a string such as 'year > 2020', got {filter!r}")
    return SearchArguments(
        queries=queries,
        top_k=keep,
        candidates=limit,
        threshold=check_threshold(threshold),
        filter=filter,
        partitions=None if partitions is None else check_documents(partitions, "partitions"),
        output_fields=[] if output_fields is None else check_documents(output_fields, "output_fields"),
        vectors=None if vectors is None else check_vectors(vectors, len(queries), "vectors"),
        timeout=_check_timeout(timeout),
        instruction=None if instruction is None else check_text(instruction, "instruction"),
    )


def _check_timeout(timeout: object) -> float | None:
    if timeout is None:
        return None
    if isinstance(timeout, bool) or not isinstance(timeout, (int, float)) or not 0 < timeout <= MAX_TIMEOUT:
        raise InputError(
            f"timeout must be a positive number of seconds up to {MAX_TIMEOUT} (a day), or None to wait without limit; "
            f"got {timeout!r}"
        )
    return timeout
