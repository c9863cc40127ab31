"""A cascade: what each stage gets to see, and in which order everything comes back."""

import asyncio
import math
import random
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from cascade_tables import CHEAP, DOCUMENTS, STRONG, Table
from serving import serving

from milvus_rerank import (
    BaseRerankFunction,
    CascadeRerankFunction,
    CrossEncoderRerankFunction,
    LexicalRerankFunction,
    RerankResult,
    Stage,
    create,
)
from milvus_rerank.reranker.custom import wrap
from milvus_rerank.results import DocumentScores
from milvus_rerank.server.models import CustomModel


def cascade(*keeps: int | None) -> CascadeRerankFunction:
    return CascadeRerankFunction(list(zip((Table(CHEAP), Table(STRONG)), keeps, strict=True)))


def places(results: Sequence[RerankResult[Any]]) -> list[int]:
    return [result.index for result in results]


def test_the_strong_stage_scores_only_what_the_cheap_one_kept() -> None:
    cheap, strong = Table(CHEAP), Table(STRONG)
    found = CascadeRerankFunction([(cheap, 3), (strong, None)])("q", DOCUMENTS, top_k=None)
    assert cheap.asked == [[("q", ["a", "b", "c", "d", "e"])]]
    assert strong.asked == [[("q", ["a", "c", "d"])]]
    assert found == [
        RerankResult("c", -3.0, 2, stage=1),
        RerankResult("d", -5.0, 3, stage=1),
        RerankResult("a", -7.0, 0, stage=1),
        RerankResult("e", 2.0, 4, stage=0),
        RerankResult("b", 1.0, 1, stage=0),
    ]


@pytest.mark.parametrize(
    ("top_k", "expected"), [(2, [2, 3]), (4, [2, 3, 0, 4]), (0, [2, 3, 0, 4, 1]), (9, [2, 3, 0, 4, 1])]
)
def test_a_call_that_wants_more_than_was_kept_gets_the_former_stages_documents_behind(
    top_k: int, expected: list[int]
) -> None:
    assert places(cascade(3, None)("q", DOCUMENTS, top_k)) == expected


@pytest.mark.parametrize(("top_k", "count"), [(1, 1), (2, 2), (5, 2), (0, 2), (None, 2)])
def test_the_last_stages_keep_caps_the_results_of_every_call(top_k: int | None, count: int) -> None:
    capped = cascade(3, 2)
    hits = [{"id": number, "distance": 0.5, "entity": {"text": text}} for number, text in enumerate(DOCUMENTS)]
    hits.append({"id": 5, "distance": 0.1, "entity": {"text": None}})
    assert places(capped("q", DOCUMENTS, top_k)) == [2, 3][:count]
    assert places(capped.rerank_many(["q"], [DOCUMENTS], top_k)[0]) == [2, 3][:count]
    assert places(capped.rerank_hits("q", hits, top_k=top_k, missing="last")) == [2, 3][:count]
    assert places(asyncio.run(capped.arerank("q", DOCUMENTS, top_k))) == [2, 3][:count]


def test_one_stage_alone_with_a_cap_is_its_reranker_with_a_cap() -> None:
    assert places(CascadeRerankFunction([(Table(CHEAP), 2)])("q", DOCUMENTS, top_k=None)) == [0, 2]


def test_ties_at_the_border_go_to_the_document_that_came_first() -> None:
    level = CascadeRerankFunction([(Table(dict.fromkeys("abcde", 1.0)), 2), (Table(dict.fromkeys("abcde", 0.0)), None)])
    assert [(one.index, one.stage) for one in level("q", DOCUMENTS, top_k=None)] == [
        (0, 1),
        (1, 1),
        (2, 0),
        (3, 0),
        (4, 0),
    ]


def test_the_threshold_is_on_the_last_stages_scale() -> None:
    assert places(cascade(3, None)("q", DOCUMENTS, None, threshold=-5.0)) == [2, 3]  # not 4 and 1 with their 2 and 1
    assert places(cascade(3, None).rerank_hits("q", [{"text": text} for text in DOCUMENTS], threshold=-5.0)) == [2, 3]


