"""Create the collection of the index command, and check the embedder of any collection."""

import hashlib
import json
import re
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from milvus_rerank.errors import InputError, ModelError
from milvus_rerank.indexing.client import explain_errors
from milvus_rerank.indexing.corpus import MAX_ID_BYTES, MAX_TEXT_BYTES
from milvus_rerank.indexing.embedders import DEFAULT, FORMS, Embedder, load_embedder, local_folder
from milvus_rerank.indexing.schema import EMBEDDER_KEY, CollectionInfo, describe
from milvus_rerank.models import BUILTIN
from milvus_rerank.search.filters import FIELDS_KEY


def remember_fields(client: Any, info: CollectionInfo, names: set[str], timeout: float | None) -> CollectionInfo:
    """Store the keys of the passages with the collection, so that a search can tell a wrong name in a filter."""
    with explain_errors(f"store the fields of {info.name!r}"):
        value = {FIELDS_KEY: json.dumps(sorted(names))}
        client.alter_collection_properties(info.name, properties=value, timeout=timeout)
    return replace(info, dynamic=frozenset(names))


def count_rows(client: Any, collection: str, timeout: float | None = 30.0) -> int:
    """Return how many rows a collection holds, just written ones included; it must be loaded."""
    with explain_errors(f"count the rows of {collection!r}"):
        rows = client.query(
            collection, filter="", output_fields=["count(*)"], consistency_level="Strong", timeout=timeout
        )
    return int(rows[0]["count(*)"])


def create(client: Any, collection: str, embedder: Embedder, timeout: float | None) -> None:
    """Create an empty collection for passages and the vectors of an embedder."""
    from pymilvus import DataType, Function, FunctionType

    full_text = has_bm25(client, timeout)
    schema = client.create_schema(auto_id=False, enable_dynamic_field=True)
    schema.add_field("id", DataType.VARCHAR, is_primary=True, max_length=MAX_ID_BYTES)
    schema.add_field("title", DataType.VARCHAR, max_length=MAX_TEXT_BYTES)
    options = {"enable_analyzer": True} if full_text else {}
    schema.add_field("text", DataType.VARCHAR, max_length=MAX_TEXT_BYTES, **options)
    schema.add_field("vector", DataType.FLOAT_VECTOR, dim=embedder.dim)
    if full_text:
        schema.add_field("sparse", DataType.SPARSE_FLOAT_VECTOR)
        schema.add_function(Function("bm25", FunctionType.BM25, ["text"], ["sparse"]))
    with explain_errors(f"create the collection {collection!r}"):
        client.create_collection(
            collection,
            schema=schema,
            properties={EMBEDDER_KEY: fingerprint(embedder)},
            consistency_level="Strong",  # a search right after indexing must find all passages
            timeout=timeout,
        )


def make_ready(client: Any, info: CollectionInfo, timeout: float | None) -> None:
    """Create the missing indexes of a collection, and load it; this also completes a killed run."""
    with explain_errors(f"index and load the collection {info.name!r}"):
        indexed = set(client.list_indexes(info.name, timeout=timeout))
        kinds = {"vector": ("AUTOINDEX", "COSINE"), "sparse": ("SPARSE_INVERTED_INDEX", "BM25")}
        for field in ("vector", *info.bm25):
            if field not in indexed and field in kinds:
                params = client.prepare_index_params()
                params.add_index(field, index_type=kinds[field][0], metric_type=kinds[field][1])
                # Do not wait: the collection is still empty, and pymilvus' wait takes at least half a second.
                client.create_index(info.name, params, timeout=timeout, sync=False)
        client.load_collection(info.name, timeout=timeout)


def load(client: Any, info: CollectionInfo, timeout: float | None = 30.0) -> None:
    """Load a collection that is not loaded: Milvus Lite opens every file with its collections released."""
    with explain_errors(f"load the collection {info.name!r}"):
        if client.get_load_state(info.name, timeout=timeout)["state"].name != "Loaded":
            client.load_collection(info.name, timeout=timeout)


def check_made_for(info: CollectionInfo, embedder: Embedder) -> None:
    """Raise an ``InputError`` if a collection has other fields than an index, or vectors of another embedder."""
    if {"id", "title", "text", "$meta"} - {*info.fields} or info.primary != "id" or "vector" not in info.dense:
        raise InputError(
            f"the collection {info.name!r} was not made by milvus-rerank index: expected the primary key 'id', the "
            f"fields 'title', 'text' and 'vector' and dynamic fields; it has {sorted([*info.fields, *info.dense])}. "
            f"Choose another name with --collection"
        )
    check_embedder(info, "vector", embedder)


