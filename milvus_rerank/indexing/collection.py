"""Create the collection of the index command, and describe any other collection."""

import hashlib
import json
import re
from dataclasses import dataclass, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from milvus_rerank.errors import InputError
from milvus_rerank.indexing.client import explain_errors
from milvus_rerank.indexing.corpus import MAX_ID_BYTES, MAX_TEXT_BYTES
from milvus_rerank.indexing.embedders import DEFAULT, FORMS, Embedder, load_embedder
from milvus_rerank.models import BUILTIN, model_folder
from milvus_rerank.search.filters import FIELDS_KEY

EMBEDDER_KEY = "milvus_rerank.embedder"
"""The collection property that names the embedder of the vectors."""


@dataclass(frozen=True, slots=True)
class CollectionInfo:
    """Description of a collection.

    :param name: the collection's name.
    :param primary: the primary key field.
    :param fields: the fields without vectors; the dynamic field is ``$meta``.
    :param texts: the fields that hold strings, without the primary key.
    :param dense: the dense vector fields, with their dimensions.
    :param bm25: the field that Milvus fills for BM25; None if there is none.
    :param bm25_input: the field with the texts that BM25 searches; None if there is none.
    :param dynamic: the keys in the dynamic field, as far as the index command has written them; None if unknown.
    :param embedder: the name and fingerprint of the embedder; None if the index command did not make the collection.
    """

    name: str
    primary: str
    fields: tuple[str, ...]
    texts: tuple[str, ...]
    dense: dict[str, int]
    bm25: str | None
    bm25_input: str | None
    dynamic: frozenset[str] | None
    embedder: str | None


def describe(client: Any, collection: str, timeout: float | None = 30.0) -> CollectionInfo:
    """Return the description of a collection; raise an ``InputError`` if it does not exist."""
    with explain_errors(f"describe the collection {collection!r}"):
        if not client.has_collection(collection, timeout=timeout):
            names = ", ".join(sorted(client.list_collections(timeout=timeout))) or "none"
            raise InputError(f"the collection {collection!r} does not exist; the collections are: {names}")
        schema = client.describe_collection(collection, timeout=timeout)
    vectors = {field["name"]: field for field in schema["fields"] if "VECTOR" in field["type"].name}
    scalars = [field["name"] for field in schema["fields"] if field["name"] not in vectors]
    properties = schema.get("properties") or {}
    written = properties.get(FIELDS_KEY)
    functions = [function for function in schema.get("functions", ()) if function["type"].name == "BM25"]
    return CollectionInfo(
        name=collection,
        primary=next((field["name"] for field in schema["fields"] if field.get("is_primary")), "id"),
        fields=(*scalars, "$meta") if schema.get("enable_dynamic_field") else tuple(scalars),
        texts=tuple(
            field["name"]
            for field in schema["fields"]
            if field["type"].name == "VARCHAR" and not field.get("is_primary")
        ),
        dense={name: int(field["params"]["dim"]) for name, field in vectors.items() if "dim" in field["params"]},
        bm25=str(functions[0]["output_field_names"][0]) if functions else None,
        bm25_input=str(functions[0]["input_field_names"][0]) if functions else None,
        dynamic=None if written is None else frozenset(json.loads(written)),
        embedder=properties.get(EMBEDDER_KEY),
    )


def remember_fields(client: Any, info: CollectionInfo, names: set[str], timeout: float | None) -> CollectionInfo:
    """Store the keys of the passages with the collection, so that a search can tell a wrong name in a filter."""
    with explain_errors(f"store the fields of {info.name!r}"):
        value = {FIELDS_KEY: json.dumps(sorted(names))}
        client.alter_collection_properties(info.name, properties=value, timeout=timeout)
    return replace(info, dynamic=frozenset(names))


def only_collection(client: Any, timeout: float | None = 30.0) -> str:
    """Return the name of the only collection; raise an ``InputError`` if there are none or several."""
    with explain_errors("list its collections"):
        names = sorted(client.list_collections(timeout=timeout))
    if len(names) != 1:
        raise InputError(f"choose a collection with --collection; the collections are: {', '.join(names) or 'none'}")
    return str(names[0])


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
        for field in ("vector", *([info.bm25] if info.bm25 else [])):
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
    current = fingerprint(embedder)
    if info.embedder is not None and not _same(info.embedder, current):
        raise InputError(
            f"the collection {info.name!r} was indexed with the embedder {info.embedder}, got {current}: their vectors "
            f"cannot be compared. Choose the embedder of the collection with --embedder, or index into another one"
        )


def fingerprint(embedder: Embedder) -> str:
    """Return an embedder's name, and for a folder a hash of its weights: ``builtin/embed sha256:0123456789ab``."""
    name = embedder.model_name
    folder = model_folder(name) if name.startswith(BUILTIN) or Path(name).is_dir() else None
    files = sorted(folder.glob("*.safetensors")) if folder else []
    digest = hashlib.sha256()
    for path in files:
        digest.update(path.read_bytes())
    return f"{name} sha256:{digest.hexdigest()[:12]}" if files else name


def _same(one: str, other: str) -> bool:
    """Tell whether two fingerprints are of one embedder: by the weights if both have them, else by the name."""
    (name, _, weights), (other_name, _, other_weights) = one.partition(" sha256:"), other.partition(" sha256:")
    return weights == other_weights if weights and other_weights else name == other_name


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
    return load_embedder(info.embedder.partition(" sha256:")[0], trusted=False)


def index_embedder(client: Any, collection: str, name: str | None, timeout: float | None = 30.0) -> Embedder:
    """Return the embedder for more passages of a collection: the one named, or remembered, or the built-in one."""
    if name is None:
        with explain_errors(f"look for the collection {collection!r}"):
            exists = client.has_collection(collection, timeout=timeout)
        info = describe(client, collection, timeout) if exists else None
        return embedder_of(info, None) if info is not None and info.embedder else load_embedder(DEFAULT)
    return load_embedder(name)


def text_field_of(info: CollectionInfo, name: str | None) -> str:
    """Return the field with the texts to rerank by.

    :param info: the collection.
    :param name: the name that the user typed; None for ``text``, BM25's field, or the only one with texts.
    :returns: the field's name.
    :raises InputError: if the collection has no such field, or several could be meant.
    """
    if name is not None:
        if name not in info.fields and "$meta" not in info.fields:
            near = get_close_matches(name, info.fields, 1)
            hint = f"; did you mean {near[0]!r}?" if near else f"; it has {sorted(info.fields)}"
            raise InputError(f"the collection {info.name!r} has no field {name!r}{hint}")
        return name
    if "text" in info.texts:
        return "text"
    choices = [info.bm25_input] if info.bm25_input else list(info.texts)
    if not choices and "$meta" in info.fields:
        return "text"
    if len(choices) != 1:
        found = f"several fields with texts, {sorted(choices)}" if choices else "no field with texts in its schema"
        raise InputError(f"the collection {info.name!r} has {found}; choose the one to rerank by with --text-field")
    return choices[0]


def has_bm25(client: Any, timeout: float | None = 30.0) -> bool:
    """Return whether the server can search by BM25: Milvus from 2.5 on, Milvus Lite from 3 on."""
    with explain_errors("tell its version"):
        version = str(client.get_server_version(timeout=timeout))
    numbers = re.search(r"(\d+)\.(\d+)", version)
    return numbers is not None and (int(numbers[1]), int(numbers[2])) >= ((3, 0) if "lite" in version else (2, 5))
