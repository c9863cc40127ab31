"""Filters on the fields of a result: the part of Milvus' boolean expressions that compares fields with values.

It supports ``==``, ``!=``, ``<``, ``<=``, ``>``, ``>=``, ``in [...]``, ``not in [...]``, ``is null``, ``is not null``,
``and``, ``or``, ``not`` (also ``&&``, ``||``, ``!``) and parentheses; on the left a field, on the right a number,
a text in quotes, ``true`` or ``false``. Anything else, such as ``like``, arithmetic or functions, is an error.
"""

import ast
import operator
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from milvus_rerank.errors import InputError
from milvus_rerank.steps.step import MissingFieldError
from milvus_rerank.validation import describe

Value: TypeAlias = float | str | bool
Get: TypeAlias = Callable[[str], Any]

_TOKEN = re.compile(
    r"""\s*(?:(?P<number>-?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)(?![\w.])|(?P<text>'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*")"""
    r"""|(?P<word>[A-Za-z_]\w*)|(?P<sign>==|!=|<=|>=|&&|\|\||[<>!()\[\],]))"""
)
_COMPARE: Mapping[str, Callable[[Any, Any], bool]] = {
    "==": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}
_WORDS = {"and": "and", "&&": "and", "or": "or", "||": "or", "not": "not", "!": "not"}
_MOST_LETTERS = 10_000
_MOST_DEPTH = 50
_SUPPORTED = (
    "it supports ==, !=, <, <=, >, >=, in [...], not in [...], is null, is not null, and, or, not and parentheses, "
    "with a field on the left and a number, a text in quotes, true or false on the right"
)


@dataclass(frozen=True, slots=True)
class Comparison:
    """A field compared with a value, with a list of values, or with null.

    :param field: the field.
    :param sign: the operator: one of ``==``, ``!=``, ``<``, ``<=``, ``>``, ``>=``, ``in`` and ``null``.
    :param values: the values: one, for ``in`` any number, for ``null`` none.
    """

    field: str
    sign: str
    values: tuple[Value, ...]

    def matches(self, get: Get) -> bool:
        """Return True if the comparison holds; ``get`` returns a field's value or raises MissingFieldError."""
        if self.sign == "null":
            try:
                get(self.field)
            except MissingFieldError:
                return True
            return False
        value = get(self.field)
        for other in self.values:
            if _kind(value) != _kind(other):
                raise InputError(
                    f"field {self.field!r} holds a {type(value).__name__} ({describe(value)}), and the filter compares "
                    f"it with {other!r}"
                )
        if self.sign == "in":
            return value in self.values
        return _COMPARE[self.sign](value, self.values[0])


@dataclass(frozen=True, slots=True)
class Not:
    """The negation of a condition.

    :param part: the condition.
    """

    part: "Condition"

    def matches(self, get: Get) -> bool:
        """Return True if the condition does not hold."""
        return not self.part.matches(get)


@dataclass(frozen=True, slots=True)
class Both:
    """Conditions joined by ``and`` or ``or``.

    :param word: ``and`` or ``or``.
    :param parts: the conditions; those that cannot change the answer are not looked at.
    """

    word: str
    parts: tuple["Condition", ...]

    def matches(self, get: Get) -> bool:
        """Return True if all conditions hold, or for ``or`` any."""
        return (all if self.word == "and" else any)(part.matches(get) for part in self.parts)


Condition: TypeAlias = Comparison | Not | Both


@dataclass(frozen=True, slots=True)
class Expression:
    """A filter that was read.

    :param condition: its condition.
    :param fields: the fields that it names, in their order.
    """

    condition: Condition
    fields: tuple[str, ...]

    def matches(self, get: Get) -> bool:
        """Return True if the filter matches a result.

        :param get: returns the value of a field.
        :returns: whether the filter matches.
        :raises MissingFieldError: if the answer depends on a field that the result lacks.
        :raises InputError: if a field holds a value of another kind than the filter compares it with.
        """
        return self.condition.matches(get)


