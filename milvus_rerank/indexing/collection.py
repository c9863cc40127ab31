"""Create the collection of the index command, and describe any other collection."""

import hashlib
import re
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from milvus_rerank.errors import InputError
from milvus_rerank.indexing.client import explain_errors
from milvus_rerank.indexing.corpus import MAX_ID_BYTES, MAX_TEXT_BYTES
from milvus_rerank.models import model_folder

EMBEDDER_KEY = "milvus_rerank.embedder"
"""The collection property that names the embedder of the vectors."""


class Embedder(Protocol):
    """Embeds documents and queries."""

    model_name: str

    @property
    def dim(self) -> int:
        """The number of dimensions of a vector."""

    def encode_documents(self, documents: list[str]) -> NDArray[np.float32]:
        """Return one vector per document, shape ``(documents, dim)``."""

    def encode_queries(self, queries: list[str]) -> NDArray[np.float32]:
        """Return one vector per query, shape ``(queries, dim)``."""


@dataclass(frozen=True, slots=True)
class CollectionInfo:
    """Description of a collection.

    :param name: the collection's name.
    :param primary: the primary key field.
    :param fields: the fields without vectors; the dynamic field is ``$meta``.
    :param dense: the dense vector fields, with their dimensions.
    :param bm25: the field that Milvus fills for BM25; None if there is none.
    :param embedder: the name and fingerprint of the embedder; None if the index command did not make the collection.
    """

    name: str
    primary: str
    fields: tuple[str, ...]
    dense: dict[str, int]
    bm25: str | None
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
    functions = [function for function in schema.get("functions", ()) if function["type"].name == "BM25"]
    return CollectionInfo(
        name=collection,
        primary=next((field["name"] for field in schema["fields"] if field.get("is_primary")), "id"),
        fields=(*scalars, "$meta") if schema.get("enable_dynamic_field") else tuple(scalars),
        dense={name: int(field["params"]["dim"]) for name, field in vectors.items() if "dim" in field["params"]},
        bm25=str(functions[0]["output_field_names"][0]) if functions else None,
        embedder=(schema.get("properties") or {}).get(EMBEDDER_KEY),
    )


def only_collection(client: Any, timeout: float | None = 30.0) -> str:
    """Return the name of the only collection; raise an ``InputError`` if there are none or several."""
    with explain_errors("list its collections"):
        names = sorted(client.list_collections(timeout=timeout))
    if len(names) != 1:
        raise InputError(f"choose a collection with --collection; the collections are: {', '.join(names) or 'none'}")
    return str(names[0])


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
    if info.embedder is not None and info.embedder.split()[-1] != current.split()[-1]:
        raise InputError(
            f"the collection {info.name!r} was indexed with the embedder {info.embedder}, got {current}: their vectors "
            f"cannot be compared. Choose the embedder of the collection with --embedder, or index into another one"
        )


def fingerprint(embedder: Embedder) -> str:
    """Return an embedder's name and a hash of its weights, such as ``builtin/embed sha256:0123456789ab``."""
    folder = model_folder(embedder.model_name)
    digest = hashlib.sha256()
    for path in sorted(folder.glob("*.safetensors")) if folder else ():
        digest.update(path.read_bytes())
    return f"{embedder.model_name} sha256:{digest.hexdigest()[:12]}"


def has_bm25(client: Any, timeout: float | None = 30.0) -> bool:
    """Return whether the server can search by BM25: Milvus from 2.5 on, Milvus Lite from 3 on."""
    with explain_errors("tell its version"):
        version = str(client.get_server_version(timeout=timeout))
    numbers = re.search(r"(\d+)\.(\d+)", version)
    return numbers is not None and (int(numbers[1]), int(numbers[2])) >= ((3, 0) if "lite" in version else (2, 5))
