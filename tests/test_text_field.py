"""``text_field``: one field, several, or a template; what is missing, and what cannot be meant."""

import re
from typing import Any

import pytest

from milvus_rerank.errors import HitError, InputError
from milvus_rerank.reranker import LexicalRerankFunction
from milvus_rerank.text_field import read_text_field

HITS: list[dict[str, Any]] = [
    {"id": 1, "distance": 0.5, "entity": {"title": "Dogs", "text": "They bark.", "year": 1956}},
    {"id": 2, "distance": 0.4, "entity": {"title": "Cats", "text": ""}},
    {"id": 3, "distance": 0.3, "entity": {"title": None, "text": "Nameless."}},
    {"id": 4, "distance": 0.2, "entity": {"text": "No title."}},
]
lexical = LexicalRerankFunction()


@pytest.mark.parametrize(
    ("text_field", "texts"),
    [
        ("title", ["Dogs", "Cats"]),
        (["title"], ["Dogs", "Cats"]),
        (["title", "text"], ["Dogs\nThey bark.", "Cats\n"]),
        (("text", "title"), ["They bark.\nDogs", "\nCats"]),
        ("{title}: {text}", ["Dogs: They bark.", "Cats: "]),
        ("{title}{title} {{{text}}}", ["DogsDogs {They bark.}", "CatsCats {}"]),
        ("{title}", ["Dogs", "Cats"]),
    ],
)
def test_fields_make_the_text(text_field: Any, texts: list[str]) -> None:
    results = lexical.rerank_hits("q", HITS[:2], text_field=text_field)
    assert [result.text for result in sorted(results, key=lambda result: result.index)] == texts
    rows = [{"id": hit["id"], **hit["entity"]} for hit in HITS[:2]]
    results = lexical.rerank_hits("q", rows, text_field=text_field)
    assert [result.text for result in sorted(results, key=lambda result: result.index)] == texts


def test_the_words_of_every_field_count() -> None:
    assert [result.id for result in lexical.rerank_hits("cats", HITS[:2], text_field="{title} {text}")] == [2, 1]


def test_a_missing_part_is_a_missing_text() -> None:
    fields = ["title", "text"]
    with pytest.raises(HitError, match=r"hit 2 \(id 3\): field 'title' is null; .*output_fields=\['title', 'text'\]"):
        lexical.rerank_hits("q", HITS, text_field=fields)
    with pytest.raises(HitError, match=r"hit 0 \(id 4\): field 'title' is missing; the hit has the fields \['text'\]"):
        lexical.rerank_hits("q", HITS[3:], text_field="{text} {title}")
    assert [result.id for result in lexical.rerank_hits("bark", HITS, text_field=fields, missing="skip")] == [1, 2]
    last = lexical.rerank_hits("bark", HITS, text_field=fields, missing="last")
    assert [(result.id, result.score is None) for result in last] == [(1, False), (2, False), (3, True), (4, True)]
    with pytest.raises(HitError, match="hit 0: field 'year' must hold a string, got int"):
        lexical.rerank_hits("q", HITS[:1], text_field="{text} ({year})")


@pytest.mark.parametrize(
    ("text_field", "message"),
    [
        ("", "text_field is of type str: ''; expected a field's name, a list of names, or a template such as"),
        ([], "text_field is of type list: "),
        (["text", ""], "expected a field's name"),
        (["text", 5], "expected a field's name"),
        (5, "text_field is of type int: 5"),
        ({"text": 1}, "text_field is of type dict"),
        ("{text", "is no template: expected '}' before end of string; put each field's name in braces"),
        ("text}", "is no template: Single '}' encountered"),
        ("{}", "a field has a name and nothing else"),
        ("{text!r}", "a field has a name and nothing else"),
        ("{text:>9999999999}", "a field has a name and nothing else"),
        ("{{text}}", "names no field"),
    ],
)
def test_what_names_no_field_is_refused(text_field: Any, message: str) -> None:
    with pytest.raises(InputError, match=re.escape(message)):
        read_text_field(text_field)
    with pytest.raises(InputError):
        lexical.rerank_hits("q", HITS, text_field=text_field)


def test_a_name_with_a_dot_is_no_attribute() -> None:
    rows = [{"id": 1, "a.b": "x"}]
    assert lexical.rerank_hits("q", rows, text_field="<{a.b}>")[0].text == "<x>"
