"""Evaluations of first stages and rerankers, in numbers worked out by hand or by brute force."""

import itertools
import json
import math
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest
from tiny_embedder import passage_texts, save_embedder, write_beir, write_jsonl

from milvus_rerank import load
from milvus_rerank.embedding import StaticEmbedder
from milvus_rerank.errors import InputError, WriteError
from milvus_rerank.evaluation import EvaluationCache, JudgedQueries, Prices, evaluate, load_judged, load_judged_queries
from milvus_rerank.evaluation.agreement import overlap, rank_biased_overlap
from milvus_rerank.evaluation.cache import reranker_key
from milvus_rerank.indexing import describe, index_passages, open_client, open_search
from milvus_rerank.reranker.base import BaseRerankFunction
from milvus_rerank.scoring import Request
from milvus_rerank.search import TwoStageSearch

JUDGED = JudgedQueries(
    "small", {"q1": "programming language", "q2": "moon"}, {"q1": {"python": 2, "c": 1}, "q2": {"moon": 1}}
)


class Preferring(BaseRerankFunction):
    """Score 1 for texts with a word, 0 for the others, and count the calls."""

    def __init__(self, word: str) -> None:
        self.word = word
        self.calls = 0

    def score_requests(self, requests: Sequence[Request], stop: threading.Event) -> list[list[float]]:
        self.calls += 1
        return [[float(self.word in text) for text in texts] for _, texts in requests]


@pytest.fixture(scope="module")
def search(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TwoStageSearch[float]]:
    folder = tmp_path_factory.mktemp("evaluate")
    judged = load_judged(write_beir(folder / "small"))
    embedder = StaticEmbedder(str(save_embedder(folder / "embedder", passage_texts())))
    with open_client(str(folder / "small.db")) as client:
        index_passages(client, "small", judged.passages, embedder)
        yield open_search(client, describe(client, "small"), embedder=embedder)


def test_metrics_follow_the_order_of_each_system(search: TwoStageSearch[float]) -> None:
    report = evaluate(
        search, JUDGED, rerankers={"comedy": Preferring("comedy"), "moth": Preferring("moth")}, candidates=5
    )
    assert [system.name for system in report.systems] == ["dense", "comedy", "moth"]
    assert report["comedy"].rankings["q1"].ids[0] == "python"
    assert report["moth"].rankings["q2"].ids[0] == "bug"
    ids = report["comedy"].rankings["q1"].ids
    gained = 2 / math.log2(2) + 1 / math.log2(ids.index("c") + 2)
    assert report["comedy"].measures["nDCG@10"]["q1"] == pytest.approx(gained / (2 + 1 / math.log2(3)), abs=1e-9)
    rank = report["moth"].rankings["q2"].ids.index("moon") + 1
    assert rank > 1
    assert report["moth"].measures["RR@10"]["q2"] == pytest.approx(1 / rank)
    assert report["moth"].measures["Judged@10"]["q1"] == pytest.approx(2 / 5)
    assert report["dense"].mean("R@5") == 1.0
    assert report.ceilings == {"dense": 1.0}
    assert report["comedy"].ndcg10 == pytest.approx(fmean(report["comedy"].measures["nDCG@10"].values()))
    assert "2 judged queries are too few" in report.notes[0]


def test_the_searchs_own_reranker_is_named_reranked_and_several_searches_name_both(
    search: TwoStageSearch[float],
) -> None:
    assert [system.name for system in evaluate(search, JUDGED).systems] == ["dense", "reranked"]
    several = evaluate({"a": search, "b": search}, JUDGED, rerankers={"moth": Preferring("moth")}, candidates=2)
    assert [system.name for system in several.systems] == ["a", "a + moth", "b", "b + moth"]
    gain = several.gain("b + moth")
    assert gain is not None
    assert gain.baseline == "b"
    assert several["a"].reranker is None
    with pytest.raises(InputError, match="several searches need rerankers="):
        evaluate({"a": search, "b": search}, JUDGED)


def test_wins_and_losses_are_counted_and_the_queries_that_moved_most_come_first(search: TwoStageSearch[float]) -> None:
    report = evaluate(search, JUDGED, rerankers={"moth": Preferring("moth")}, candidates=5)
    gain = report.gain("moth")
    assert gain is not None
    before, after = report["dense"].measures["nDCG@10"], report["moth"].measures["nDCG@10"]
    differences = {name: after[name] - before[name] for name in after}
    assert gain.gain == pytest.approx(fmean(differences.values()))
    assert (gain.wins, gain.losses) == (
        sum(value > 1e-9 for value in differences.values()),
        sum(value < -1e-9 for value in differences.values()),
    )
    moved = report.moved(report["moth"], report["dense"])
    assert [abs(differences[name]) for name in moved] == sorted(
        (abs(differences[name]) for name in moved), reverse=True
    )


