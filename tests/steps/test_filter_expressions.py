"""Filters of boosts: what they match, agreement with Milvus, and what they refuse."""

import random
from typing import Any

import pytest

from milvus_rerank.errors import InputError
from milvus_rerank.steps.expression import parse
from milvus_rerank.steps.step import MissingFieldError

ROW = {"year": 2020, "price": 9.5, "lang": "en", "ok": True, "title": 'it\'s "x"'}


def matches(text: str, row: dict[str, Any]) -> bool:
    def get(name: str) -> Any:
        if row.get(name) is None:
            raise MissingFieldError(name)
        return row[name]

    return parse(text).matches(get)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("year == 2020", True),
        ("year==2020.0", True),
        ("year != 2020", False),
        ("year < 2020", False),
        ("year <= 2020 and year >= 2020", True),
        ("price > -1e3", True),
        ("price > .5", True),
        ("lang == 'en'", True),
        ('lang in ["de", "en"]', True),
        ("lang in []", False),
        ("lang not in ['de', 'fr']", True),
        ("year NOT IN [2020]", False),
        ("ok == true && ok != FALSE", True),
        ("!(ok == true) || year == 2020", True),
        ("not ok == true or year == 1", False),
        ("year == 1 or year == 2020 and lang == 'en'", True),
        ("(year == 1 or year == 2020) and lang == 'de'", False),
        ("not (not (lang > 'a'))", True),
        ("absent is null", True),
        ("absent IS NOT NULL or year is null", False),
        ("absent is not null and absent > 3", False),
        (r"""title == 'it\'s "x"'""", True),
    ],
)
def test_a_filter_matches_as_milvus_says(text: str, expected: bool) -> None:
    assert matches(text, ROW) is expected


def test_the_fields_of_a_filter_are_known() -> None:
    assert parse("a > 1 and (b in [1] or not a == 2) and c is null and d == 'e'").fields == ("a", "b", "c", "d")


def test_a_field_that_decides_and_is_missing_is_reported() -> None:
    with pytest.raises(MissingFieldError, match="absent"):
        matches("absent > 1", ROW)
    assert matches("year == 2020 or absent > 1", ROW)


@pytest.mark.parametrize("seed", range(20))
def test_random_filters_agree_with_python(seed: int) -> None:
    generator = random.Random(seed)

    def make(depth: int) -> tuple[str, str]:
        """Return a filter and the same condition in Python."""
        if depth == 0 or generator.random() < 0.2:
            name, sign = generator.choice("abc"), generator.choice(["==", "!=", "<", "<=", ">", ">="])
            number = generator.randrange(-3, 4)
            if generator.random() < 0.3:
                word = generator.choice(["in", "not in"])
                return (f"{name} {word} [{number}, 1]",) * 2
            return (f"{name} {sign} {number}",) * 2
        left, right = make(depth - 1), make(depth - 1)
        milvus, python = generator.choice([("and", "and"), ("&&", "and"), ("or", "or"), ("||", "or")])
        if generator.random() < 0.3:
            return f"not ({left[0]})", f"not ({left[1]})"
        if generator.random() < 0.5:
            return f"({left[0]}) {milvus} ({right[0]})", f"({left[1]}) {python} ({right[1]})"
        return f"{left[0]} {milvus} {right[0]}", f"{left[1]} {python} {right[1]}"

    for _ in range(50):
        text, python = make(4)
        row = {name: generator.randrange(-3, 4) for name in "abc"}
        assert matches(text, row) is eval(python, {}, row), text


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (None, "filter must be a text such as 'year > 2020', got NoneType"),
        ("  ", "filter must be a text such as"),
        ("year >", "the filter 'year >' ends too early; it supports ==, !="),
        ("year", "the filter 'year' ends too early"),
        ("year = 2020", "cannot go on at '= 2020'"),
        ("2020 < year", "cannot go on at '2020 < year'"),
        ("year > month", "cannot go on at 'month'"),
        ("year > 2020x", "cannot go on at '2020x'"),
        ("year > 2019 + 1", r"cannot go on at '\+ 1'"),
        ("lang like 'e%'", "cannot go on at \"like 'e%'\""),
        ("json_contains(tags, 1)", r"cannot go on at '\(tags, 1\)'"),
        ("meta['a'] == 1", r"cannot go on at \"\['a'\] == 1\""),
        ("year in 2020", "cannot go on at '2020'"),
        ("year in [2020", "ends too early"),
        ("year in [1 2]", r"cannot go on at '2\]'"),
        ("(year > 1", "ends too early"),
        ("year > 1)", r"cannot go on at '\)'"),
        ("year > 1 and", "ends too early"),
        ("year > 1 year > 2", "cannot go on at 'year > 2'"),
        ("lang == 'en", 'cannot go on at "\'en"'),
        ("lang == null", "cannot go on at 'null'"),
        ("lang is 'en'", "cannot go on at \"'en'\""),
        ("and == 1", "cannot go on at 'and == 1'"),
        ("a == __import__('os')", "cannot go on at .__import__"),
        ("(" * 80 + "a == 1" + ")" * 80, "nests more than 50 conditions"),
        ("not " * 80 + "a == 1", "nests more than 50 conditions"),
        ("a == 1 or " * 2000 + "a == 1", "must have at most 10000 letters, got 20006"),
    ],
)
def test_what_is_not_supported_is_refused_with_its_place(text: Any, problem: str) -> None:
    with pytest.raises(InputError, match=problem):
        parse(text)


def test_texts_that_look_like_words_are_texts() -> None:
    assert matches("lang == 'not' or lang == \"and\"", {"lang": "and"})
    assert not matches("lang in ['or', ')']", {"lang": "in"})
