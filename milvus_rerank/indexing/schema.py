"""Describe a collection: its fields, and those that a search of it can use."""

import json
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

from milvus_rerank.choices import Mode as Mode
from milvus_rerank.errors import InputError
from milvus_rerank.indexing.client import explain_errors
from milvus_rerank.search.filters import FIELDS_KEY
from milvus_rerank.search.first_stage import Dense, FirstStage, FullText, Hybrid
from milvus_rerank.text_field import TextField, read_text_field

EMBEDDER_KEY = "milvus_rerank.embedder"
"""The collection property that names the embedder of the vectors."""
_DENSE = ("FLOAT_VECTOR", "FLOAT16_VECTOR", "BFLOAT16_VECTOR")


@dataclass(frozen=True, slots=True)
class CollectionInfo:
    """Description of a collection.

    :param name: the collection's name.
    :param primary: the primary key field.
    :param fields: the fields without vectors; the dynamic field is ``$meta``.
    :param texts: the fields that hold strings, without the primary key.
    :param dense: the fields of dense vectors that an embedder makes, with their dimensions.
    :param bm25: the fields that Milvus fills for BM25, with the fields of their texts.
    :param embedded: the fields of dense vectors that Milvus itself embeds, with the fields of their texts.
    :param others: the vector fields of other types, with their types.
    :param dynamic: the keys in the dynamic field, as far as the index command has written them; None if unknown.
    :param embedder: the name and fingerprint of the embedder; None if the index command did not make the collection.
    """

    name: str
    primary: str
    fields: tuple[str, ...]
    texts: tuple[str, ...]
    dense: dict[str, int]
    bm25: dict[str, str]
    embedded: dict[str, str]
    others: dict[str, str]
    dynamic: frozenset[str] | None
    embedder: str | None

    @property
    def names(self) -> frozenset[str]:
        """The names that a filter or a list of output fields can use, as far as they are known."""
        return frozenset({*self.fields, *self.dense, *self.bm25, *self.embedded, *self.others, *(self.dynamic or ())})


def describe(client: Any, collection: str, timeout: float | None = 30.0) -> CollectionInfo:
    """Return the description of a collection; raise an ``InputError`` if it does not exist."""
    with explain_errors(f"describe the collection {collection!r}"):
        if not client.has_collection(collection, timeout=timeout):
            names = ", ".join(sorted(client.list_collections(timeout=timeout))) or "none"
            raise InputError(f"the collection {collection!r} does not exist; the collections are: {names}")
        schema = client.describe_collection(collection, timeout=timeout)
    types = {field["name"]: field["type"].name for field in schema["fields"]}
    vectors = {name: kind for name, kind in types.items() if "VECTOR" in kind}
    scalars = [name for name in types if name not in vectors]
    primary = next((field["name"] for field in schema["fields"] if field.get("is_primary")), "id")
    properties = schema.get("properties") or {}
    written = properties.get(FIELDS_KEY)
    filled: dict[str, dict[str, str]] = {}  # by the type of a function: its output and its input
    for function in schema.get("functions", ()):
        outputs = filled.setdefault(function["type"].name, {})
        outputs.update(dict.fromkeys(function["output_field_names"], str(function["input_field_names"][0])))
    bm25, embedded = filled.get("BM25", {}), filled.get("TEXTEMBEDDING", {})
    own = {name: kind for name, kind in vectors.items() if name not in {*bm25, *embedded}}
    return CollectionInfo(
        name=collection,
        primary=primary,
        fields=(*scalars, "$meta") if schema.get("enable_dynamic_field") else tuple(scalars),
        texts=tuple(name for name in scalars if types[name] in ("VARCHAR", "TEXT") and name != primary),
        dense={
            field["name"]: int(field["params"]["dim"]) for field in schema["fields"] if own.get(field["name"]) in _DENSE
        },
        bm25=bm25,
        embedded=embedded,
        others={name: kind for name, kind in own.items() if kind not in _DENSE},
        dynamic=None if written is None else frozenset(json.loads(written)),
        embedder=properties.get(EMBEDDER_KEY),
    )


def only_collection(client: Any, timeout: float | None = 30.0) -> str:
    """Return the name of the only collection; raise an ``InputError`` if there are none or several."""
    with explain_errors("list its collections"):
        names = sorted(client.list_collections(timeout=timeout))
    if len(names) != 1:
        raise InputError(f"choose a collection with --collection; the collections are: {', '.join(names) or 'none'}")
    return str(names[0])


