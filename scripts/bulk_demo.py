"""Rerank a judged collection in bulk: Milvus finds the documents inside the job, and Ray's workers rerank them.

Usage: python scripts/bulk_demo.py [FOLDER]      a folder in BEIR's layout; without one, the shipped collection

Everything happens in a temporary folder: a server of Milvus Lite, the index, the job. Prints each command with its
output, the counts and the rates, and what reranking did to nDCG@10.
"""

import json
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from milvus_rerank.evaluation import JudgedCollection, demo_folder, load_judged, ndcg

COLLECTION, CANDIDATES = "demo", 30
SECONDS = 60


def run(*arguments: object) -> None:
    """Print a command and run it; stop if it fails."""
    words = [str(argument) for argument in arguments]
    print("$ milvus-rerank", " ".join(words), flush=True)
    done = subprocess.run([sys.executable, "-m", "milvus_rerank", *words], check=False)
    if done.returncode:
        sys.exit(done.returncode)


@contextmanager
def milvus_server(folder: Path) -> Iterator[str]:
    """Run a server of Milvus Lite, and yield its address: many processes search it, but a file has one."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    program = Path(sys.executable).with_name("milvus-lite")
    command = [program, "server", "--data-dir", folder, "--host", "127.0.0.1", "--port", port]
    with (folder / "log").open("wb") as log, subprocess.Popen(command, stdout=log, stderr=log) as server:
        try:
            end = time.monotonic() + SECONDS
            while True:
                try:
                    socket.create_connection(("127.0.0.1", int(port)), timeout=1).close()
                    break
                except OSError:
                    if server.poll() is not None or time.monotonic() > end:
                        sys.exit(f"milvus-lite server does not start: {(folder / 'log').read_text()[-500:]}")
                    time.sleep(0.1)
            yield f"http://127.0.0.1:{port}"
        finally:
            server.terminate()


def mean_ndcg(rankings: dict[str, list[str]], judged: JudgedCollection) -> float:
    """Return the mean nDCG@10."""
    values = ndcg(rankings, judged.judgments).values()
    return sum(values) / len(values)


def main() -> None:
    """Index, rerank, and compare the orders before and after."""
    source = Path(sys.argv[1]) if len(sys.argv) > 1 else demo_folder()
    judged = load_judged(source)
    with tempfile.TemporaryDirectory(prefix="milvus-rerank-") as name, milvus_server(Path(name)) as uri:
        run("index", source, "--uri", uri, "--collection", COLLECTION)
        output = Path(name) / "reranked"
        columns = ["--query-id-field", "_id", "--query-field", "text"]
        where = ["--uri", uri, "--collection", COLLECTION, "--candidates", CANDIDATES]
        run("batch", source / "queries.jsonl", *columns, *where, "--format", "jsonl", "--output", output)
        lines = [line for path in output.glob("results/*.jsonl") for line in path.read_text("utf-8").splitlines()]
    rows = [json.loads(line) for line in lines]
    after = {row["query_id"]: row["ids"] for row in rows}
    before = {
        row["query_id"]: [name for _, name in sorted(zip(row["first_stage_ranks"], row["ids"], strict=True))]
        for row in rows
    }
    first, second = mean_ndcg(before, judged), mean_ndcg(after, judged)
    print(f"nDCG@10 of {len(judged.queries)} judged queries: {first:.3f} as Milvus found them, {second:.3f} reranked")


if __name__ == "__main__":
    main()
