"""Milvus results in, texts to score out, with everything else of each hit kept beside them."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from milvus_rerank.errors import HitError, InputError
from milvus_rerank.results import RerankResult
from milvus_rerank.validation import check_choice, check_list

Missing = Literal["error", "skip", "last"]
_MISSING = ("error", "skip", "last")
# Keys beside the primary key in pymilvus' hits; whatever else stands there is the key.
_HIT_KEYS = frozenset({"distance", "entity", "offset", "highlight", "score"})


@dataclass(frozen=True, slots=True)
class Hit:
    """One hit in one form, whatever pymilvus returned.

    :param index: position in the list of hits.
    :param id: primary key; None if the hit does not tell it.
    :param distance: first-stage distance or score; None for query rows.
    :param entity: the fields, dynamic ones included.
    :param extra: other keys of the hit, such as ``highlight``; None if there are none.
    :param text: the text to score; None if it is missing or null.
    """

    index: int
    id: int | str | None
    distance: float | None
    entity: dict[str, Any]
    extra: dict[str, Any] | None
    text: str | None

    @property
    def result(self) -> RerankResult:
        """The hit without a score."""
        return RerankResult(self.text or "", None, self.index, self.id, self.distance, self.entity, self.extra)


@dataclass(frozen=True, slots=True)
class Candidates:
    """One query's hits, those with a text apart from those without.

    :param scored: hits with a text, in input order.
    :param unscored: hits without one that are to be kept at the end, in input order.
    """

    scored: list[Hit]
    unscored: list[Hit]

    @property
    def texts(self) -> list[str]:
        """The texts to score, one for each of ``scored``."""
        return [hit.text or "" for hit in self.scored]


def check_missing(missing: object) -> None:
    """Check what to do with a hit whose text is absent or null.

    :param missing: what the caller gave.
    :raises InputError: if it is none of ``error``, ``skip`` and ``last``.
    """
    check_choice(missing, "missing", _MISSING)


def read_hits(hits: Any, text_field: str, *, missing: str = "error", id_field: str | None = None) -> Candidates:
    """Read one query's hits.

    :param hits: hits, a page of a search iterator, query rows, or a search result of a single query.
    :param text_field: the field that holds the text.
    :param missing: ``error``, ``skip`` or ``last``: what to do with a hit whose text is absent or null.
    :param id_field: the primary key's name, where plain dicts do not tell it.
    :returns: the hits, in input order.
    :raises HitError: if a hit has no text and ``missing`` is ``error``, or its text is no string.
    :raises InputError: if this is no list of hits.
    """
    check_missing(missing)
    items = check_list(hits, "hits", "hits")
    if items and all(_is_list(item) for item in items):
        if len(items) > 1:
            raise InputError(
                f"hits holds the hits of {len(items)} queries; pass a list of {len(items)} queries with it"
            )
        items = list(items[0])  # type: ignore[call-overload]
    read = [_read(item, index, text_field, id_field) for index, item in enumerate(items)]
    for hit in read:
        if hit.text is None and missing == "error":
            state = "is null" if text_field in hit.entity else "is missing"
            raise HitError(
                f"hit {hit.index} (id {hit.id!r}): field {text_field!r} {state}; the hit has the fields "
                f"{sorted(map(str, hit.entity)) or 'none'}",
                "Name the field with text_field=..., ask Milvus for it with "
                f"output_fields=[{text_field!r}], or pass missing='skip' or 'last'",
            )
    return Candidates(
        [hit for hit in read if hit.text is not None],
        [hit for hit in read if hit.text is None and missing == "last"],
    )


def read_search_result(
    result: Any, text_field: str, queries: int, *, missing: str = "error", id_field: str | None = None
) -> list[Candidates]:
    """Read the hits of several queries.

    :param result: what ``client.search`` returned: one list of hits per query.
    :param text_field: the field that holds the text.
    :param queries: how many queries there are.
    :param missing: as in :func:`read_hits`.
    :param id_field: as in :func:`read_hits`.
    :returns: the hits of each query.
    :raises HitError: as :func:`read_hits` does.
    :raises InputError: if there is not one list of hits per query.
    """
    items = check_list(result, "hits", "lists of hits")
    for index, item in enumerate(items):
        if not _is_list(item):
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


def _is_list(item: object) -> bool:
    return isinstance(item, Iterable) and not isinstance(item, (str, bytes, Mapping))


def _read(item: Any, index: int, text_field: str, id_field: str | None) -> Hit:
    if not isinstance(item, Mapping):
        if not hasattr(item, "to_dict"):
            raise HitError(f"hits[{index}] must be a Milvus hit or a dict, got {type(item).__name__}")
        item = item.to_dict()  # ORM hits of pymilvus before 2.6
    # dict(...) sees a pymilvus hit's own keys; its [] and get() fall through to the entity's fields.
    own = dict(item)
    entity = own.get("entity")
    if not isinstance(entity, Mapping):  # a row of query() or get(), or a plain dict
        if id_field is not None and id_field not in own:
            raise HitError(f"row {index} has no field {id_field!r} to be its id; it has {sorted(map(str, own))}")
        key = id_field or _row_key(own, index)
        return Hit(index, own.get(key) if key else None, own.get("distance"), own, None, _text(own, text_field, index))
    key = getattr(item, "_pk_name", None) or id_field or _key_name(own)
    extra = {name: value for name, value in own.items() if name not in ("entity", "distance", key)}
    fields = dict(entity)
    text = _text(fields if text_field in fields else own, text_field, index)
    return Hit(index, own.get(key) if key else None, own.get("distance"), fields, extra or None, text)


def _row_key(own: Mapping[str, Any], index: int) -> str | None:
    found = [name for name in ("id", "pk") if name in own]
    if len(found) > 1:
        raise HitError(f"row {index} has both 'id' and 'pk'; say which is the primary key with id_field='id' or 'pk'")
    return found[0] if found else None


def _key_name(own: Mapping[str, Any]) -> str | None:
    others = [name for name in own if name not in _HIT_KEYS]
    return next((name for name in ("id", "pk") if name in others), others[0] if len(others) == 1 else None)


def _text(fields: Mapping[str, Any], text_field: str, index: int) -> str | None:
    text = fields.get(text_field)
    if text is not None and not isinstance(text, str):
        raise HitError(f"hit {index}: field {text_field!r} must hold a string, got {type(text).__name__}")
    return text