def test_many_queries_take_one_pass_of_each_stage() -> None:
    cheap, strong = Table(CHEAP), Table(STRONG)
    found = CascadeRerankFunction([(cheap, 2), (strong, None)]).rerank_many(
        ["p", "q", "r"], [["a", "b", "d"], [], ["e", "b"]], top_k=None
    )
    assert [places(own) for own in found] == [[2, 0, 1], [], [0, 1]]
    assert cheap.asked == [[("p", ["a", "b", "d"]), ("r", ["e", "b"])]]
    assert strong.asked == [[("p", ["a", "d"]), ("r", ["e", "b"])]]


def test_hits_keep_their_ids_and_those_without_a_text_come_last() -> None:
    hits = [{"id": f"d{text}", "distance": 0.5, "entity": {"text": text}} for text in DOCUMENTS]
    hits.insert(1, {"id": "dx", "distance": 0.4, "entity": {"text": None}})
    found = cascade(3, None).rerank_hits("q", hits, missing="last")
    assert [(one.id, one.score, one.stage) for one in found] == [
        ("dc", -3.0, 1),
        ("dd", -5.0, 1),
        ("da", -7.0, 1),
        ("de", 2.0, 0),
        ("db", 1.0, 0),
        ("dx", None, None),
    ]


def test_scores_alone_keep_the_order_of_the_results() -> None:
    both = cascade(3, 1)
    scores = both.score("q", DOCUMENTS)
    assert scores == [-7.0, -9.0, -3.0, -5.0, -8.0]  # e and b: 2 and 1, moved down to end 1 below the least, -7
    assert both.score_pairs([("q", text) for text in reversed(DOCUMENTS)]) == scores[::-1]
    assert both.score_requests([("q", []), ("q", DOCUMENTS)], threading.Event()) == [[], scores]
    assert both.score("q", []) == []


def reference(tables: Sequence[Mapping[str, float]], keeps: Sequence[int], texts: Sequence[str]) -> list[int]:
    """The order of a cascade, written down as one would say it."""
    left = list(range(len(texts)))
    behind: list[int] = []
    for values, keep in zip(tables, keeps, strict=True):
        best = sorted(left, key=lambda place: (-values[texts[place]], place))
        behind = best[keep:] + behind
        left = sorted(best[:keep])
    return sorted(left, key=lambda place: (-tables[-1][texts[place]], place)) + behind


def test_the_order_is_that_of_a_plain_reference_on_random_tables() -> None:
    generator = random.Random(7)
    for _ in range(200):
        texts = [str(number) for number in range(generator.randint(1, 12))]
        tables = [{text: float(generator.randint(-3, 3)) for text in texts} for _ in range(generator.randint(1, 4))]
        keeps = sorted((generator.randint(1, 12) for _ in tables), reverse=True)
        made = CascadeRerankFunction([(Table(values), keep) for values, keep in zip(tables, keeps, strict=True)])
        expected = reference(tables, keeps, texts)
        assert places(made("q", texts, top_k=None)) == expected[: keeps[-1]]
        scores = made.score("q", texts)
        assert sorted(range(len(texts)), key=lambda place: (-scores[place], place)) == expected


def test_async_calls_give_what_the_plain_ones_give() -> None:
    both = cascade(3, None)

    async def calls() -> list[Any]:
        return [await both.arerank("q", DOCUMENTS, 4), await both.ascore("q", DOCUMENTS)]

    assert asyncio.run(calls()) == [both("q", DOCUMENTS, 4), both.score("q", DOCUMENTS)]


class Looking(Table):
    """Note how many documents are wanted."""

    def __init__(self, values: Mapping[str, float]) -> None:
        super().__init__(values)
        self.wanted: list[int | None] = []

    def score_documents(self, requests: Any, keep: int | None, stop: threading.Event) -> list[DocumentScores]:
        self.wanted.append(keep)
        return super().score_documents(requests, keep, stop)


