"""What an evaluation keeps in memory, cuts, and says about judgments that cannot be right."""

import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from tiny_embedder import passage_texts, save_embedder, write_beir, write_jsonl

from milvus_rerank.cascade import CascadeRerankFunction
from milvus_rerank.embedding import StaticEmbedder
from milvus_rerank.errors import InputError
from milvus_rerank.evaluation import EvaluationCache, JudgedQueries, evaluate, load_judged, load_queries
from milvus_rerank.evaluation import evaluate as evaluate_function
from milvus_rerank.indexing import describe, index_passages, open_client, open_search
from milvus_rerank.reranker.base import BaseRerankFunction
from milvus_rerank.reranker.lexical import LexicalRerankFunction
from milvus_rerank.scoring import Request
from milvus_rerank.search import TwoStageSearch

pytest.importorskip("milvus_lite")
pytest.importorskip("ir_measures")
JUDGED = JudgedQueries(
    "small", {"q1": "programming language", "q2": "moon"}, {"q1": {"python": 2, "c": 1}, "q2": {"moon": 1}}
)


@pytest.fixture(scope="module")
def search(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TwoStageSearch[float]]:
    folder = tmp_path_factory.mktemp("limits")
    judged = load_judged(write_beir(folder / "small"))
    embedder = StaticEmbedder(str(save_embedder(folder / "embedder", passage_texts())))
    with open_client(str(folder / "small.db")) as client:
        index_passages(client, "small", judged.passages, embedder)
        yield open_search(client, describe(client, "small"), embedder=embedder)


def test_documents_beyond_the_limit_of_a_cascade_are_not_in_its_ranking(
    search: TwoStageSearch[float], tmp_path: Path
) -> None:
    cascade = CascadeRerankFunction([("lexical", 3), ("lexical", 2)])
    direct = cascade.rerank_hits(JUDGED.queries["q1"], search("programming language", top_k=None).to_hits(), top_k=0)
    for _ in range(2):  # the second time from the cache
        with EvaluationCache(tmp_path / "calls.sqlite") as cache:
            report = evaluate(search, JUDGED, rerankers={"cascade": cascade}, cache=cache, candidates=5)
        ids = report["cascade"].rankings["q1"].ids
        assert len(ids) == 2
        assert ids == tuple(result.id for result in direct)
        assert report["cascade"].measures["R@5"]["q2"] <= report["dense"].measures["R@5"]["q2"]
    assert report.details["calls"] == {"made": 0, "from the cache": 2}


def test_judged_documents_that_the_collection_lacks_are_counted_and_named(search: TwoStageSearch[float]) -> None:
    judgments = {"q1": {"python": 2, "gone": 1, "lost's": 1}, "q2": {"moon": 1, "gone": 0, 'a"b': 1, "x\\y": 1}}
    report = evaluate(search, JudgedQueries("old", JUDGED.queries, judgments), rerankers={})
    [note] = [note for note in report.notes if "does not hold" in note]
    assert note == (
        "The collection does not hold 4 judged documents ('gone', \"lost's\", 'a\"b', ...), of 5 judgments; relevant "
        "ones count as not found."
    )
    assert report["dense"].measures["R@50"]["q1"] == pytest.approx(1 / 3)


def test_a_collection_that_holds_no_judged_document_is_an_error(search: TwoStageSearch[float]) -> None:
    wrong = JudgedQueries("wrong", JUDGED.queries, {"q1": {"1": 1, "2": 1}})
    with pytest.raises(InputError, match=r"holds none of the 2 judged documents \('1', '2', \.\.\.\)"):
        evaluate(search, wrong, rerankers={})


def test_ids_that_are_numbers_are_compared_as_such(tmp_path: Path) -> None:
    with open_client(str(tmp_path / "n.db")) as client:
        client.create_collection("n", dimension=2)
        rows = [{"id": 7 + n, "vector": [1.0, n / 2], "text": text} for n, text in enumerate(["a dog", "a cat"])]
        client.insert("n", rows)
        search = TwoStageSearch(client, "n", reranker=LexicalRerankFunction(), embed=lambda queries: [[1.0, 0.0]])
        judged = JudgedQueries("n", {"q": "cat"}, {"q": {"8": 1, "9": 1, "08": 1, "cat": 1}})
        report = evaluate(search, judged)
    assert report["reranked"].measures["RR@10"]["q"] == 1.0
    assert any("does not hold 3 judged documents ('9', '08', 'cat')" in note for note in report.notes)


class Remembering(BaseRerankFunction):
    """Score all alike, and keep the order of the calls."""

    def __init__(self, log: list[str], name: str) -> None:
        self.log = log
        self.name = name

    def score_requests(self, requests: Sequence[Request], stop: threading.Event) -> list[list[float]]:
        self.log += [f"{self.name} {query}" for query, _ in requests]
        return [[0.0] * len(texts) for _, texts in requests]


