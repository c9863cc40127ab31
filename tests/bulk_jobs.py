"""Bulk jobs of the command line: their input, their runs and their results."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from milvus_rerank.cascade import CascadeRerankFunction

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


def make_cascade() -> CascadeRerankFunction:
    """Return a reranker that needs all documents of a query together."""
    return CascadeRerankFunction([("lexical", None)])