@pytest.mark.parametrize(
    ("top_k", "wanted"), [(2, (3, 2)), (4, (4, 4)), (None, (None, None))], ids=["few", "more", "all"]
)
def test_a_stage_that_can_stop_early_hears_how_many_documents_matter(
    top_k: int | None, wanted: tuple[int | None, int | None]
) -> None:
    cheap, strong = Looking(CHEAP), Looking(STRONG)
    CascadeRerankFunction([(cheap, 3), (strong, 3)])("q", DOCUMENTS, top_k)
    assert (cheap.wanted, strong.wanted) == ([wanted[0]], [wanted[1]])


class Passages(Table):
    """Say which part of a text its score is of."""

    def score_documents(self, requests: Any, keep: int | None, stop: threading.Event) -> list[DocumentScores]:
        return [DocumentScores(scores, [(0, 1)] * len(scores)) for scores in self.score_requests(requests, stop)]


def test_the_part_of_a_text_that_a_stage_scored_is_that_of_the_stage() -> None:
    found = CascadeRerankFunction([(Passages(CHEAP), 2), (Table(STRONG), None)])("q", DOCUMENTS, top_k=3)
    assert [(one.index, one.span) for one in found] == [(2, None), (0, None), (3, (0, 1))]
    found = CascadeRerankFunction([(Table(CHEAP), 2), (Passages(STRONG), None)])("q", DOCUMENTS, top_k=3)
    assert [(one.index, one.span) for one in found] == [(2, (0, 1)), (0, (0, 1)), (3, None)]


def test_a_cascade_in_a_cascade_is_one_stage_with_its_order() -> None:
    last = {text: -value for text, value in STRONG.items()}
    inner = cascade(3, None)  # c, d, a, then e, b
    found = CascadeRerankFunction([(inner, 4), (Table(last), None)])("q", DOCUMENTS, top_k=None)
    assert [(one.index, one.score, one.stage) for one in found] == [
        (0, 7.0, 1),
        (3, 5.0, 1),
        (2, 3.0, 1),
        (4, -99.0, 1),
        (1, -9.0, 0),
    ]
    found = CascadeRerankFunction([(Table(last), 4), (inner, None)])("q", DOCUMENTS, top_k=None)
    assert [(one.index, one.stage) for one in found] == [(2, 1), (3, 1), (0, 1), (1, 1), (4, 0)]


def test_a_cascade_with_a_cap_passes_no_more_on_than_it_would_return() -> None:
    strong = Table(STRONG)
    assert places(CascadeRerankFunction([(cascade(3, 2), 4), (strong, None)])("q", DOCUMENTS, top_k=None))[:2] == [2, 3]
    assert strong.asked == [[("q", ["c", "d"])]]
    assert places(CascadeRerankFunction([(Table(CHEAP), 4), (cascade(3, 2), None)])("q", DOCUMENTS, None)) == [2, 3]


def test_stages_may_be_values_pairs_names_and_plain_scorers() -> None:
    class Longest:
        def score(self, query: str, texts: Sequence[str]) -> list[int]:
            return [len(text) for text in texts]

    made = CascadeRerankFunction([Stage("lexical", 3), [Longest(), 2], (LexicalRerankFunction(), None)])  # type: ignore[list-item]
    assert made.keeps == (3, 2, None)
    assert repr(made) == (
        "CascadeRerankFunction([(LexicalRerankFunction(), 3), "
        f"(PluginRerankFunction({made.rerankers[1].scorer!r}, 'Longest'), 2), (LexicalRerankFunction(), None)])"  # type: ignore[attr-defined]
    )
    found = made("x y", ["x y", "x longer", "y long", "nothing"], top_k=None)
    assert [(one.index, one.stage) for one in found] == [(1, 2), (2, 2), (0, 1), (3, 0)]


def test_create_makes_one_from_plain_values() -> None:
    made = create("milvus_rerank.cascade:CascadeRerankFunction", stages=[["lexical", 50], ["lexical", None]])
    assert repr(made) == "CascadeRerankFunction([(LexicalRerankFunction(), 50), (LexicalRerankFunction(), None)])"


