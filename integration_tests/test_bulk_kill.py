"""A bulk job that is killed and started again: nothing lost, nothing doubled, finished work not repeated."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("ray")

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


def test_a_job_that_was_killed_goes_on(tmp_path: Path) -> None:
    source = write(tmp_path / "in.jsonl", [query(f"q{number}", 1000) for number in range(20)])
    arguments = (source, "-o", tmp_path / "out", "--format", "jsonl", *BUILTIN, "--json")
    scored = tmp_path / "out" / ".work" / "scored"
    process = subprocess.Popen(command(*arguments), stdout=subprocess.DEVNULL, start_new_session=True)
    end = time.monotonic() + SECONDS
    while len(list(scored.glob("*/*.parquet"))) < 2:
        assert process.poll() is None, "the job ended before it could be killed"
        assert time.monotonic() < end
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    done = run(*arguments)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert [report[name] for name in ("queries", "results", "failed", "pairs")] == [20, 20, 0, 20_000]
    assert report["scored"] <= 16_000, "finished work was repeated"
    results = read_results(tmp_path / "out")
    assert {name: len(set(row["ids"])) for name, row in results.items()} == {f"q{n}": 1000 for n in range(20)}
