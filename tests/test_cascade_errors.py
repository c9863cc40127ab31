"""A cascade that stops, fails or is set up wrong: who is blamed."""

import math
import threading
from collections.abc import Sequence
from typing import Any

import pytest
from cascade_tables import CHEAP, DOCUMENTS, STRONG, Table

from milvus_rerank import CascadeRerankFunction, LexicalRerankFunction, Stage
from milvus_rerank.errors import InputError, RegistryError, StageError, StoppedError


def test_a_stop_between_two_stages_is_heeded() -> None:
    stop = threading.Event()

    class Stopping(Table):
        def score_requests(self, requests: Any, stop: threading.Event) -> list[list[float]]:
            stop.set()
            return [[1.0] * len(texts) for _, texts in requests]

    class Deaf(Table):
        def score_requests(self, requests: Any, stop: threading.Event) -> list[list[float]]:
            return super().score_requests(requests, threading.Event())

    strong = Deaf(STRONG)
    with pytest.raises(StoppedError, match="scoring was stopped"):
        CascadeRerankFunction([(Stopping({}), 2), (strong, None)]).score_documents([("q", DOCUMENTS)], None, stop)
    assert strong.asked == []


def test_a_stop_inside_a_stage_is_no_failure_of_it() -> None:
    class Stopped(Table):
        def score_requests(self, requests: Any, stop: threading.Event) -> list[list[float]]:
            raise StoppedError("the stage itself was told")

    with pytest.raises(StoppedError, match="the stage itself was told"):
        CascadeRerankFunction([(Stopped({}), None)])("q", DOCUMENTS)


class Broken:
    """A plugin that fails."""

    def score(self, query: str, texts: Sequence[str]) -> list[float]:
        raise ZeroDivisionError("no weights")

    def __repr__(self) -> str:
        return "Broken()"


def test_a_stage_that_fails_is_named_and_its_error_is_the_cause() -> None:
    both = CascadeRerankFunction([(Table(CHEAP), 2), (Broken(), None)])
    with pytest.raises(
        StageError,
        match=r"stages\[1\], PluginRerankFunction\(Broken\(\), 'Broken'\), failed: ZeroDivisionError: no wei",
    ) as caught:
        both("q", DOCUMENTS)
    assert isinstance(caught.value.__cause__, ZeroDivisionError)


def test_a_score_that_cannot_be_ordered_names_stage_and_document() -> None:
    both = CascadeRerankFunction([(Table(CHEAP), 3), (Table({**STRONG, "d": math.nan}), None)])
    with pytest.raises(StageError, match=r"stages\[1\], Table\(\), failed: ScoreError: the score of document 3 is nan"):
        both("q", DOCUMENTS)
    with pytest.raises(StageError, match=r"the score of document 0 of query 1 is nan"):
        both.rerank_many(["p", "q"], [["a", "b"], ["d", "c"]])


@pytest.mark.parametrize("scores", [[], [1.0, 2.0]])
def test_a_stage_that_forgets_a_document_is_named(scores: list[float]) -> None:
    class Forgetful:
        def score(self, query: str, texts: Sequence[str]) -> list[float]:
            return scores

    with pytest.raises(StageError, match=rf"stages\[1\].*returned {len(scores)} scores for 3 documents"):
        CascadeRerankFunction([(Table(CHEAP), 3), (Forgetful(), None)])("q", DOCUMENTS)


def test_a_stage_that_forgets_a_query_is_named() -> None:
    class Forgetful(Table):
        def score_requests(self, requests: Any, stop: threading.Event) -> list[list[float]]:
            return super().score_requests(requests[:1], stop)

    with pytest.raises(StageError, match=r"stages\[0\].*scores for 1 queries, expected 2"):
        CascadeRerankFunction([(Forgetful(CHEAP), None)]).rerank_many(["p", "q"], [["a"], ["b"]])


@pytest.mark.parametrize(
    ("stages", "words"),
    [
        ([], "stages must hold at least one stage, such as"),
        ("lexical", "stages must be a list of stages, got a single string"),
        (None, "stages must be a list of stages, got NoneType"),
        (["lexical"], r"stages\[0\] must be Stage\(reranker, keep\) or a pair \(reranker, keep\), got 'lexical'"),
        ([("lexical", 5, 3)], r"stages\[0\] must be Stage\(reranker, keep\) or a pair"),
        ([("lexical", 0)], r"stages\[0\]: keep must be a positive integer, got int: 0"),
        ([("lexical", 5), ("lexical", 2.5)], r"stages\[1\]: keep must be a positive integer, got float: 2.5"),
        ([("lexical", True)], r"stages\[0\]: keep must be a positive integer, got bool"),
        (
            [("lexical", None), ("lexical", 3)],
            r"stages\[0\] needs a number of documents to keep for stages\[1\], got None",
        ),
        ([("lexical", 5), ("lexical", 6)], r"stages\[1\] cannot keep 6 of the 5 that stages\[0\] keeps"),
        ([(LexicalRerankFunction, 5)], r"stages\[0\] must hold a rerank function such as .* got <class"),
        ([("lexical", 5), ({"a": 1}, 3)], r"stages\[1\] must hold a rerank function such as .* got \{'a': 1\}"),
    ],
)
def test_stages_that_cannot_be_say_what_was_expected(stages: Any, words: str) -> None:
    with pytest.raises(InputError, match=words):
        CascadeRerankFunction(stages)


def test_a_stage_value_is_checked_where_it_is_made() -> None:
    with pytest.raises(InputError, match=r"^keep must be a positive integer, got int: -1"):
        Stage("lexical", -1)
    with pytest.raises(AttributeError):
        Stage("lexical", 1).keep = 2  # type: ignore[misc]


def test_a_name_that_is_neither_reranker_nor_model_is_an_error() -> None:
    with pytest.raises(
        RegistryError, match=r"no reranker is named 'lexcal'; there are: .*; a model is named as 'builtin"
    ):
        CascadeRerankFunction([("lexcal", 5), ("builtin/rerank", None)])
