"""A bulk job that is killed and started again: nothing lost, nothing doubled, finished work not repeated."""

import json
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest
from bulk_jobs import BUILTIN, SECONDS, command, query, read_results, run, write

pytest.importorskip("ray")


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
