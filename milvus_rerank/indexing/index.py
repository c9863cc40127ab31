"""Index passages into a collection: resumable, and without duplicates."""

import json
from collections.abc import Callable, Iterable, Iterator, Sequence, Set
from dataclasses import asdict, dataclass
from itertools import islice
from typing import Any

from milvus_rerank.errors import InputError, SearchError
from milvus_rerank.indexing.client import explain_errors
from milvus_rerank.indexing.collection import check_made_for, count_rows, create, make_ready, remember_fields
from milvus_rerank.indexing.corpus import Passage
from milvus_rerank.indexing.embedders import Embedder
from milvus_rerank.indexing.schema import describe
from milvus_rerank.validation import check_count

_PAGE = 1000
"""Rows of a query, when all rows are read; Milvus returns at most 16384."""


@dataclass(frozen=True, slots=True)
class IndexReport:
    """Results of an indexing run.

    :param collection: the collection's name.
    :param embedder: the embedder's name.
    :param bm25: whether the collection can also be searched by BM25.
    :param read: the number of passages read.
    :param written: the number of passages that were new or had changed.
    :param unchanged: the number of passages that the collection already held, equal in every field.
    :param deleted: the number of passages that were deleted, because the source has them no longer.
    :param total: the number of documents in the collection after the run.
    """

    collection: str
    embedder: str
    bm25: bool
    read: int
    written: int
    unchanged: int
    deleted: int
    total: int

    def to_dict(self) -> dict[str, Any]:
        """Return the report as JSON-safe Python values."""
        return asdict(self)


def index_passages(
    client: Any,
    collection: str,
    passages: Iterable[Passage],
    embedder: Embedder,
    *,
    prune: bool = False,
    batch_size: int = 256,
    timeout: float | None = 30.0,
    progress: Callable[[int], object] = lambda done: None,
) -> IndexReport:
    """Embed passages and store them in a collection; create the collection if it does not exist.

    Each batch is compared with the stored passages of the same ids. Only new and changed passages are embedded and
    upserted. So a new run continues where a killed run stopped, and a second run writes nothing. If a split document
    has fewer parts than before, its last parts are deleted.

    :param client: a ``MilvusClient``.
    :param collection: the collection's name.
    :param passages: the passages to index; their ids must differ.
    :param embedder: the embedder of the passages.
    :param prune: delete the passages of the collection that are not among ``passages``.
    :param batch_size: the number of passages per request to Milvus.
    :param timeout: the most seconds of a call to Milvus.
    :param progress: called with the number of passages done, after each batch.
    :returns: the results of the run.
    """
    check_count(batch_size, "batch_size")
    with explain_errors(f"look for the collection {collection!r}"):
        exists = client.has_collection(collection, timeout=timeout)
    if not exists:
        create(client, collection, embedder, timeout)
    info = describe(client, collection, timeout)
    check_made_for(info, embedder)
    make_ready(client, info, timeout)
    read = written = deleted = 0
    known = set(info.dynamic or ())
    ids: set[str] = set()
    for batch in _batches(passages, batch_size):
        names = {name for passage in batch for name in passage.fields}
        if names - known or info.dynamic is None:  # before the rows: a search in between may name them
            known |= names
            info = remember_fields(client, info, known, timeout)
        stored = _stored(client, collection, batch, timeout)
        changed = [passage for passage in batch if stored.get(passage.id) != _row(passage)]
        stale = [passage.id for passage in changed if stored.get(passage.id, {}).keys() - _row(passage).keys()]
        if changed:
            rows = _rows(changed, embedder)
            deleted += _delete(client, collection, _surplus_parts(client, collection, changed, timeout), timeout)
            _write(client, collection, rows, stale, timeout)
        read, written = read + len(batch), written + len(changed)
        ids.update(passage.id for passage in batch if prune)
        progress(len(batch))
    if prune:
        deleted += _delete(client, collection, _others(client, collection, ids, timeout), timeout)
    total, model = count_rows(client, collection, timeout), embedder.model_name
    return IndexReport(collection, model, info.bm25 is not None, read, written, read - written, deleted, total)