def test_a_model_as_the_last_stage_gives_its_own_scores() -> None:
    query, texts = "who wrote the first program", ["Ada wrote the first program", "wrote a letter", "who", "rain"]
    model = CrossEncoderRerankFunction(device="cpu", threads=1)
    both = CascadeRerankFunction([("lexical", 2), (model, None)])
    found = both(query, texts, top_k=None)
    assert [(one.index, one.stage) for one in found] == [(0, 1), (1, 1), (2, 0), (3, 0)]
    assert [one.score for one in found[:2]] == pytest.approx(model.score(query, texts[:2]), abs=1e-5)
    assert [one.score for one in found[2:]] == [1 / 5, 0.0]


def test_names_of_models_are_loaded(tiny: dict[str, Path]) -> None:
    made = CascadeRerankFunction([(tiny["bert"], 2), (str(tiny["electra"]), None)])
    assert [type(one).__name__ for one in made.rerankers] == ["CrossEncoderRerankFunction"] * 2
    assert [one.model_name for one in made.rerankers] == [str(tiny["bert"]), str(tiny["electra"])]  # type: ignore[attr-defined]


# A server must not cut a request into several batches, nor mix requests: the stages would see other rivals.
LONG = [f"{'word ' * (number % 7)}{'filler ' * 150}{number}" for number in range(100)]


class LastNumber(BaseRerankFunction):
    """Score by the number that a text ends with, in an order of its own."""

    def score_requests(self, requests: Any, stop: threading.Event) -> list[list[float]]:
        return [[-((37 * int(text.split()[-1])) % 101) / 7 for text in texts] for _, texts in requests]


class Words(BaseRerankFunction):
    """Score by how often a text says so."""

    def score_requests(self, requests: Any, stop: threading.Event) -> list[list[float]]:
        return [[math.log1p(text.count("word")) for text in texts] for _, texts in requests]


def test_the_order_over_a_server_is_the_local_one() -> None:
    both = CascadeRerankFunction([(Words(), 30), (LastNumber(), None)])
    expected = both("q", LONG, top_k=None)
    with serving({"cascade": lambda: both}) as server:
        answer = server.post("/v2/rerank", {"query": "q", "documents": LONG}).json()
        pairs = server.post("/score", {"queries": ["q", "q"], "documents": ["word 1", "2"]}).json()
    assert [row["index"] for row in answer["results"]] == places(expected)
    assert [row["relevance_score"] for row in answer["results"][:30]] == [one.score for one in expected[:30]]
    assert {row["index"]: row["relevance_score"] for row in answer["results"]} == dict(enumerate(both.score("q", LONG)))
    assert [row["score"] for row in pairs["data"]] == LastNumber().score("q", ["word 1", "2"])


def test_requests_with_the_same_query_do_not_compete_in_one_batch() -> None:
    both = CascadeRerankFunction([(Words(), 2), (LastNumber(), None)])
    requests = [("q", ["word 1", "2", "3"]), ("q", ["word word 4", "word 5", "word 6"])]
    model = CustomModel(both)
    ready = [model.prepare([request], None, threading.Event()) for request in requests]
    logits = model.run([row for one in ready for row in one.rows])
    assert [one.finish(logits[[place]], "model") for place, one in enumerate(ready)] == [
        both.score(*request) for request in requests
    ]
    together = model.prepare([("q", []), *requests], None, threading.Event())
    assert [len(row.request[1]) for row in together.rows] == [3, 3]  # nothing to score is no row
    made = together.finish(model.run(together.rows), "model")
    assert made == both.score(*requests[0]) + both.score(*requests[1])


def test_a_plugin_may_say_that_its_scores_depend_on_each_other() -> None:
    class Share:
        pointwise = False

        def score(self, query: str, texts: Sequence[str]) -> list[float]:
            return [len(text) / sum(map(len, texts)) for text in texts]

    texts = ["x" * 40000, "y" * 40000, "z" * 20000]
    with serving({"share": lambda: wrap(Share(), "share")}) as server:
        answer = server.post("/v2/rerank", {"query": "q", "documents": texts}).json()
    assert [row["relevance_score"] for row in answer["results"]] == [0.4, 0.4, 0.2]