def parse(text: object) -> Expression:
    """Read a filter.

    :param text: the filter.
    :returns: the expression.
    :raises InputError: for a filter that is not of the supported part; the message shows where, and what is supported.
    """
    if not isinstance(text, str) or not text.strip():
        raise InputError(f"filter must be a text such as 'year > 2020', got {describe(text)}")
    if len(text) > _MOST_LETTERS:
        raise InputError(f"filter must have at most {_MOST_LETTERS} letters, got {len(text)}")
    return _Parser(text).run()


@dataclass
class _Parser:
    """Read the tokens of a filter from left to right: ``or`` of ``and`` of ``not`` of comparisons."""

    text: str
    position: int = 0
    depth: int = 0
    fields: dict[str, None] = field(default_factory=dict)

    def run(self) -> Expression:
        condition = self.joined("or")
        if self.peek()[1]:
            raise self.error()
        return Expression(condition, tuple(self.fields))

    def joined(self, word: str) -> Condition:
        """Read conditions joined by ``and`` or ``or``."""
        parts = [self.joined("and") if word == "or" else self.single()]
        while _WORDS.get(self.peek()[1].lower()) == word:
            self.take()
            parts.append(self.joined("and") if word == "or" else self.single())
        return parts[0] if len(parts) == 1 else Both(word, tuple(parts))

    def single(self) -> Condition:
        """Read a comparison, a negation, or a condition in parentheses."""
        kind, part = self.peek()
        self.depth += 1
        if self.depth > _MOST_DEPTH:
            raise InputError(f"the filter nests more than {_MOST_DEPTH} conditions: {self.text[:60]!r}")
        condition: Condition
        if _WORDS.get(part.lower()) == "not" and kind != "text":
            self.take()
            condition = Not(self.single())
        elif part == "(":
            self.take()
            condition = self.joined("or")
            self.expect(")")
        else:
            condition = self.comparison()
        self.depth -= 1
        return condition

    def comparison(self) -> Condition:
        kind, name = self.peek()
        if kind != "word" or name.lower() in ("true", "false", "and", "or", "in", "is", "null", "like"):
            raise self.error()
        self.take()
        self.fields[name] = None
        sign = self.peek()[1].lower()
        if sign in _COMPARE:
            self.take()
            return Comparison(name, sign, (self.value(),))
        if sign == "is":
            self.take()
            negated = self.accept("not")
            self.expect("null")
            condition = Comparison(name, "null", ())
            return Not(condition) if negated else condition
        negated = self.accept("not")
        self.expect("in")
        condition = Comparison(name, "in", self.values())
        return Not(condition) if negated else condition

    def values(self) -> tuple[Value, ...]:
        """Read a list of values."""
        self.expect("[")
        values: list[Value] = []
        while not self.accept("]"):
            if values:
                self.expect(",")
            values.append(self.value())
        return tuple(values)

    def value(self) -> Value:
        kind, part = self.peek()
        if kind == "number":
            self.take()
            return float(part) if set(part) & set(".eE") else int(part)
        if kind == "text":
            self.take()
            return str(ast.literal_eval(part))
        if kind == "word" and part.lower() in ("true", "false"):
            self.take()
            return part.lower() == "true"
        raise self.error()

    def peek(self) -> tuple[str, str]:
        """Return the kind and the text of the next token; two empty texts at the end."""
        match = _TOKEN.match(self.text, self.position)
        if match is not None:
            return str(match.lastgroup), match[str(match.lastgroup)]
        if self.text[self.position :].strip():
            raise self.error()
        return "", ""

    def take(self) -> None:
        match = _TOKEN.match(self.text, self.position)
        self.position = match.end() if match else len(self.text)

    def accept(self, token: str) -> bool:
        """Go past a token if it is the next."""
        kind, following = self.peek()
        is_next = kind != "text" and following.lower() == token
        if is_next:
            self.take()
        return is_next

    def expect(self, token: str) -> None:
        if not self.accept(token):
            raise self.error()

    def error(self) -> InputError:
        rest = self.text[self.position :].strip()
        place = f"cannot go on at {rest[:40]!r}" if rest else "ends too early"
        return InputError(f"the filter {self.text[:80]!r} {place}; {_SUPPORTED}")


def _kind(value: object) -> type:
    if isinstance(value, bool):
        return bool
    return float if isinstance(value, (int, float)) else type(value)