def first_stage_of(
    info: CollectionInfo, mode: Mode | None, vector_field: str | None = None, text_field: TextField | None = None
) -> FirstStage:
    """Return the search of a collection's vectors, texts, or both.

    :param info: the collection.
    :param mode: ``dense`` for vectors, ``bm25`` for full text, ``hybrid`` for both, fused by RRF; None for vectors, or
        for full text if there are none.
    :param vector_field: the field to search; None for ``vector``, or the only one. With ``hybrid``, that of the dense
        vectors.
    :param text_field: the field whose texts BM25 searches, where several have BM25.
    :returns: the search. The metric is that of the field's index.
    :raises InputError: if the collection has no such field, or several could be meant.
    """
    dense = [*info.dense, *info.embedded]
    if not dense and not info.bm25:
        others = ", ".join(f"{field!r} ({kind})" for field, kind in info.others.items())
        raise InputError(
            f"the collection {info.name!r} has no dense vectors, and no BM25 field either; its other vectors, "
            f"{others or 'none'}, can be searched from Python: TwoStageSearch(...)(query, vectors=[vector])"
        )
    if mode is None:
        mode = "bm25" if info.bm25 and (not dense or vector_field in info.bm25) else "dense"
    if mode == "bm25":
        return FullText(_bm25_field(info, vector_field, text_field))
    name = _dense_field(info, dense, vector_field)
    stage = FullText(name) if name in info.embedded else Dense(name)
    return stage if mode == "dense" else Hybrid((stage, FullText(_bm25_field(info, None, text_field))))


def _dense_field(info: CollectionInfo, choices: list[str], name: str | None) -> str:
    if not choices:
        raise InputError(f"the collection {info.name!r} has no dense vectors; search its texts with --mode bm25")
    if name is not None:
        if name not in choices:
            raise InputError(f"{name!r} is not a dense vector field of {info.name!r}; it has {sorted(choices)}")
        return name
    if len(choices) != 1 and "vector" not in choices:
        raise InputError(
            f"the collection {info.name!r} has several dense vector fields, {sorted(choices)}; choose one with "
            "--vector-field"
        )
    return "vector" if "vector" in choices else choices[0]


def _bm25_field(info: CollectionInfo, name: str | None, text_field: TextField | None) -> str:
    if not info.bm25:
        raise InputError(f"the collection {info.name!r} has no BM25 field; search it with --mode dense")
    if name is not None:
        if name not in info.bm25:
            raise InputError(f"{name!r} is not a BM25 field of {info.name!r}; it has {sorted(info.bm25)}")
        return name
    named = () if text_field is None else read_text_field(text_field).names
    choices = [field for field, texts in info.bm25.items() if texts in named] or list(info.bm25)
    if len(choices) != 1:
        fields = ", ".join(f"{field!r} for the texts in {texts!r}" for field, texts in sorted(info.bm25.items()))
        raise InputError(
            f"the collection {info.name!r} has several BM25 fields, {fields}; choose one with --text-field"
        )
    return choices[0]


def text_field_of(info: CollectionInfo, text_field: TextField | None) -> TextField:
    """Return the field with the texts to rerank by.

    :param info: the collection.
    :param text_field: the field, the fields or the template that the user typed; None for ``text``, BM25's field, or
        the only one with texts.
    :returns: the same, or the field's name.
    :raises InputError: if the collection has no such field, or several could be meant.
    """
    for name in read_text_field(text_field).names if text_field is not None else ():
        if name not in info.fields and "$meta" not in info.fields:
            near = get_close_matches(name, info.fields, 1)
            hint = f"; did you mean {near[0]!r}?" if near else f"; it has {sorted(info.fields)}"
            raise InputError(f"the collection {info.name!r} has no field {name!r}{hint}")
    if text_field is not None:
        return text_field
    if "text" in info.texts:
        return "text"
    choices = list(dict.fromkeys([*info.bm25.values(), *info.embedded.values()])) or list(info.texts)
    if not choices and "$meta" in info.fields:
        return "text"
    if len(choices) != 1:
        found = f"several fields with texts, {sorted(choices)}" if choices else "no field with texts in its schema"
        raise InputError(f"the collection {info.name!r} has {found}; choose the one to rerank by with --text-field")
    return choices[0]
