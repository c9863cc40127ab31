"""``milvus-rerank batch`` on Ray of this machine: scores, counts, a job that was killed, and what is refused."""

import json
from pathlib import Path

import pytest
from bulk_jobs import BUILTIN, query, read_results, run, write

from milvus_rerank import CrossEncoderRerankFunction
from milvus_rerank.cluster.reranker import RerankerSpec
from milvus_rerank.cluster.score_parts import PartWorker
from milvus_rerank.errors import InputError

pytestmark = pytest.mark.needs("ray", "pyarrow", "fsspec")


def test_results_are_those_of_a_direct_call_and_no_row_is_lost(tmp_path: Path) -> None:
    good = [query("a", 30), query("bb", 2500), query("ccc", 0)]
    source = write(tmp_path / "in.jsonl", [good[0], "{bad", *good[1:], {"query_id": "d", "query": 5, "documents": []}])
    arguments = (source, "-o", tmp_path / "out", "--format", "jsonl", "--workers", 2, *BUILTIN)
    done = run(*arguments, "--json")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert [report[name] for name in ("queries", "results", "failed", "pairs", "scored")] == [5, 3, 2, 2530, 2530]
    failed = [json.loads(line) for line in (tmp_path / "out" / "failed.jsonl").read_text().splitlines()]
    assert [row["where"].rpartition(":")[2] for row in failed] == ["2", "5"]
    assert failed[1] == {"query_id": "d", "where": f"{source}:5", "error": "'query' must be a string, got int: 5"}
    results = read_results(tmp_path / "out")
    reranker = CrossEncoderRerankFunction("builtin/rerank", device="cpu", threads=1)
    for row in good:
        scores = reranker.score(row["query"], [document["text"] for document in row["documents"]])
        expected = dict(zip((document["id"] for document in row["documents"]), scores, strict=True))
        result = results[row["query_id"]]
        assert result["scores"] == sorted(result["scores"], reverse=True)
        assert dict(zip(result["ids"], result["scores"], strict=True)) == pytest.approx(expected, abs=1e-5)
        assert result["ranks"] == list(range(1, len(scores) + 1))
    job = json.loads((tmp_path / "out" / "job.json").read_text())
    assert job["settings"]["reranker"]["options"] == {"device": "cpu", "threads": 1}
    again = run(*arguments)
    assert (again.returncode, again.stderr) == (0, again.stderr)
    assert again.stdout == f"5 queries read = 3 with results + 2 failed; 2530 pairs ({tmp_path / 'out'})\n"
    other = run(*arguments, "--text-field", "body")
    assert (other.returncode, "holds another run, with other fields" in other.stderr) == (1, True)


def test_what_cannot_be_done_is_told_before_work_begins(tmp_path: Path) -> None:
    source = write(tmp_path / "in.jsonl", [query("a", 2)])
    twice = write(tmp_path / "twice.jsonl", [query("a", 2), query("b", 2), query("a", 2)])
    write(tmp_path / "again.jsonl", [query("c", 2), query("c", 2)])
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("keep me")
    cases = (
        ((source, "-o", tmp_path / "1", "--workers", 999), "too few for 999 workers with 1 CPUs each"),
        ((source, "-o", tmp_path / "2", "--gpus", 64), "64 GPUs each; use fewer workers"),
        ((source, "-o", tmp_path / "3", "--model", "builtin/none"), "no built-in model 'builtin/none'"),
        ((source, "-o", tmp_path / "full"), "is not empty and holds no job.json of a run"),
        ((source, "-o", tmp_path / "4", "--documents-field", "hits"), "no column 'hits'; it has 'query_id'"),
        ((twice, "-o", tmp_path / "5"), "1 query ids repeat; 'a' is in"),
        # Nothing was scored in this folder: another input may use it, and is looked at anew.
        ((tmp_path / "again.jsonl", "-o", tmp_path / "5"), "1 query ids repeat; 'c' is in"),
        ((source, "-o", tmp_path / "6", "--workers", "many"), "expected a number or auto"),
    )
    for arguments, message in cases:
        done = run(*arguments, "--device", "cpu")
        assert done.returncode in (1, 2), arguments
        assert message in " ".join(done.stderr.replace("│", " ").split()), done.stderr
        assert "Traceback" not in done.stderr
    assert (tmp_path / "full" / "mine.txt").exists()


def test_a_worker_refuses_to_score_parts_of_a_query_with_a_reranker_that_needs_it_whole(tmp_path: Path) -> None:
    spec = RerankerSpec("bulk_jobs:make_cascade")
    with pytest.raises(InputError, match="scores the documents of a query together"):
        PartWorker(spec, str(tmp_path), str(tmp_path), split=True)
    assert not PartWorker(spec, str(tmp_path), str(tmp_path), split=False).reranker.pointwise
