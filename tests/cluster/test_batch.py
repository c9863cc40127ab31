"""``milvus-rerank batch`` on Ray of this machine: scores, counts, a job that was killed, and what is refused."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from milvus_rerank import CrossEncoderRerankFunction

pytestmark = pytest.mark.needs("ray", "pyarrow", "fsspec")

SECONDS = 300
BUILTIN = ("--device", "cpu", "--option", "threads=1")


def command(*arguments: Any) -> list[str]:
    return [sys.executable, "-m", "milvus_rerank", "batch", *map(str, arguments)]


def run(*arguments: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(*arguments), capture_output=True, text=True, timeout=SECONDS)


def write(path: Path, rows: list[Any]) -> Path:
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows), "utf-8")
    return path


def query(name: str, count: int) -> dict[str, Any]:
    words = ("dogs", "bark", "cats", "sleep", "engines", "compute", "numbers", "stones")
    texts = [" ".join(words[(number * step) % 8] for step in range(1, 6)) for number in range(count)]
    documents = [{"id": f"{name}-{number}", "text": f"{text} {number}"} for number, text in enumerate(texts)]
    return {"query_id": name, "query": f"which {words[len(name) % 8]} {words[count % 8]}", "documents": documents}


def read_results(folder: Path) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    for path in (folder / "results").glob("*.jsonl"):
        for line in path.read_text("utf-8").splitlines():
            row = json.loads(line)
            assert row["query_id"] not in found, "a query has results twice"
            found[row["query_id"]] = row
    return found


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
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("keep me")
    cases = (
        ((source, "-o", tmp_path / "1", "--workers", 999), "too few for 999 workers with 1 CPUs each"),
        ((source, "-o", tmp_path / "2", "--gpus", 64), "64 GPUs each; use fewer workers"),
        ((source, "-o", tmp_path / "3", "--model", "builtin/none"), "no built-in model 'builtin/none'"),
        ((source, "-o", tmp_path / "full"), "is not empty and holds no job.json of a run"),
        ((source, "-o", tmp_path / "4", "--documents-field", "hits"), "no column 'hits'; it has 'query_id'"),
        ((twice, "-o", tmp_path / "5"), "1 query ids repeat; 'a' is in"),
        ((source, "-o", tmp_path / "6", "--workers", "many"), "expected a number or auto"),
    )
    for arguments, message in cases:
        done = run(*arguments, "--device", "cpu")
        assert done.returncode in (1, 2), arguments
        assert message in " ".join(done.stderr.replace("│", " ").split()), done.stderr
        assert "Traceback" not in done.stderr
    assert (tmp_path / "full" / "mine.txt").exists()
