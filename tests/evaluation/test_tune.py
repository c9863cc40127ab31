"""Tuning: targets, rounds, frontiers and choices in numbers worked out by hand, and a whole search over a grid."""

import threading
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import pytest
from tiny_embedder import save_embedder

from milvus_rerank.config import Config, read_config
from milvus_rerank.embedding import StaticEmbedder
from milvus_rerank.errors import InputError
from milvus_rerank.evaluation import JudgedQueries
from milvus_rerank.evaluation.tuning import (
    Setting,
    Target,
    TuneOptions,
    TuneReport,
    Variant,
    make_variants,
    read_target,
    tune,
)
from milvus_rerank.evaluation.tuning.choose import better_half, choose, divide, measure_best, round_sizes
from milvus_rerank.evaluation.tuning.scored import Scored, frontier, rankings
from milvus_rerank.evaluation.tuning.settings import make_settings
from milvus_rerank.indexing import describe, index_passages, open_client, open_search
from milvus_rerank.indexing.corpus import Passage
from milvus_rerank.registry import Registry, register, scan_installed
from milvus_rerank.reranker.base import BaseRerankFunction
from milvus_rerank.scoring import Request
from milvus_rerank.search import TwoStageSearch

A, B, C, D = (Variant(name) for name in "abcd")
QUERIES = 40
WORDS = [f"w{number}" for number in range(QUERIES)]


class Counting(BaseRerankFunction):
    """Prefer the passage whose last word is the query's, after ``flaw`` of ten queries the other way round."""

    def __init__(self, flaw: int = 0) -> None:
        self.flaw = flaw

    def score_requests(self, requests: Sequence[Request], stop: threading.Event) -> list[list[float]]:
        rows = []
        for query, texts in requests:
            wrong = int(query[1:]) % 10 < self.flaw
            rows.append([float((text.split()[-1] == query) != wrong) for text in texts])
        return rows


