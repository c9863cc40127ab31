"""Errors of the config file: the table, the key, and what was probably meant."""

from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from typing import TYPE_CHECKING

from pydantic import ValidationError

from milvus_rerank.validation import describe

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

_FORMS = {
    "dict_type": "a table",
    "float_type": "a number",
    "greater_than": "a number above {gt}",
    "greater_than_equal": "at least {ge}",
    "int_type": "an integer",
    "less_than_equal": "at most {le}",
    "list_type": "a list of strings",
    "model_type": "a table",
    "string_pattern_mismatch": "the name of an environment variable",
    "string_type": "a string",
}
"""Expected values by pydantic's types of errors."""
SECRETS = ("api_key", "password", "secret", "token")
"""Keys that belong in the environment."""


def problem(error: ValidationError, tables: Mapping[str, Sequence[str]]) -> str:
    """Return the first problem in one sentence: the key, the value, and what is expected or was probably meant.

    :param error: the error of pydantic.
    :param tables: the keys of each table.
    :returns: the sentence.
    """
    details = error.errors(include_url=False)
    first = details[0]
    place = first["loc"]
    if first["type"] == "extra_forbidden":
        return _unknown(tables, *map(str, place))
    alike = [detail for detail in details if detail["loc"][:2] == place[:2]]  # one for each type that a key may have
    expected = " or ".join(dict.fromkeys(map(_expected, alike)))
    if place[0] == "steps":
        return f"[[steps]]: {expected}"
    name = " ".join([f"[{place[0]}]", *map(str, place[1:2])])
    if first["type"] == "value_error":
        return f"{name}: {expected}"
    return f"{name}: expected {expected}, got {describe(first['input'])}"


def _expected(detail: "ErrorDetails") -> str:
    if isinstance(detail["loc"][-1], int):
        return "a list of strings"
    if detail["type"] == "value_error":
        return str(detail["ctx"]["error"])
    form = _FORMS.get(detail["type"])
    return form.format(**detail.get("ctx", {})) if form else detail["msg"].removeprefix("Input should be ")


def _unknown(tables: Mapping[str, Sequence[str]], table: str, key: str | None = None) -> str:
    homes = [f"[{name}]" for name, keys in tables.items() if (key or table) in keys]
    if key is None:
        near = get_close_matches(table, tables, 1)
        hint = f"did you mean [{near[0]}]?" if near else f"the tables are {', '.join(f'[{name}]' for name in tables)}"
        return f"{table!r} belongs in {' or '.join(homes)}" if homes else f"there is no table [{table}]; {hint}"
    near = get_close_matches(key, tables[table], 1)
    if key in SECRETS:
        hint = "secrets stay in the environment: name the variable, " + (
            "api_key_env" if table == "reranker" else "token_env"
        )
    elif near:
        hint = f"did you mean {near[0]!r}?"
    elif homes:
        hint = f"it belongs in {' or '.join(homes)}"
    else:
        hint = f"its keys are {', '.join(tables[table])}"
    return f"[{table}] has no key {key!r}; {hint}"
