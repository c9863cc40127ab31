"""Milvus as the first stage of a bulk job: the scores of ``TwoStageSearch``, errors that pass, and what is refused."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from bulk_jobs import read_results, run, write
from milvus_fixtures import lite_server, make_docs

from milvus_rerank import LexicalRerankFunction, TwoStageSearch
from milvus_rerank.cluster.first_stage import WAITS, CandidateFinder, MilvusFirstStage, RetrieveWorker
from milvus_rerank.cluster.queries import QueryFields, QueryRow
from milvus_rerank.cluster.stage import read_pieces, stage_file
from milvus_rerank.errors import InputError, SearchError
from milvus_rerank.evaluation import demo_folder, load_judged
from milvus_rerank.indexing import index_passages, load_embedder

pytestmark = pytest.mark.needs("pyarrow", "fsspec", "milvus_lite")


@pytest.fixture(scope="module")
def uri(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    from pymilvus import MilvusClient

    with lite_server(tmp_path_factory.mktemp("lite")) as (address, _):
        client = MilvusClient(address)
        index_passages(client, "history", load_judged(demo_folder()).passages, load_embedder("builtin/embed"))
        make_docs(client)
        yield address
        client.close()


@pytest.mark.needs("ray")
def test_scores_are_those_of_a_two_stage_search(uri: str, tmp_path: Path) -> None:
    from pymilvus import MilvusClient

    queries = [json.loads(line) for line in (demo_folder() / "queries.jsonl").read_text("utf-8").splitlines()]
    source = write(tmp_path / "queries.jsonl", [*queries, {"_id": "bad", "text": 5}])
    config = tmp_path / "search.toml"
    config.write_text(
        f'[milvus]\nuri = "{uri}"\n[collection]\nname = "history"\ntext_field = "{{title}}: {{text}}"\n'
        '[reranker]\nname = "lexical"\n[search]\ncandidates = 40\nfilter = "year > 1950"\n'
    )
    arguments = (source, "-o", tmp_path / "out", "--query-id-field", "_id", "--query-field", "text")
    done = run(*arguments, "--config", config, "--format", "jsonl", "--workers", 2, "--json")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    counts = [report[name] for name in ("queries", "results", "failed", "pairs", "scored", "searched")]
    assert counts == [61, 60, 1, 2400, 2400, 60]
    client = MilvusClient(uri)
    search = TwoStageSearch(
        client,
        "history",
        reranker=LexicalRerankFunction(),
        embed=load_embedder("builtin/embed").encode_queries,
        text_field="{title}: {text}",
    )
    results = read_results(tmp_path / "out")
    for query in queries:
        expected = search(query["text"], top_k=None, candidates=40, filter="year > 1950")
        result = results[query["_id"]]
        assert result["ids"] == [hit.id for hit in expected]
        assert result["scores"] == [hit.score for hit in expected]
        assert result["first_stage_ranks"] == [hit.index + 1 for hit in expected]
    client.close()


def finder(uri: str, **options: Any) -> CandidateFinder:
    return MilvusFirstStage(uri, "docs", mode="bm25", **options).open()


def rows(*queries: str) -> list[QueryRow]:
    return [QueryRow(f"f:{number}", f"q{number}", query) for number, query in enumerate(queries)]


def test_a_query_without_hits_has_no_documents_and_one_at_fault_fails_alone(uri: str) -> None:
    found = finder(uri, candidates=3)(rows("milvus index", "zebra", "search results"))
    assert [sorted(row.ids) for row in found] == [["d2", "d4", "d5"], [], ["d4", "d7", "d8"]]
    assert found[0].texts[found[0].ids.index("d4")] == "an index makes milvus search quick"
    by_note = finder(uri, text_field="note")(rows("bread", "paris"))
    assert by_note[0].error.startswith("HitError: hit 0 (id 'd3'): field 'note' is null")
    assert (by_note[1].error, by_note[1].texts) == ("", ("note 0",))


class Flaky:
    """A search that fails some times before it answers."""

    def __init__(self, search: Any, failures: int, cause: Exception) -> None:
        self.search, self.failures, self.cause = search, failures, cause

    def __call__(self, queries: list[str], **options: Any) -> Any:
        if self.failures:
            self.failures -= 1
            raise SearchError("Milvus could not search") from self.cause
        return self.search(queries, **options)


def test_errors_that_may_pass_are_tried_again_and_end_the_job_if_they_do_not(uri: str) -> None:
    from pymilvus.exceptions import MilvusException

    found = finder(uri)
    expected = found(rows("milvus index"))
    waited: list[float] = []
    for cause in (TimeoutError(), MilvusException(8, "rate limit exceeded[rate=3]")):
        waited.clear()
        flaky: Any = Flaky(found.search, 2, cause)
        assert CandidateFinder(flaky, found.stage, waited.append)(rows("milvus index")) == expected
        assert waited == [*WAITS[:2]]
    waited.clear()
    gone: Any = Flaky(found.search, 99, TimeoutError())
    with pytest.raises(SearchError, match="could not search"):
        CandidateFinder(gone, found.stage, waited.append)(rows("milvus index", "search results"))
    assert waited == [*WAITS]
    refused: Any = Flaky(found.search, 2, MilvusException(1100, "no such thing"))
    first, second = CandidateFinder(refused, found.stage, waited.append)(rows("milvus index", "search results"))
    assert (first.error, second.error) == ("SearchError: Milvus could not search", "")


def test_the_rate_is_shared_by_the_clients(uri: str) -> None:
    found = finder(uri, candidates=500, rate=10.0, clients=4)  # two queries in a call
    now = 0.0

    def sleep(seconds: float) -> None:
        nonlocal now
        now += seconds

    paced = CandidateFinder(found.search, found.stage, sleep, lambda: now)
    assert len(paced(rows(*["milvus"] * 10))) == 10
    assert now == pytest.approx(4 * 2 * 4 / 10.0)  # each client sends 2.5 queries a second; the first call is at once


def test_a_part_with_documents_is_not_searched_again(uri: str, tmp_path: Path) -> None:
    source = write(tmp_path / "in.jsonl", [{"query_id": n, "query": "milvus"} for n in range(5)])
    fields = QueryFields(documents=None)
    staged = stage_file(0, str(source), fields, tmp_path / "staged", split=False, candidates=1000)
    assert [len(read_pieces(tmp_path / "staged" / part)) for part in staged.parts] == [2, 2, 1]
    assert (staged.rows, staged.pairs, len(staged.groups)) == (5, 5000, 3)
    stage = MilvusFirstStage(uri, "docs", mode="bm25")
    worker = RetrieveWorker(stage, str(tmp_path / "staged"), str(tmp_path / "found"))
    assert [worker(staged.parts[0]), worker(staged.parts[0])] == [2, 0]
    (first, last), _ = read_pieces(tmp_path / "found" / staged.parts[0])
    assert (sorted(first.ids), last) == (["d2", "d4", "d5"], True)


def test_what_cannot_work_is_told_before_workers_start(uri: str) -> None:
    stage = MilvusFirstStage(uri, "history")
    stage.check_address()
    stage.check("dogs")
    cases: list[tuple[dict[str, Any], str]] = [
        ({"collection": "histori"}, "'histori' does not exist; the collections are: docs, history"),
        ({"collection": None}, "choose a collection with --collection"),
        ({"filter": "yeer > 5"}, "'yeer', which the collection does not have; did you mean 'year'"),
        ({"text_field": "{title}{body}"}, "names 'body', which the collection does not have"),
        ({"mode": "bm25", "vector_field": "none"}, "'none' is not a BM25 field"),
        ({"collection": "docs"}, "does not say which embedder made its vectors"),
        ({"filter": "year >"}, "Milvus could not search 'history'"),
    ]
    for changed, message in cases:
        with pytest.raises((InputError, SearchError)) as raised:
            replace(stage, **changed).check("dogs")
        assert message in str(raised.value)
    with pytest.raises(SearchError, match=r"http://127\.0\.0\.1:9 cannot be reached"):
        MilvusFirstStage("http://127.0.0.1:9").check_address()
    with pytest.raises(InputError, match="milvus-lite server --data-dir"):
        MilvusFirstStage("./milvus.db").check_address()


def test_a_wrong_command_is_one_line(tmp_path: Path) -> None:
    queries = write(tmp_path / "q.jsonl", [{"query_id": 1, "query": "dogs"}])
    whole = write(tmp_path / "d.jsonl", [{"query_id": 1, "query": "dogs", "documents": []}])
    cases = (
        ((queries, "--uri", "http://127.0.0.1:9"), 1, "Milvus at http://127.0.0.1:9 cannot be reached"),
        ((whole, "--uri", "http://127.0.0.1:9"), 1, "has documents, in 'documents', and a Milvus to search"),
        ((queries,), 1, "no column 'documents'; it has 'query_id', 'query'. Name it with --documents-field, or find"),
        ((queries, "--collection", "docs"), 2, "documents come from Milvus only with --uri"),
    )
    for arguments, code, message in cases:
        done = run(*arguments, "-o", tmp_path / "out", "--reranker", "lexical")
        assert done.returncode == code, done.stderr
        assert message in " ".join(done.stderr.replace("│", " ").split())


def test_the_record_of_a_job_holds_no_secret() -> None:
    stage = MilvusFirstStage("http://me:secret@host:19530", token="user:secret", text_field=("title", "text"))
    assert "secret" not in json.dumps(stage.to_dict()) + repr(replace(stage, uri="http://host"))
    assert stage.to_dict()["uri"] == "http://host:19530"
