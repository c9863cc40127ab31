"""The text of a hit: one of its fields, several joined by line breaks, or a template with fields."""

from collections.abc import Sequence
from dataclasses import dataclass
from string import Formatter
from typing import TypeAlias

from milvus_rerank.errors import InputError
from milvus_rerank.validation import describe

TextField: TypeAlias = str | Sequence[str]
"""The name of a field, a list of names, or a template such as ``"{title}: {text}"``."""

_EXPECTED = "expected a field's name, a list of names, or a template such as '{title}: {text}'"


@dataclass(frozen=True, slots=True)
class TextTemplate:
    """Fields, and the texts around them.

    :param names: the fields in the order of the text; one may occur several times.
    :param around: the texts before, between and after the fields, one more than ``names``; empty for a single field.
    """

    names: tuple[str, ...]
    around: tuple[str, ...] = ()

    def join(self, texts: Sequence[str]) -> str:
        """Return the whole text, given that of each of ``names``."""
        before, *others = self.around
        return before + "".join(text + after for text, after in zip(texts, others, strict=True))


def read_text_field(text_field: object) -> TextTemplate:
    """Return the template that a ``text_field`` argument means.

    :param text_field: a :data:`TextField`.
    :returns: the template.
    :raises InputError: for any other value, or a template without a field.
    """
    if isinstance(text_field, str) and ("{" in text_field or "}" in text_field):
        return _parse(text_field)
    names = (text_field,) if isinstance(text_field, str) else text_field
    if not isinstance(names, (list, tuple)) or not names or not all(isinstance(name, str) and name for name in names):
        raise InputError(f"text_field is of type {describe(text_field)}; {_EXPECTED}")
    return TextTemplate(tuple(names), () if len(names) == 1 else ("", *["\n"] * (len(names) - 1), ""))


def _parse(template: str) -> TextTemplate:
    names, around = [], [""]
    try:
        for literal, name, form, conversion in Formatter().parse(template):
            around[-1] += literal
            if name is None:
                continue
            if not name or form or conversion:
                raise ValueError("a field has a name and nothing else")
            names.append(name)
            around.append("")
    except ValueError as error:
        raise InputError(
            f"text_field {template!r} is no template: {error}; put each field's name in braces, as in "
            "'{title}: {text}', and write {{ and }} for braces of the text"
        ) from None
    if not names:
        raise InputError(f"text_field {template!r} names no field; {_EXPECTED}")
    return TextTemplate(tuple(names), tuple(around))
