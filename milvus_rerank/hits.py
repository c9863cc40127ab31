"""Milvus results in, texts to score out, with everything else of each hit kept beside them."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

from milvus_rerank.errors import HitError, InputError
from milvus_rerank.results import RerankResult
from milvus_rerank.text_field import TextField, TextTemplate, read_text_field
from milvus_rerank.validation import check_choice, check_list, check_text

Missing = Literal["error", "skip", "last"]
"""The treatment of a hit whose text is absent or null."""

MISSING: tuple[Missing, ...] = get_args(Missing)
# Keys of a pymilvus hit beside its primary key.
_HIT_KEYS = frozenset({"distance", "entity", "offset", "highlight"})


@dataclass(frozen=True, slots=True)
class Candidates:
    """One query's hits, those with a text apart from those without.

    :param scored: hits with a text, in input order, without a score so far.
    :param unscored: hits without a text that are kept at the end, in input order.
    """

    scored: list[RerankResult[None]]
    unscored: list[RerankResult[None]]

    def in_order(self) -> list[RerankResult[None]]:
        """Return all hits in input order."""
        return sorted((*self.scored, *self.unscored), key=lambda hit: hit.index)


def read_hits(hits: Any, text_field: TextField, *, missing: str = "error", id_field: str | None = None) -> Candidates:
    """Read one query's hits.

    Objects of pymilvus say what they are. A plain dict, such as a row of ``query`` or a hit that went through JSON, is
    a hit if it has exactly a hit's keys: ``distance``, ``entity``, the primary key, and ``offset`` or
    ``highlight``. Any other dict is a row, and so are all with ``id_field``, for fields may have any names.

    :param hits: hits, a page of a search iterator, query rows, or a search result of a single query.
    :param text_field: the field that holds the text, several, or a template.
    :param missing: ``error``, ``skip`` or ``last``: the treatment of a hit whose text, or a part of it, is absent or
        null.
    :param id_field: the name of the rows' primary key; plain dicts are then rows.
    :returns: the hits, in input order.
    :raises HitError: if a text is not a string, or is missing and ``missing`` is ``error``.
    :raises InputError: for any value but a list of hits.
    """
    if missing not in MISSING:
        check_choice(missing, "missing", MISSING)
    items = check_list(hits, "hits", "hits")
    if items and all(isinstance(item, Iterable) and not isinstance(item, (str, bytes, Mapping)) for item in items):
        if len(items) > 1:
            raise InputError(
                f"hits holds the hits of {len(items)} queries; pass a list of {len(items)} queries with it"
            )
        items = list(items[0])  # type: ignore[call-overload]
    template = read_text_field(text_field)
    scored: list[RerankResult[None]] = []
    unscored: list[RerankResult[None]] = []
    for index, item in enumerate(items):
        hit, text = _read(item, index, template, id_field)
        if text is not None:
            scored.append(hit)
        elif missing == "last":
            unscored.append(hit)
        elif missing == "error":
            fields = hit.entity or {}
            lacking = next((name for name in template.names if fields.get(name) is None), template.names[0])
            state = "is null" if lacking in fields else "is missing"
            raise HitError(
                f"hit {index} (id {hit.id!r}): field {lacking!r} {state}; the hit has the fields "
                f"{sorted(map(str, fields)) or 'none'}",
                "Name the field with text_field=..., ask Milvus for it with "
                f"output_fields={list(dict.fromkeys(template.names))}, or pass missing='skip' or 'last'",
            )
    return Candidates(scored, unscored)


def read_search_result(
    result: Any, text_field: TextField, queries: int, *, missing: str = "error", id_field: str | None = None
) -> list[Candidates]:
    """Read the hits of several queries.

    :param result: the result of ``client.search``: one list of hits per query.
    :param text_field: as in :func:`read_hits`.
    :param queries: the number of queries.
    :param missing: as in :func:`read_hits`.
    :param id_field: as in :func:`read_hits`.
    :returns: the hits of each query.
    :raises HitError: as :func:`read_hits` does.
    :raises InputError: unless there is one list of hits per query.
    """
    items = check_list(result, "hits", "lists of hits")
    for index, item in enumerate(items):
        if isinstance(item, (str, bytes, Mapping)) or not isinstance(item, Iterable):
            raise InputError(f"hits[{index}] must be the list of one query's hits, got {type(item).__name__}")
    if len(items) != queries:
        raise InputError(f"got {queries} queries, but hits of {len(items)}; expected one list of hits per query")
    lists = []
    for index, item in enumerate(items):
        try:
            lists.append(read_hits(item, text_field, missing=missing, id_field=id_field))
        except HitError as error:
            problem = f"hits[{index}]: {error.problem}" if queries > 1 else error.problem
            raise HitError(problem, error.advice) from error
    return lists


def _read(item: Any, index: int, template: TextTemplate, id_field: str | None) -> tuple[RerankResult[None], str | None]:
    """Return a hit without a score, and its text; None if a part of that is missing or null."""
    if not isinstance(item, Mapping):
        if not hasattr(item, "to_dict"):
            raise HitError(f"hits[{index}] must be a Milvus hit or a dict, got {type(item).__name__}")
        item = item.to_dict()  # ORM hits of pymilvus before 2.6
    # dict(...) has only the keys of a pymilvus hit; its [] and get() fall through to the entity's fields.
    keys = dict(item)
    if _is_hit(item, keys, id_field):
        others = [name for name in keys if name not in _HIT_KEYS]
        named = [name for name in ("id", "pk") if name in others] or (others if len(others) == 1 else [])
        key = getattr(item, "_pk_name", None) or next(iter(named), None)
        extra = {name: value for name, value in keys.items() if name not in ("entity", "distance", key)}
        fields, distance = dict(keys["entity"]), keys.get("distance")
        values: list[Any] = [fields.get(name, keys[key] if name == key else None) for name in template.names]
    else:
        if id_field is not None and id_field not in keys:
            raise HitError(f"row {index} has no field {id_field!r} to be its id; it has {sorted(map(str, keys))}")
        key, extra, fields, distance = id_field or _row_key(keys, index), {}, keys, None
        values = [keys.get(name) for name in template.names]
    for position, value in enumerate(values):
        name = template.names[position]
        if value is not None and not isinstance(value, str):
            raise HitError(f"hit {index}: field {name!r} must hold a string, got {type(value).__name__}")
        values[position] = value and check_text(value, f"hit {index}: field {name!r}")
    text: str | None = None if None in values else template.join(values) if template.around else values[0]
    primary_key = keys.get(key) if key else None
    hit = RerankResult(text or "", None, index, primary_key, distance, fields, extra or None, id_field=key or "id")
    return hit, text


def _is_hit(item: Any, keys: Mapping[str, Any], id_field: str | None) -> bool:
    """Tell whether a dict is a hit of a search; else it is a row."""
    if not isinstance(keys.get("entity"), Mapping):
        return False
    if hasattr(item, "_pk_name"):  # a Hit of pymilvus
        return True
    distance, others = keys.get("distance"), keys.keys() - _HIT_KEYS
    is_number = hasattr(distance, "__float__") and not isinstance(distance, bool)
    return id_field is None and is_number and len(others) == 1


def _row_key(keys: Mapping[str, Any], index: int) -> str | None:
    names = [name for name in ("id", "pk") if name in keys]
    if len(names) > 1:
        raise HitError(f"row {index} has both 'id' and 'pk'; say which is the primary key with id_field='id' or 'pk'")
    return names[0] if names else None