def _others(client: Any, collection: str, ids: Set[str], timeout: float | None) -> list[str]:
    """Return the ids of the collection that are not among these."""
    stored = [row["id"] for row in _iterate(client, collection, "", ["id"], timeout)]
    total = count_rows(client, collection, timeout)
    if len(set(stored)) != total:  # a row that was not read is missing from the list, too
        raise SearchError(
            f"the collection {collection!r} holds {total} passages, but {len(set(stored))} could be read, so that none "
            f"was deleted; if another process writes to it, wait for its end and run the command again"
        )
    return [name for name in stored if name not in ids]


def _surplus_parts(client: Any, collection: str, changed: Sequence[Passage], timeout: float | None) -> list[str]:
    """Return the ids of stored parts that documents no longer have."""
    parts = {passage.document: int(passage.fields["parts"]) for passage in changed if passage.document}
    if not parts:
        return []
    among = f"document in {json.dumps(list(parts), ensure_ascii=False)}"
    rows = _iterate(client, collection, among, ["id", "document", "part"], timeout)
    return [row["id"] for row in rows if row["part"] > parts[row["document"]]]


def _iterate(
    client: Any, collection: str, expression: str, fields: list[str], timeout: float | None
) -> Iterator[dict[str, Any]]:
    """Yield all rows that match a filter; a query returns no more than Milvus' limit."""
    # pymilvus' query_iterator does not escape ids in its filter, and fails on a quote. These are its requests.
    options = {"limit": _PAGE, "iterator": "True", "reduce_stop_for_best": "True", "consistency_level": "Strong"}
    after = ""
    while True:
        both = " and ".join(filter(None, [after, expression and f"({expression})"]))
        with explain_errors(f"read passages of {collection!r}"):
            page = client.query(collection, filter=both, output_fields=fields, timeout=timeout, **options)
        yield from map(dict, page)
        if len(page) < _PAGE:
            return
        after = f"id > {json.dumps(page[-1]['id'], ensure_ascii=False)}"


def _delete(client: Any, collection: str, ids: Sequence[str], timeout: float | None) -> int:
    """Delete rows by their ids, and return how many."""
    with explain_errors(f"delete passages of {collection!r}", "Index the same source again; it deletes the others"):
        for start in range(0, len(ids), 1000):
            client.delete(collection, filter=_among(ids[start : start + 1000]), timeout=timeout)
    return len(ids)


def _stored(client: Any, collection: str, batch: Sequence[Passage], timeout: float | None) -> dict[str, dict[str, Any]]:
    with explain_errors(f"read passages of {collection!r}"):
        rows = client.query(
            collection,
            filter=_among([passage.id for passage in batch]),
            output_fields=["title", "text", "$meta"],
            consistency_level="Strong",
            timeout=timeout,
        )
    return {row["id"]: dict(row) for row in rows}


def _write(
    client: Any, collection: str, rows: list[dict[str, Any]], stale: Sequence[str], timeout: float | None
) -> None:
    with explain_errors(
        f"store passages in {collection!r}", "Index the same source again; it writes only the missing passages"
    ):
        if stale:  # Milvus Lite's upsert keeps dynamic fields that the new row lacks
            client.delete(collection, filter=_among(stale), timeout=timeout)
        client.upsert(collection, rows, timeout=timeout)


def _among(ids: Sequence[str]) -> str:
    # pymilvus' get(ids=...) does not escape ids in its filter, and fails on a quote or a backslash.
    return f"id in {json.dumps(ids, ensure_ascii=False)}"


def _row(passage: Passage) -> dict[str, Any]:
    return {**passage.fields, "id": passage.id, "title": passage.title, "text": passage.text}


def _rows(passages: Sequence[Passage], embedder: Embedder) -> list[dict[str, Any]]:
    vectors = embedder.encode_documents([passage.text for passage in passages])
    if vectors.shape != (len(passages), embedder.dim):
        raise InputError(
            f"the embedder {embedder.model_name!r} returned vectors of shape {vectors.shape}, expected "
            f"{(len(passages), embedder.dim)}"
        )
    return [_row(passage) | {"vector": vector} for passage, vector in zip(passages, vectors.tolist(), strict=True)]


def _batches(passages: Iterable[Passage], size: int) -> Iterator[list[Passage]]:
    items = iter(passages)
    while batch := list(islice(items, size)):
        yield batch