def test_hits_of_some_queries_are_in_memory_at_a_time(
    search: TwoStageSearch[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(evaluate_function.__globals__, "_HITS", 10)  # of two queries with 5 candidates
    queries = {f"q{number}": f"query {number}" for number in range(5)}
    log: list[str] = []
    steps: list[tuple[str, int]] = []
    rerankers = {name: Remembering(log, name) for name in "ab"}
    report = evaluate(
        search,
        JudgedQueries("five", queries),
        rerankers=rerankers,
        candidates=5,
        progress=lambda step, done, total: steps.append((step, done)),
    )
    expected = [f"{name} query {number}" for block in ((0, 1), (2, 3), (4,)) for name in "ab" for number in block]
    assert log == expected
    assert [done for step, done in steps if step == "b"] == [1, 2, 3, 4, 5]
    assert all(set(system.rankings) == set(queries) for system in report.systems)


def test_the_reference_may_be_a_reranker_or_a_system(search: TwoStageSearch[float]) -> None:
    log: list[str] = []
    rerankers = {"a": LexicalRerankFunction(), "b": Remembering(log, "b")}
    judged = JudgedQueries("none", JUDGED.queries)
    report = evaluate(search, judged, rerankers=rerankers, reference="a")
    assert report.referred.name == "a"
    assert report.agreement("a") is None
    agreement = report.agreement("dense")
    assert agreement is not None
    assert {agreement.system, agreement.other} == {"a", "dense"}
    pair = report.headline()
    assert pair is not None
    assert [system.name for system in pair] == ["a", "b"]
    several = evaluate({"x": search, "y": search}, judged, rerankers=rerankers, reference="a")
    assert several.referred.name == "y + a"
    with pytest.raises(InputError, match="the reference 'c' is not among the systems; they are: dense, a, b"):
        evaluate(search, judged, rerankers=rerankers, reference="c")


class Instructed(LexicalRerankFunction):
    """Score texts by the words of the instruction, or else of the query."""

    takes_instruction = True
    instruction: str | None = None

    def _instructed(self, instruction: str) -> "Instructed":
        other = Instructed()
        other.instruction = instruction
        return other

    def score_requests(self, requests: Sequence[Request], stop: threading.Event) -> list[list[float]]:
        wanted = [(self.instruction or query, texts) for query, texts in requests]
        return super().score_requests(wanted, stop)


def test_an_instruction_is_for_the_rerankers_that_take_one(search: TwoStageSearch[float]) -> None:
    rerankers = {"takes": Instructed(), "ignores": LexicalRerankFunction()}
    plain = evaluate(search, JUDGED, rerankers=rerankers)
    told = evaluate(search, JUDGED, rerankers=rerankers, instruction="moth relay computer")
    assert plain["takes"].rankings["q1"].ids[0] != "bug"
    assert told["takes"].rankings["q1"].ids[0] == "bug"
    assert told["ignores"].rankings == plain["ignores"].rankings
    with pytest.raises(InputError, match="takes no instruction"):
        evaluate(search, JUDGED, rerankers={"ignores": LexicalRerankFunction()}, instruction="moth")


def test_a_printed_report_has_all_columns(search: TwoStageSearch[float]) -> None:
    report = evaluate(search, JUDGED, rerankers={"lexical": LexicalRerankFunction()})
    lines = str(report).splitlines()
    assert lines[0] == report.summary()
    assert lines[1].split() == ["nDCG@10", "RR@10", "AP", "R@50", "Judged@10", "gain", "p", "p50", "p95", "pairs/s"]
    assert lines[-1] == report.notes[-1]
    assert "too few queries for an interval" in report.summary() or report.best().reranker is None


def test_queries_alone_are_read_from_jsonl_tables_and_folders(tmp_path: Path) -> None:
    lines = [{"_id": "x", "text": "a"}, {"query": "b"}]
    assert load_queries(write_jsonl(tmp_path / "q.jsonl", lines)).queries == {"x": "a", "2": "b"}
    (tmp_path / "q.tsv").write_text("1\tfirst\n2\tsecond\n")
    assert load_queries(tmp_path / "q.tsv") == JudgedQueries("q", {"1": "first", "2": "second"})
    assert load_queries(write_beir(tmp_path / "small")) == JudgedQueries("small", JUDGED.queries)
    (tmp_path / "q.txt").write_text("no tab\n")
    with pytest.raises(InputError, match=r"q\.txt:1: expected a query's id and text, separated by a tab"):
        load_queries(tmp_path / "q.txt")
