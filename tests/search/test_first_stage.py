"""What TwoStageSearch is made of: first stages, query vectors, arguments. No Milvus."""

import subprocess
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from pymilvus import MilvusClient

from milvus_rerank.errors import InputError
from milvus_rerank.reranker import LexicalRerankFunction
from milvus_rerank.search import RRF, Dense, FullText, Hybrid, TwoStageSearch, Weighted
from milvus_rerank.search.first_stage import FirstStage, check_vectors


def wrong(value: Any) -> Any:
    """Return a value that has another type than its place asks for."""
    return value


class NoMilvus:
    """A client that must not be called."""

    def search(self, *args: Any, **kwargs: Any) -> Any:
        raise AssertionError("called Milvus")

    hybrid_search = search


class Named(NoMilvus):
    """What an ORM collection looks like."""

    name = "docs"


def search(**options: Any) -> Any:
    settings: dict[str, Any] = {
        "reranker": LexicalRerankFunction(),
        "embed": lambda queries: [[1.0, 0.0]] * len(queries),
    } | options
    return TwoStageSearch(NoMilvus(), "docs", **settings)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"query": None}, "query must be a string, got NoneType: None"),
        ({"query": 7}, "queries must be a list of strings, got int: 7"),
        ({"query": ["a", None]}, r"queries\[1\] must be a string, got NoneType: None"),
        ({"top_k": -1}, "top_k must not be negative, got -1"),
        ({"top_k": 2.5}, "top_k must be an integer, 0 or None for all results, got float: 2.5"),
        ({"candidates": 0}, "candidates must be a positive integer, got int: 0"),
        ({"candidates": 5}, "candidates=5 is less than top_k=10; pass candidates=10 or top_k=5"),
        ({"candidates": 16385}, "candidates must be at most 16384, Milvus' limit, got 16385"),
        ({"threshold": "high"}, "threshold must be a number or None, got str: 'high'"),
        ({"filter": {"year": 2020}}, "filter must be a string such as 'year > 2020', got {'year': 2020}"),
        ({"partitions": "late"}, r"partitions must be a list of strings, got a single string; write \['late'\]"),
        ({"output_fields": "year"}, r"output_fields must be a list of strings, got a single string; write \['year'\]"),
        (
            {"timeout": 0},
            "timeout must be a positive number of seconds up to 86400 .a day., or None to wait without limit; got 0",
        ),
        (
            {"timeout": True},
            "timeout must be a positive number of seconds up to 86400 .a day., or None to wait without limit; got True",
        ),
        ({"timeout": float("inf")}, "timeout must be a positive number of seconds"),
        ({"vectors": [0.5, 0.5]}, "vectors must be one vector per query: expected 1, got 2"),
        (
            {"vectors": np.array([0.5])},
            r"vectors\[0\] must be a vector, got float64; put a single vector into a list: \[vector\]",
        ),
    ],
)
def test_an_argument_that_cannot_be_used_is_named(arguments: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        search()(**{"query": "q"} | arguments)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"reranker": "cross-encoder"},
            "reranker must be a rerank function such as CrossEncoderRerankFunction(), or have a method "
            "score(query, texts), got str",
        ),
        ({"first_stage": "bm25"}, "first_stage must be Dense(...), FullText(...) or Hybrid(...), got 'bm25'"),
        (
            {"text_field": ""},
            "text_field is of type str: ''; expected a field's name, a list of names, or a template such as "
            "'{title}: {text}'",
        ),
        ({"missing": "drop"}, "missing must be one of 'error', 'skip', 'last', got 'drop'"),
        ({"on_rerank_error": "ignore"}, "on_rerank_error must be one of 'raise', 'first_stage', got 'ignore'"),
    ],
)
def test_an_option_that_cannot_be_used_is_named(options: Any, message: str) -> None:
    with pytest.raises(InputError) as caught:
        search(**options)
    assert str(caught.value) == message


def test_a_misspelt_option_is_a_type_error() -> None:
    with pytest.raises(TypeError, match="candidate"):
        search()("q", candidate=5)


@pytest.mark.parametrize(
    ("client", "collection", "message"),
    [
        ("./milvus.db", "docs", "client must be a MilvusClient, an AsyncMilvusClient or a Collection, got str"),
        (NoMilvus(), None, "collection must be a name, got None; write TwoStageSearch(client, 'docs', reranker=...)"),
        (NoMilvus(), "", "collection must be a name, got ''; write TwoStageSearch(client, 'docs', reranker=...)"),
        (Named(), "other", "client is the ORM collection 'docs', but collection is 'other'; leave out collection"),
    ],
)
def test_client_and_collection_go_together(client: MilvusClient, collection: str, message: str) -> None:
    with pytest.raises(InputError) as caught:
        TwoStageSearch(client, collection, reranker=LexicalRerankFunction())
    assert str(caught.value) == message