def check_embedder(info: CollectionInfo, field: str, embedder: Embedder) -> None:
    """Raise an ``InputError`` if the vectors of a field and of an embedder are not comparable."""
    if info.dense[field] != embedder.dim:
        raise InputError(
            f"the field {field!r} of the collection {info.name!r} has {info.dense[field]} dimensions, but the embedder "
            f"{embedder.model_name!r} makes {embedder.dim}; choose the embedder of the collection with --embedder, or "
            f"index anew"
        )
    if not is_made_with(info, embedder):
        raise InputError(
            f"the collection {info.name!r} was indexed with the embedder {info.embedder}, got {fingerprint(embedder)}: "
            f"their vectors cannot be compared. Choose the embedder of the collection with --embedder, or index into "
            f"another one"
        )


def is_made_with(info: CollectionInfo, embedder: Embedder) -> bool:
    """Return whether an embedder may have made a collection's vectors: it has the same weights, or name."""
    if info.embedder is None:
        return True
    (name, _, weights), (other, _, others) = (
        text.partition(" sha256:") for text in (info.embedder, fingerprint(embedder))
    )
    return weights == others if weights and others else name == other


def fingerprint(embedder: Embedder) -> str:
    """Return an embedder's name, and for a folder a hash of its weights: ``builtin/embed sha256:0123456789ab``."""
    name = embedder.model_name
    folder = local_folder(name) if name.startswith(BUILTIN) or Path(name).expanduser().is_dir() else None
    if folder is None:
        return name
    if not name.startswith(BUILTIN):
        name = str(folder.resolve())  # a search may run in another folder
    files = sorted([*folder.glob("*.safetensors"), *folder.glob("*/*.safetensors")])
    states = tuple((str(path), path.stat().st_size, path.stat().st_mtime_ns) for path in files)
    return f"{name} sha256:{_hash(states)[:12]}" if files else name


@lru_cache(maxsize=16)
def _hash(states: tuple[tuple[str, int, int], ...]) -> str:
    """Return the hash of files, each given by its path, its size and the time of its last change."""
    digest = hashlib.sha256()
    for path, _, _ in states:
        with open(path, "rb") as file:
            while block := file.read(2**20):
                digest.update(block)
    return digest.hexdigest()


def embedder_of(info: CollectionInfo, name: str | None) -> Embedder:
    """Return the embedder for a collection's queries.

    :param info: the collection.
    :param name: the name that the user typed; None for the embedder that the collection remembers.
    :returns: the embedder.
    :raises InputError: if there is no name, because the index command did not make the collection.
    """
    if name is not None:
        return load_embedder(name)
    if info.embedder is None:
        sizes = ", ".join(f"{field!r} has {dim} dimensions" for field, dim in info.dense.items())
        raise InputError(
            f"the collection {info.name!r} does not say which embedder made its vectors ({sizes}); name it with "
            f"--embedder: {FORMS}. Or search its texts with --mode bm25"
            + ("" if info.bm25 else ", which this collection does not support")
        )
    remembered = info.embedder.partition(" sha256:")[0]
    try:
        return load_embedder(remembered, trusted=False)
    except ModelError as error:
        raise ModelError(
            f"the embedder of the collection {info.name!r} cannot be loaded: {error}. If the model is elsewhere now, "
            f"name it with --embedder"
        ) from error


def index_embedder(client: Any, collection: str, timeout: float | None = 30.0) -> Embedder:
    """Return the embedder for more passages of a collection: the one that it remembers, or the built-in one."""
    with explain_errors(f"look for the collection {collection!r}"):
        exists = client.has_collection(collection, timeout=timeout)
    info = describe(client, collection, timeout) if exists else None
    return embedder_of(info, None) if info is not None and info.embedder else load_embedder(DEFAULT)


def has_bm25(client: Any, timeout: float | None = 30.0) -> bool:
    """Return whether the server can search by BM25: Milvus from 2.5 on, Milvus Lite from 3 on."""
    with explain_errors("tell its version"):
        version = str(client.get_server_version(timeout=timeout))
    numbers = re.search(r"(\d+)\.(\d+)", version)
    return numbers is not None and (int(numbers[1]), int(numbers[2])) >= ((3, 0) if "lite" in version else (2, 5))
