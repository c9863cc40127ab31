"""Index passages into a collection: resumable, and without duplicates."""

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from typing import Any

from milvus_rerank.errors import InputError
from milvus_rerank.indexing.client import explain_errors
from milvus_rerank.indexing.collection import check_made_for, create, describe, make_ready, remember_fields
from milvus_rerank.indexing.corpus import Passage
from milvus_rerank.indexing.embedders import Embedder
from milvus_rerank.validation import check_count


@dataclass(frozen=True, slots=True)
class IndexReport:
    """Results of an indexing run.

    :param collection: the collection's name.
    :param embedder: the embedder's name.
    :param bm25: whether the collection can also be searched by BM25.
    :param read: the number of passages read.
    :param written: the number of passages that were new or had changed.
    :param unchanged: the number of passages that the collection already held, equal in every field.
    :param deleted: the number of passages that were deleted because they are gone from the source.
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
    batch_size: int = 256,
    timeout: float | None = 30.0,
    prune: bool = False,
    progress: Callable[[int], object] = lambda done: None,
) -> IndexReport:
    """Embed passages and store them in a collection; create the collection if it does not exist.

    Each batch is compared with the stored passages of the same ids. Only new and changed passages are embedded and
    upserted. So a new run continues where a killed run stopped, and a second run writes nothing.

    :param client: a ``MilvusClient``.
    :param collection: the collection's name.
    :param passages: the passages to index; their ids must differ.
    :param embedder: the embedder of the passages.
    :param batch_size: the number of passages per request to Milvus.
    :param timeout: the most seconds of a call to Milvus.
    :param prune: delete the collection's passages that are not among these.
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
    read = written = 0
    ids: set[str] = set()
    known = set(info.dynamic or ())
    for batch in _batches(passages, batch_size):
        stored = _stored(client, collection, batch, timeout)
        changed = [passage for passage in batch if stored.get(passage.id) != _row(passage)]
        stale = [passage.id for passage in changed if stored.get(passage.id, {}).keys() - _row(passage).keys()]
        if changed:
            _write(client, collection, _rows(changed, embedder), stale, timeout)
        names = {name for passage in batch for name in passage.fields}
        if names - known or info.dynamic is None:
            known |= names
            info = remember_fields(client, info, known, timeout)
        ids.update(passage.id for passage in batch if prune)
        read, written = read + len(batch), written + len(changed)
        progress(len(batch))
    deleted = _prune(client, collection, ids, batch_size, timeout) if prune else 0
    total = _count(client, collection, timeout)
    bm25 = info.bm25 is not None
    return IndexReport(collection, embedder.model_name, bm25, read, written, read - written, deleted, total)


def _prune(client: Any, collection: str, ids: set[str], batch_size: int, timeout: float | None) -> int:
    """Delete the passages with other ids; return their number."""
    before = _count(client, collection, timeout)
    ordered = sorted(ids, key=str.encode)  # the order of strings in Milvus is that of their bytes
    with explain_errors(f"prune {collection!r}"):
        # By ranges between ids that stay: pymilvus' query iterator puts ids with a quote unescaped into its filter.
        for start in range(0, len(ordered), batch_size):
            batch = ordered[start : start + batch_size]
            bounds = [f"id >= {_literal(batch[0])}"] if start else []
            if start + batch_size < len(ordered):
                bounds.append(f"id < {_literal(ordered[start + batch_size])}")
            client.delete(collection, filter=" and ".join([*bounds, f"not ({_among(batch)})"]), timeout=timeout)
    return before - _count(client, collection, timeout)


def _count(client: Any, collection: str, timeout: float | None) -> int:
    with explain_errors(f"count the documents of {collection!r}"):
        rows = client.query(
            collection, filter="", output_fields=["count(*)"], consistency_level="Strong", timeout=timeout
        )
    return int(rows[0]["count(*)"])


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
    return f"id in {_literal(ids)}"


def _literal(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)


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
