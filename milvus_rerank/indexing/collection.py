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
    """Read the description of a collection.

    :param client: a ``MilvusClient``.
    :param collection: the collection's name.
    :param timeout: seconds to wait.
    :returns: the description.
    :raises InputError: if the collection does not exist.
    :raises SearchError: if Milvus does not answer.
    """
    with explain_errors(f"describe the collection {collection!r}"):
        if not client.has_collection(collection, timeout=timeout):
            names = ", ".join(sorted(client.list_collections(timeout=timeout))) or "none"
            raise InputError(f"there is no collection {collection!r}; there are: {names}")
        told_of = client.describe_collection(collection, timeout=timeout)
    vectors = {entry["name"]: entry for entry in told_of["fields"] if "VECTOR" in entry["type"].name}
    scalars = [entry["name"] for entry in told_of["fields"] if entry["name"] not in vectors]
    bm25 = [out for made in told_of.get("functions", ()) if made["type"].name == "BM25" for out in _outputs(made)]
    return CollectionInfo(
        name=collection,
        primary=next((field["name"] for field in told_of["fields"] if field.get("is_primary")), "id"),
        fields=(*scalars, "$meta") if told_of.get("enable_dynamic_field") else tuple(scalars),
        dense={name: int(field["params"]["dim"]) for name, field in vectors.items() if "dim" in field["params"]},
        bm25=next(iter(bm25), None),
        embedder=(told_of.get("properties") or {}).get(EMBEDDER_KEY),
    )


def only_collection(client: Any, timeout: float | None = 30.0) -> str:
    """Return the name of the only collection.

    :param client: a ``MilvusClient``.
    :param timeout: seconds to wait.
    :returns: the collection's name.
    :raises InputError: if there is no collection, or more than one.
    :raises SearchError: if Milvus does not answer.
    """
    with explain_errors("list its collections"):
        names = sorted(client.list_collections(timeout=timeout))
    if len(names) != 1:
        raise InputError(f"choose a collection with --collection; there are: {', '.join(names) or 'none'}")
    return str(names[0])


def create(client: Any, collection: str, embedder: Embedder, timeout: float | None) -> None:
    """Create an empty collection for passages.

    :param client: a ``MilvusClient``.
    :param collection: the collection's name.
    :param embedder: the embedder of the passages.
    :param timeout: seconds to wait.
    :raises SearchError: if Milvus cannot create the collection.
    """
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
    """Create the missing indexes of a collection, and load it; this also completes a killed run.

    :param client: a ``MilvusClient``.
    :param info: the collection.
    :param timeout: seconds to wait.
    :raises SearchError: if Milvus fails.
    """
    with explain_errors(f"index and load the collection {info.name!r}"):
        there = set(client.list_indexes(info.name, timeout=timeout))
        kinds = {"vector": ("AUTOINDEX", "COSINE"), "sparse": ("SPARSE_INVERTED_INDEX", "BM25")}
        for field in ("vector", *([info.bm25] if info.bm25 else [])):
            if field not in there and field in kinds:
                params = client.prepare_index_params()
                params.add_index(field, index_type=kinds[field][0], metric_type=kinds[field][1])
                # Do not wait: the collection is still empty, and pymilvus' wait takes at least half a second.
                client.create_index(info.name, params, timeout=timeout, sync=False)
        client.load_collection(info.name, timeout=timeout)


def load(client: Any, info: CollectionInfo, timeout: float | None = 30.0) -> None:
    """Load a collection that is not loaded: Milvus Lite opens every file with its collections released.

    :param client: a ``MilvusClient``.
    :param info: the collection.
    :param timeout: seconds to wait.
    :raises SearchError: if Milvus fails.
    """
    with explain_errors(f"load the collection {info.name!r}"):
        if client.get_load_state(info.name, timeout=timeout)["state"].name != "Loaded":
            client.load_collection(info.name, timeout=timeout)


def check_made_for(info: CollectionInfo, embedder: Embedder) -> None:
    """Check that a collection can take passages with this embedder's vectors.

    :param info: the collection.
    :param embedder: the embedder of the passages.
    :raises InputError: if the collection has other fields, or its vectors come from another embedder.
    """
    lacking = sorted({"id", "title", "text", "$meta"} - {*info.fields})
    if lacking or info.primary != "id" or "vector" not in info.dense:
        raise InputError(
            f"the collection {info.name!r} was not made by milvus-rerank index: expected the primary key 'id', the "
            f"fields 'title', 'text' and 'vector' and dynamic fields; it has {sorted([*info.fields, *info.dense])}. "
            f"Choose another name with --collection"
        )
    check_embedder(info, "vector", embedder)


def check_embedder(info: CollectionInfo, field: str, embedder: Embedder) -> None:
    """Check that the vectors of a field and of an embedder are comparable.

    :param info: the collection.
    :param field: the vector field.
    :param embedder: the embedder of queries, or of more documents.
    :raises InputError: if the dimensions differ, or the collection names another embedder.
    """
    if info.dense[field] != embedder.dim:
        raise InputError(
            f"the field {field!r} of the collection {info.name!r} has {info.dense[field]} dimensions, but the embedder "
            f"{embedder.model_name!r} makes {embedder.dim}; embed with the model that made it, or index anew"
        )
    given = fingerprint(embedder)
    if info.embedder is not None and info.embedder.split()[-1] != given.split()[-1]:
        raise InputError(
            f"the collection {info.name!r} was indexed with the embedder {info.embedder}, this one is {given}: their "
            f"vectors cannot be compared. Index into another collection, or choose that embedder with --embedder"
        )


def fingerprint(embedder: Embedder) -> str:
    """Return an embedder's name and a hash of its weights, as a model can change under the same name.

    :param embedder: the embedder.
    :returns: a text such as ``builtin/embed sha256:0123456789ab``.
    """
    folder = model_folder(embedder.model_name)
    digest = hashlib.sha256()
    for path in sorted(folder.glob("*.safetensors")) if folder else ():
        digest.update(path.read_bytes())
    return f"{embedder.model_name} sha256:{digest.hexdigest()[:12]}"


def has_bm25(client: Any, timeout: float | None = 30.0) -> bool:
    """Return whether the server can search by BM25: Milvus from 2.5 on, Milvus Lite from 3 on.

    :param client: a ``MilvusClient``.
    :param timeout: seconds to wait.
    :returns: True if it can; False also for a version that cannot be parsed.
    :raises SearchError: if Milvus does not answer.
    """
    with explain_errors("tell its version"):
        version = str(client.get_server_version(timeout=timeout))
    found = re.search(r"(\d+)\.(\d+)", version)
    return found is not None and (int(found[1]), int(found[2])) >= ((3, 0) if "lite" in version else (2, 5))


def _outputs(made: dict[str, Any]) -> list[str]:
    return [str(name) for name in made["output_field_names"]]
