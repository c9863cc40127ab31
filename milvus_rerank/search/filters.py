"""Names of fields in Milvus' filters: those that a collection does not have."""

import json
import re
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from typing import Any

FIELDS_KEY = "milvus_rerank.fields"
"""The collection property that names the keys of the dynamic field, a JSON list that ``milvus-rerank index`` writes."""

_TEXT = re.compile(r"""'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*\"|\$?\[\s*['"A-Za-z_][^\]]*\]|\{\w+\}""")
"""Texts, lists of texts, keys of JSON and struct fields, and template variables in a filter."""
_NAME = re.compile(r"(?<![\w.$])[A-Za-z_]\w*(?!\w|\s*\(|\s*=(?!=))")
"""Names in a filter, except those of functions and of their arguments."""
_WORDS = frozenset({"and", "or", "not", "in", "like", "is", "null", "true", "false", "exists", "iso", "interval"})


def names_in(expression: str) -> list[str]:
    """Return the names of fields in a filter, in their order."""
    names = [match[0] for match in _NAME.finditer(_TEXT.sub("''", expression))]
    return [name for name in dict.fromkeys(names) if name.lower() not in _WORDS]


def unknown_field(expression: str, schema: Mapping[str, Any]) -> tuple[str | None, str] | None:
    """Return the name in a filter that may be why a search found nothing.

    Milvus takes an unknown name for a key of the dynamic field, or for a field that no row has. Which keys a dynamic
    field has is known only if ``milvus-rerank index`` wrote the rows; another program may have added some since.

    :param expression: the filter.
    :param schema: the collection, as ``describe_collection`` returns it; empty if it is not known.
    :returns: the name, if a row may have it as a key of the dynamic field, else None; and the text of an error. None if
        the collection has all fields, or may have them.
    """
    names = {entry["name"] for entry in schema.get("fields", ())}
    is_dynamic = bool(schema.get("enable_dynamic_field"))
    if is_dynamic:
        written = (schema.get("properties") or {}).get(FIELDS_KEY)
        if written is None:
            return None
        names |= {"$meta", *json.loads(written)}
    for name in names_in(expression) if names else ():
        if name not in names and (not is_dynamic or get_close_matches(name, names, 1)):
            return name if is_dynamic else None, missing_field(f"the filter {expression!r}", name, names)
    return None


def missing_field(what: str, name: str, known: Iterable[str]) -> str:
    """Return the text of the error for a filter, or a list of fields, that names a field which the collection lacks.

    :param what: the filter or list, for the message.
    :param name: the field.
    :param known: the fields and keys that are known.
    :returns: the text, with the nearest name, or all names.
    """
    names = sorted(set(known) - {"$meta"})
    near = get_close_matches(name, names, 1)
    advice = f"did you mean {near[0]!r}?" if near else f"its fields are {names}"
    return f"{what} names {name!r}, which the collection does not have; {advice}"
