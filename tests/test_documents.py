"""Documents that are no list of strings: the error names the document and says what to pass."""

import re
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pytest

from milvus_rerank.errors import InputError
from milvus_rerank.reranker import CrossEncoderRerankFunction, LexicalRerankFunction

lexical = LexicalRerankFunction()


class Page(NamedTuple):
    page_content: str
    metadata: dict[str, str]


def table() -> Any:
    import pandas  # comes with pymilvus

    return pandas.DataFrame({"id": [2, 1], "text": ["first text", "second"]}, index=[5, 3])


CONTAINERS: dict[str, tuple[Callable[[], Any], str]] = {
    "table": (table, "documents['text'].tolist()"),
    "column": (lambda: table()["text"], "pass documents.tolist()"),
    "labels": (lambda: table().index, "pass documents.tolist()"),
    "mapping": (lambda: {"a": "first text"}, "pass its values in the order that result.index shall count"),
    "set": (lambda: {"first", "second"}, "a set has no order for result.index to count: pass sorted(documents)"),
    "frozenset": (lambda: frozenset({"first"}), "a set has no order"),
    "keys": (lambda: {"first": 1}.keys(), "a set has no order"),
    "string": (lambda: "first text", "got a single string; write ['first text']"),
    "bytes": (lambda: b"first", "must be a list of strings, got bytes"),
    "bytearray": (lambda: bytearray(b"first"), "must be a list of strings, got bytearray"),
    "None": (lambda: None, "must be a list of strings, got NoneType"),
    "number": (lambda: 5, "must be a list of strings, got int"),
    "two dimensions": (lambda: np.array([["a", "b"]]), "documents[0] must be a string, got ndarray"),
    "array of objects": (lambda: np.array(["a", {"text": "b"}], dtype=object), "documents[1] must be a string"),
}  # fmt: skip

ITEMS: dict[str, tuple[Any, str]] = {
    "content": ({"content": "a"}, "got dict: {'content': 'a'}; pass its text, such as document['content']"),
    "title and body": ({"title": "a", "body": "b"}, "pass its text, such as document['body']"),
    "image": ({"image": "http://x"}, "got dict: {'image': 'http://x'}; pass its text"),
    "message parts": ([{"type": "text", "text": "a"}], "got list: [{'type': 'text', 'text': 'a'}]"),
    "framework's document": (Page("a", {}), "pass its text, such as document.page_content"),
    "None": (None, "got NoneType: None"),
    "number": (1.5, "got float: 1.5"),
    "bytes": (b"a", "got bytes: b'a'"),
}


@pytest.mark.parametrize("name", CONTAINERS)
def test_a_container_that_is_no_list_of_texts_is_refused(name: str) -> None:
    make, message = CONTAINERS[name]
    calls: list[Callable[[Any], Any]] = [
        lambda documents: lexical("q", documents),
        lambda documents: lexical.score("q", documents),
        lambda documents: lexical.rerank_many(["q"], [documents]),
    ]
    for call in calls:
        with pytest.raises(InputError, match=re.escape(message)):
            call(make())


@pytest.mark.parametrize("name", ITEMS)
def test_a_document_that_is_an_object_is_named_with_what_to_pass(name: str) -> None:
    item, message = ITEMS[name]
    with pytest.raises(InputError, match=re.escape(message)) as caught:
        lexical("q", ["a text", item])
    assert str(caught.value).startswith("documents[1] must be a string")
    with pytest.raises(InputError, match=re.escape("pairs[0][1] must be a string")):
        lexical.score_pairs([("q", item)])


def test_hits_in_a_table_are_refused() -> None:
    with pytest.raises(InputError, match="hits must be a list of hits, got DataFrame"):
        lexical.rerank_hits("q", table())


@pytest.mark.parametrize("make", [list, tuple, iter, np.array, lambda texts: np.array(texts, dtype=object),
                                  lambda texts: (text for text in texts),
                                  lambda texts: dict(enumerate(texts)).values()])  # fmt: skip
def test_ordered_containers_of_strings_are_taken(make: Callable[[list[str]], Any]) -> None:
    reranker = CrossEncoderRerankFunction("builtin/rerank", device="cpu", threads=1)
    texts = ["a text about moths", "a text about bugs", "something else"]
    expected = [(result.index, result.score) for result in reranker("the bug", texts)]
    assert [(result.index, result.score) for result in reranker("the bug", make(texts))] == expected