@pytest.mark.parametrize("stage", [Dense("dense"), Hybrid((FullText(), Dense("dense")))])
def test_vector_search_without_vectors_says_what_to_pass(stage: FirstStage) -> None:
    with pytest.raises(InputError, match=r"TwoStageSearch\(..., embed=...\)"):
        search(embed=None, first_stage=stage)("q")


@pytest.mark.parametrize(
    ("vectors", "message"),
    [
        ([[1.0]], "the embedder's vectors must be one vector per query: expected 2, got 1"),
        (None, "the embedder's vectors must be a list of vectors, got NoneType: None"),
        ({"dense": [], "sparse": []}, "got a mapping with the keys ['dense', 'sparse']; pass one of its values"),
        ([[1.0], ["one"]], "the embedder's vectors[1] must hold numbers, got str"),
        ([[1.0], [True]], "the embedder's vectors[1] must hold numbers, got bool"),
        ([[1.0], [float("nan")]], "the embedder's vectors[1] must hold finite numbers"),
        (np.array([[1.0], [np.inf]], dtype=np.float16), "the embedder's vectors[1] must hold finite numbers"),
    ],
)
def test_an_embedder_that_gives_no_vectors_is_named(vectors: Any, message: str) -> None:
    with pytest.raises(InputError) as caught:
        search(embed=lambda queries: vectors)(["a", "b"])
    assert message in str(caught.value)


def test_what_the_embedder_raises_comes_through() -> None:
    error = RuntimeError("no model")

    def embed(queries: Sequence[str]) -> list[list[float]]:
        raise error

    with pytest.raises(RuntimeError) as caught:
        search(embed=embed)("q")
    assert caught.value is error


def test_vectors_become_what_pymilvus_takes() -> None:
    assert check_vectors(np.array([[0.5, 1.0]], dtype=np.float16), 1, "v") == [[0.5, 1.0]]
    assert check_vectors([{3: 0.5}, b"\x01"], 2, "v") == [{3: 0.5}, b"\x01"]
    assert check_vectors(((1, 2),), 1, "v") == [[1.0, 2.0]]
    [row] = check_vectors([[np.float32(0.5)]], 1, "v")
    assert type(row[0]) is float


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: Hybrid((Dense("a"),)),
            "Hybrid fuses at least two searches, got 1; pass a single search as first_stage",
        ),
        (lambda: Hybrid(wrong(("a", "b"))), "searches[0] must be Dense(...) or FullText(...), got 'a'"),
        (
            lambda: Hybrid((Dense("a"), FullText()), Weighted((1.0,))),
            "Weighted needs one weight per search: expected 2, got 1",
        ),
        (lambda: Hybrid((Dense("a"), FullText()), wrong("rrf")), "fusion must be RRF(...) or Weighted(...), got 'rrf'"),
        (lambda: Weighted(wrong((0.5, "0.5"))), "weights[1] must be a number, got '0.5'"),
        (lambda: Weighted((0.5, float("nan"))), "weights[1] must be a number, got nan"),
        (lambda: RRF(0), "k must be a positive integer, got int: 0"),
    ],
)
def test_a_first_stage_that_cannot_be_is_refused(make: Any, message: str) -> None:
    with pytest.raises(InputError) as caught:
        make()
    assert str(caught.value) == message


def test_first_stages_are_values() -> None:
    assert Hybrid((Dense("a"), FullText("b"))) == Hybrid((Dense("a"), FullText("b")), RRF(60))
    assert len({Dense("a"), Dense("a"), Dense("b"), FullText("a")}) == 3
    assert Dense("a", {"params": {"ef": 10}}) != Dense("a")


def test_importing_the_pipeline_loads_no_client() -> None:
    code = "import sys, milvus_rerank.search; print([m for m in ('pymilvus', 'grpc', 'torch') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_a_list_makes_a_value_all_the_same() -> None:
    assert hash(Weighted(wrong([0.5, 1]))) == hash(Weighted((0.5, 1)))
    assert hash(Hybrid(wrong([Dense("a"), FullText("b")]))) == hash(Hybrid((Dense("a"), FullText("b"))))


def test_any_object_that_scores_can_be_the_second_stage() -> None:
    class Shortest:
        def score(self, query: str, texts: Sequence[str]) -> list[int]:
            return [-len(text) for text in texts]

    made = search(reranker=Shortest())
    assert [result.text for result in made.reranker("q", ["ccc", "a", "bb"])] == ["a", "bb", "ccc"]