def test_a_second_evaluation_scores_nothing_again_and_answers_the_same(
    search: TwoStageSearch[float], tmp_path: Path
) -> None:
    lexical = load("lexical")
    with EvaluationCache(tmp_path / "calls.sqlite") as cache:
        first = evaluate(search, JUDGED, rerankers={"lexical": lexical}, cache=cache)
    with EvaluationCache(tmp_path / "calls.sqlite") as cache:
        second = evaluate(search, JUDGED, rerankers={"lexical": lexical}, cache=cache)
    assert first.details["calls"] == {"made": 2, "from the cache": 0}
    assert second.details["calls"] == {"made": 0, "from the cache": 2}
    assert second["lexical"].rankings == first["lexical"].rankings
    assert {name: times.rerank for name, times in second["lexical"].timings.items()} == {
        name: times.rerank for name, times in first["lexical"].timings.items()
    }
    assert b"programming" not in (tmp_path / "calls.sqlite").read_bytes()
    assert (tmp_path / "calls.sqlite").stat().st_mode & 0o077 == 0


def test_code_of_others_is_never_answered_from_the_cache(search: TwoStageSearch[float], tmp_path: Path) -> None:
    moth = Preferring("moth")
    with EvaluationCache(tmp_path / "calls.sqlite") as cache:
        evaluate(search, JUDGED, rerankers={"moth": moth}, cache=cache)
        evaluate(search, JUDGED, rerankers={"moth": moth}, cache=cache)
    assert moth.calls == 4
    assert reranker_key(moth) is None


def test_a_models_key_follows_its_options_and_its_tokens_are_counted(search: TwoStageSearch[float]) -> None:
    short, long = load("builtin/rerank", max_length=16), load("builtin/rerank")
    assert reranker_key(short) != reranker_key(long)
    assert reranker_key(long) == reranker_key(load("builtin/rerank"))
    system = evaluate(search, JUDGED, rerankers={"short": short}, candidates=5)["short"]
    assert system.pairs == 10
    assert system.tokens is not None
    assert 10 * 5 <= system.tokens <= 10 * 16
    assert system.pairs_per_second == pytest.approx(10 / sum(times.rerank for times in system.timings.values()))


def test_the_filter_of_a_config_file_counts_and_its_threshold_does_not(tmp_path: Path) -> None:
    embedder = save_embedder(tmp_path / "embedder", passage_texts())
    with open_client(str(tmp_path / "small.db")) as client:
        passages = load_judged(write_beir(tmp_path / "small")).passages
        index_passages(client, "small", passages, StaticEmbedder(str(embedder)))
    config = {
        "milvus": {"uri": str(tmp_path / "small.db")},
        "embedder": {"name": str(embedder)},
        "reranker": {"name": "lexical"},
        "search": {"filter": "year > 1970", "threshold": 0.5, "candidates": 5, "top_k": 1},
    }
    search = TwoStageSearch.from_config(config)
    try:
        assert set(evaluate(search, JUDGED)["reranked"].rankings["q1"].ids) == {"python", "c"}
        assert len(evaluate(search, JUDGED, filter="")["reranked"].rankings["q1"].ids) == 5
    finally:
        search.source.client.close()


