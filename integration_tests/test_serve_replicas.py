"""The server in replicas on Ray of this machine: answers of the plain server, 429, health, and draining."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import httpx
import pytest
from bulk_jobs import SECONDS
from serving import serving

from milvus_rerank import LexicalRerankFunction

pytest.importorskip("ray.serve", exc_type=ImportError)
BODY: dict[str, Any] = {"query": "dogs bark", "documents": ["cats sleep", "dogs bark", "dogs"]}


@contextmanager
def replicas(*arguments: str) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """Run ``milvus-rerank serve --ray``; yields its address once it is ready, and its process."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    command = [sys.executable, "-m", "milvus_rerank", "serve", "--ray", "--port", port, *arguments]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL, env={**os.environ, "PYTHONPATH": ":".join(sys.path)})
    try:
        end = time.monotonic() + SECONDS
        while True:
            assert process.poll() is None, "the server ended"
            assert time.monotonic() < end
            try:
                if httpx.get(f"http://127.0.0.1:{port}/ready", timeout=5).status_code == 200:
                    break
            except httpx.TransportError:
                time.sleep(0.2)
        yield f"http://127.0.0.1:{port}", process
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)


def slow(url: str, seconds: float) -> httpx.Response:
    return httpx.post(f"{url}/v1/rerank", json={**BODY, "query": f"sleep {seconds}"}, timeout=60)


@pytest.mark.parametrize("number", [1, 2])
def test_replicas_answer_as_the_plain_server_and_drain(number: int) -> None:
    sleepy = ("--reranker", "replica_rerankers:make_sleepy", "--max-requests", "2", "--replicas", str(number))
    with replicas(*sleepy) as (url, process):
        with serving({"replica_rerankers:make_sleepy": LexicalRerankFunction}) as plain:
            for path in ("/rerank", "/v1/rerank", "/v2/rerank"):
                expected, answer = plain.post(path, BODY), httpx.post(f"{url}{path}", json=BODY, timeout=30)
                assert answer.status_code == expected.status_code == 200
                assert results(answer) == results(expected)
            wrong = httpx.post(f"{url}/v1/rerank", json={"query": 5}, timeout=30)
            assert (wrong.status_code, wrong.json()) == (422, plain.post("/v1/rerank", {"query": 5}).json())
        with ThreadPoolExecutor(12) as pool:
            answers = list(pool.map(lambda _: slow(url, 1.5), range(12)))
        codes = Counter((answer.status_code, answer.headers.get("retry-after")) for answer in answers)
        assert codes.keys() == {(200, None), (429, "1")}
        assert codes[200, None] >= number
        with ThreadPoolExecutor(1) as pool:
            waiting = pool.submit(slow, url, 2.0)
            time.sleep(0.7)
            process.send_signal(signal.SIGTERM)
            assert waiting.result().status_code == 200, "an admitted request was dropped"
        assert process.wait(60) == 0


def results(answer: httpx.Response) -> Any:
    body = json.loads(answer.content)
    return body if isinstance(body, list) else body["results"]


def test_a_model_that_does_not_load_is_told() -> None:
    command = [sys.executable, "-m", "milvus_rerank", "serve", "--ray", "--port", "8799", "--model", "builtin/none"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS)
    assert done.returncode == 1
    assert "error: no replica starts: ModelError: no built-in model 'builtin/none'" in done.stderr