@pytest.fixture(autouse=True)
def flawed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Register rerankers in a registry that is gone after the test."""
    monkeypatch.setattr("milvus_rerank.registry._shared", Registry(scan_installed))
    for flaw in (0, 4, 8, 10):
        register(f"flaw-{flaw}", partial(Counting, flaw))


@pytest.fixture(scope="module")
def search(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TwoStageSearch[float]]:
    folder = tmp_path_factory.mktemp("tune")
    embedder = StaticEmbedder(str(save_embedder(folder / "embedder", [*WORDS, "about", "end"])))
    # Nine passages of each query have its word twice; the relevant one has it once, as its last word.
    passages = [
        Passage(f"{word}-{n}", "", f"{word} {word} about end" if n else f"about {word}")
        for word in WORDS
        for n in range(10)
    ]
    with open_client(str(folder / "tune.db")) as client:
        index_passages(client, "tune", passages, embedder)
        yield open_search(client, describe(client, "tune"), embedder=embedder)


JUDGED = JudgedQueries("tune", {word: word for word in WORDS}, {word: {f"{word}-0": 1} for word in WORDS})
OPTIONS = TuneOptions(candidates=(10, 20), timed=3, memory=False)


def run(search: TwoStageSearch[float], flaws: Sequence[int], target: Target) -> TuneReport:
    return tune(search, JUDGED, [Variant(f"flaw-{flaw}") for flaw in flaws], target, OPTIONS)


@pytest.mark.parametrize(
    ("texts", "target"),
    [
        ([], Target(within=0.01)),
        (["p95 under 200 ms"], Target(p95=0.2)),
        (["P95 < 1.5s", "under 2 GB"], Target(p95=1.5, memory=2e9)),
        (["within 2.5% of the best nDCG@10", "memory below 500 MB"], Target(within=0.025, memory=5e8)),
    ],
)
def test_a_target_is_read_from_phrases(texts: list[str], target: Target) -> None:
    read = read_target(texts)
    assert (read.p95, read.within, read.memory) == pytest.approx((target.p95, target.within, target.memory))


@pytest.mark.parametrize(
    "texts", [["fast"], ["p95 under 200"], ["under 1 GB", "under 2 GB"], ["within 100%"], ["p95 under 0 ms"]]
)
def test_an_unreadable_target_is_an_error(texts: list[str]) -> None:
    with pytest.raises(InputError):
        read_target(texts)


def test_rounds_double_the_queries_and_end_with_two_rerankers() -> None:
    assert round_sizes(112, 8) == [28, 56, 112]
    assert round_sizes(112, 2) == [112]
    assert round_sizes(112, 1) == [112]
    assert round_sizes(15, 64) == [15]
    kept, scored, done = 8, 0, 0
    for size in round_sizes(112, 8):
        scored, done, kept = scored + kept * (size - done), size, max(2, kept // 2)
    assert scored / (8 * 112) == 0.5


def test_the_halves_share_no_query_and_depend_on_the_seed() -> None:
    first, second = divide(WORDS, 0)
    assert sorted([*first, *second]) == sorted(WORDS)
    assert (first, second) == divide(WORDS, 0)
    assert first != divide(WORDS, 1)[0]


def test_the_frontier_has_what_no_other_beats_in_both() -> None:
    values = {A: (0.5, 1.0), B: (0.4, 2.0), C: (0.6, 3.0), D: (0.6, 3.5)}
    points = {Setting(variant, 10): value for variant, value in values.items()}
    assert [item.variant for item in frontier(points)] == [A, C]


def test_smaller_settings_and_cascades_follow_from_the_scores_of_the_most_candidates() -> None:
    hits: dict[str, tuple[str, ...]] = {"q": ("1", "2", "3", "4")}
    cheap = Scored(hits, {"q": {"1": 0.0, "2": 1.0, "3": 1.0, "4": 3.0}})
    strong = Scored(hits, {"q": {"1": 9.0, "2": 2.0, "3": 3.0, "4": 1.0}})
    scored = {A: cheap, B: strong}
    assert rankings(Setting(A, 4), scored, ["q"]) == {"q": ["4", "2", "3", "1"]}
    assert rankings(Setting(B, 2), scored, ["q"]) == {"q": ["1", "2"]}
    assert rankings(Setting(B, 4, A, 3), scored, ["q"]) == {"q": ["3", "2", "4"]}


def test_the_choice_is_the_best_within_the_limit_or_the_fastest_that_is_near() -> None:
    small, middle, large = Setting(A, 10), Setting(B, 10), Setting(C, 10)
    seconds, quality = {small: 0.1, middle: 0.2, large: 0.9}, {small: 0.50, middle: 0.595, large: 0.60}
    assert choose(seconds, quality, Target(p95=0.5)) == middle
    assert choose(seconds, quality, Target(p95=0.15)) == small
    assert choose(seconds, quality, Target(within=0.01)) == middle
    assert choose(seconds, quality, Target(within=0.001)) == large
    assert choose({small: 0.1, middle: 0.1}, quality, Target(within=0.5)) == middle, "of two that are as fast"
    with pytest.raises(InputError, match=r"no setting has a p95 under 50 ms: the fastest is a of 10 .* 100 ms"):
        choose(seconds, quality, Target(p95=0.05))


def test_settings_are_measured_until_one_is_fast_enough() -> None:
    edge = [Setting(variant, 10) for variant in (A, B, C, D)]
    seconds = dict(zip(edge, (0.1, 0.2, 0.3, 0.4), strict=True))
    assert list(measure_best(edge, seconds.__getitem__, Target(), 2)) == [edge[3], edge[2]]
    assert list(measure_best(edge, seconds.__getitem__, Target(p95=0.2), 2)) == [edge[3], edge[2], edge[1]]
    assert list(measure_best(edge, seconds.__getitem__, Target(p95=0.01), 2)) == edge[::-1]


def test_the_better_half_keeps_fast_rerankers_only_if_they_may_win() -> None:
    values = {A: (0.1, 0.01), B: (0.58, 0.1), C: (0.6, 0.5), D: (0.59, 0.6)}
    points = {Setting(variant, 10): value for variant, value in values.items()}
    assert better_half([A, B, C, D], points, Target(within=0.01)) == [B, C]
    assert better_half([A, B, C, D], points, Target()) == [C, D]
    assert better_half([A, B, C, D], points, Target(p95=0.2)) == [A, B]


def test_variants_have_only_the_options_that_a_reranker_takes() -> None:
    made = make_variants(["lexical", "builtin/rerank"], dtypes=[None, "auto"], max_lengths=[128])
    model = "builtin/rerank"
    assert list(map(str, made)) == ["lexical", f"{model} max_length=128", f"{model} dtype=auto max_length=128"]


def test_a_setting_is_written_as_a_config_that_loads_the_same_reranker(tmp_path: Path) -> None:
    base = read_config({"collection": {"name": "books"}, "search": {"top_k": 5, "candidates": 50}})
    variant = Variant("builtin/rerank", (("dtype", "auto"), ("max_length", 64)))
    Setting(variant, 20).to_config(base).write(tmp_path / "a.toml")
    assert read_config(tmp_path / "a.toml").to_dict() == {
        "collection": {"name": "books"},
        "reranker": {"model": "builtin/rerank", "dtype": "auto", "options": {"max_length": 64}},
        "search": {"candidates": 20, "top_k": 5},
    }
    setting = Setting(Variant("builtin/rerank"), 50, Variant("lexical"), 20)
    setting.to_config(Config()).write(tmp_path / "b.toml")
    config = read_config(tmp_path / "b.toml")
    assert config.reranker.to_options() == {"stages": [["lexical", 20], ["builtin/rerank", 20]]}


def test_cascades_are_of_a_fast_and_a_slower_reranker_without_options() -> None:
    tuned = Variant("c", (("dtype", "auto"),))
    made = make_settings([A, B, tuned], frozenset([A, B, tuned]), (10, 20), 10)
    assert [item for item in made if item.first is not None] == [Setting(B, 20, A, 10)]
    assert make_settings([A], frozenset(), (10, 20), 10) == [Setting(A, 20)]


@pytest.mark.needs("milvus_lite", "ir_measures", "scipy")
def test_the_best_reranker_of_the_grid_is_chosen_and_measured_on_unseen_queries(search: TwoStageSearch[float]) -> None:
    report = run(search, (10, 8, 0, 4), Target())
    assert str(report.chosen.setting) == "flaw-0"
    assert (report.chosen.ndcg, report.choosing, report.held_out) == (1.0, 20, 20)
    assert report.rows[0].name == "first stage"
    assert report.rows[0].ndcg < 1.0
    assert set(report.dropped.values()) == {10}
    assert len(report.dropped) == 2
    assert report.pairs < report.grid_pairs
    assert read_config(report.to_config().to_dict()).reranker.name == "flaw-0"
    assert "20 held-out queries tell only large differences" in " ".join(report.notes)
    assert report.plot().count("\n") > 10


@pytest.mark.needs("milvus_lite", "ir_measures", "scipy")
def test_a_target_that_nothing_reaches_and_too_few_queries_are_errors(search: TwoStageSearch[float]) -> None:
    with pytest.raises(InputError, match=r"no setting has a p95 under 0\.001 ms: the fastest is flaw-"):
        run(search, (0, 4), Target(p95=1e-6))
    few = JudgedQueries("few", dict(list(JUDGED.queries.items())[:19]), JUDGED.judgments)
    with pytest.raises(InputError, match="at least 20 queries with a relevant document, got 19"):
        tune(search, few, [A], Target(), OPTIONS)


@pytest.mark.needs("milvus_lite", "ir_measures", "scipy")
def test_a_limit_of_memory_is_measured_in_a_new_process(search: TwoStageSearch[float]) -> None:
    with pytest.raises(InputError, match=r"no reranker takes less than 1e-06 GB; lexical takes the least, 0\.\d\d GB"):
        tune(search, JUDGED, [Variant("lexical")], Target(memory=1000.0), OPTIONS)