def test_another_file_is_refused_as_cache(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("this is not a database, but a text of some length" * 50)
    with pytest.raises(WriteError, match="cannot be used as the cache of evaluations"):
        EvaluationCache(tmp_path / "notes.txt")


def test_queries_without_judgments_count_in_no_metric_and_are_reported(search: TwoStageSearch[float]) -> None:
    queries = {**JUDGED.queries, "q3": "relay", "q4": "walk"}
    judged = JudgedQueries("more", queries, {**JUDGED.judgments, "q4": {"c": 0, "bug": -1}})
    report = evaluate(search, judged, rerankers={"comedy": Preferring("comedy")})
    assert set(report["dense"].measures["AP"]) == {"q1", "q2"}
    assert "1 query has ('q3') no judgment and count in no metric." in report.notes
    assert "1 query has ('q4') judgments, but none of a relevant document, and count in no metric." in report.notes
    unjudged = evaluate(search, JudgedQueries("none", queries), rerankers={"comedy": Preferring("comedy")})
    assert unjudged.comparisons == ()
    assert unjudged["dense"].measures == {}
    assert "without judgments" in unjudged.summary()
    agreement = unjudged.agreements[0]
    pairs = [(unjudged["comedy"].rankings[name].ids, unjudged["dense"].rankings[name].ids) for name in queries]
    assert agreement.rbo == pytest.approx(fmean(rank_biased_overlap(*pair) for pair in pairs))
    assert agreement.same_first == fmean(float(first[0] == second[0]) for first, second in pairs)


def test_costs_are_a_services_price_or_the_machines_time(search: TwoStageSearch[float]) -> None:
    rerankers = {"paid": Preferring("moth"), "own": Preferring("moth")}
    report = evaluate(search, JUDGED, rerankers=rerankers, prices=Prices({"paid": 2.0}, machine_hour=3.6))
    assert report["paid"].cost == 2.0
    assert report["own"].cost == pytest.approx(fmean(times.total for times in report["own"].timings.values()))
    assert evaluate(search, JUDGED, rerankers=rerankers)["own"].cost is None


def test_a_report_is_json_a_data_frame_and_trec_runs(search: TwoStageSearch[float], tmp_path: Path) -> None:
    report = evaluate(search, JUDGED, rerankers={"a/b c": Preferring("moth")}, candidates=3)
    document: dict[str, Any] = json.loads(json.dumps(report.to_dict()))
    assert document["systems"][1]["means"]["nDCG@10"] == report["a/b c"].ndcg10
    assert report.to_pandas().loc["a/b c", "nDCG@10"] == report["a/b c"].ndcg10
    paths = report.write_runs(tmp_path / "runs")
    assert [path.name for path in paths] == ["dense.run", "a-b-c.run"]
    first = paths[1].read_text().splitlines()[0].split()
    assert first == ["q1", "Q0", report["a/b c"].rankings["q1"].ids[0], "1", "-1", "a-b-c"]


def test_rank_biased_overlap_equals_its_definition_on_equal_depths() -> None:
    def slow(first: str, second: str, p: float) -> float:
        depth = len(first)
        shares = [len({*first[:d]} & {*second[:d]}) / d for d in range(1, depth + 1)]
        return shares[-1] * p**depth + (1 - p) / p * sum(share * p**d for d, share in enumerate(shares, 1))

    for second in itertools.permutations("abcx", 3):
        assert rank_biased_overlap("abc", second) == pytest.approx(slow("abc", "".join(second), 0.9))
    assert rank_biased_overlap("abc", "abcde") == pytest.approx(1.0)
    assert rank_biased_overlap("", "a") == 0.0
    assert rank_biased_overlap("", "") == 1.0
    assert overlap("abc", "acd", 2) == 0.5


def test_queries_are_read_from_jsonl_trec_and_beir(tmp_path: Path) -> None:
    lines: list[dict[str, Any]] = [
        {"query": "a", "relevant": [7, "x"]},
        {"_id": "q", "query": "b", "relevant": {"y": 2}},
        {"query": "c"},
    ]
    judged = load_judged_queries(write_jsonl(tmp_path / "mine.jsonl", lines))
    assert judged == JudgedQueries("mine", {"1": "a", "q": "b", "3": "c"}, {"1": {"7": 1, "x": 1}, "q": {"y": 2}})
    (tmp_path / "qrels.txt").write_text("1 0 d1 2\n1 0 d2 -1\n")
    (tmp_path / "topics.tsv").write_text("1\tfirst query\n2\tsecond\n")
    trec = load_judged_queries(tmp_path / "qrels.txt", tmp_path / "topics.tsv")
    assert trec.queries == {"1": "first query", "2": "second"}
    assert trec.judgments == {"1": {"d1": 2, "d2": -1}}
    folder = write_beir(tmp_path / "small")
    (folder / "corpus.jsonl").unlink()
    assert load_judged_queries(folder) == JUDGED


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("{", r"mine\.jsonl:1: is not JSON"),
        ("1 0 d1 2", r"mine\.jsonl:1: expected JSON, such as .*; for TREC's judgments give their queries, too"),
        ('{"question": "a"}', r"mine\.jsonl:1: expected the key 'query' with a text, got the keys \['question'\]"),
        ('{"query": "a", "relevant": "x"}', r"mine\.jsonl:1: 'relevant' must be a list of ids, or an object"),
        ('{"query": "a", "relevant": {"x": 0.5}}', r"the relevance of 'x' must be an integer, got 0\.5"),
        ('{"query": "a", "relevant": ["x", "x"]}', "'relevant' names an id twice"),
        ("", "holds no queries"),
    ],
)
def test_a_wrong_line_of_queries_is_named(line: str, problem: str, tmp_path: Path) -> None:
    (tmp_path / "mine.jsonl").write_text(line + "\n")
    with pytest.raises(InputError, match=problem):
        load_judged_queries(tmp_path / "mine.jsonl")
