"""The whole programs in examples/: RAG over a folder, a web service, and Milvus' model ranker."""

import asyncio
import importlib.util
import json
import os
import re
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from milvus_rerank import BaseRerankFunction, load
from milvus_rerank.errors import InputError, ModelError, StoppedError

EXAMPLES = Path(__file__).parent.parent / "examples"
FOLDERS = pytest.mark.needs("milvus_lite", "semantic_text_splitter", "bs4")


def run(name: str, *arguments: str, cwd: Path, **environment: str) -> str:
    variables = {**os.environ, "HF_HUB_OFFLINE": "1", **environment}
    command = [sys.executable, str(EXAMPLES / name), *arguments]
    ran = subprocess.run(command, cwd=cwd, env=variables, capture_output=True, text=True, timeout=120)
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


@contextmanager
def language_model(received: list[Any]) -> Iterator[str]:
    """Serve OpenAI's chat API on loopback: answer with the last passage's number, and keep the requests."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            received.append((self.path, self.headers["Authorization"], body))
            numbers = re.findall(r"^\[(\d+)\]", body["messages"][0]["content"], re.MULTILINE)
            answer = {"choices": [{"message": {"role": "assistant", "content": f"See [{numbers[-1]}]."}}]}
            self.send_response(200)
            self.end_headers()
            self.wfile.write(json.dumps(answer).encode())

        def log_message(self, *arguments: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}/v1"
        server.shutdown()


@FOLDERS
def test_rag_prints_a_prompt_with_the_best_passage_first(tmp_path: Path) -> None:
    printed = run("rag_folder.py", cwd=tmp_path, OPENAI_BASE_URL="")
    assert printed.startswith("3 passages, 3 of them new or changed\n")
    assert re.findall(r"^\[(\d)\] \((.+?)\)", printed, re.MULTILINE)[0] == ("1", "locks.md")
    assert printed.endswith("Question: which process holds the lock of an index file\nAnswer:\n")


@FOLDERS
def test_rag_indexes_a_folder_once_and_asks_a_language_model(tmp_path: Path) -> None:
    folder = tmp_path / "notes"
    folder.mkdir()
    (folder / "long.md").write_text("Bread is baked in an oven. " * 200 + "Ada Lovelace published the first program.")
    (folder / "short.txt").write_text("Rivers flow to the sea.")
    arguments = ("rag_folder.py", str(folder), "who published the first program", "--uri", "notes.db")
    first = run(*arguments, cwd=tmp_path, OPENAI_BASE_URL="")
    passages = int(first.split()[0])
    assert passages > 3
    assert f"{passages} passages, {passages} of them new or changed" in first
    [best] = re.findall(r"^\[1\] \(long.md\) (.*)", first, re.MULTILINE)
    assert "Ada Lovelace published the first program." in best
    received: list[Any] = []
    with language_model(received) as url:
        second = run(*arguments, cwd=tmp_path, OPENAI_BASE_URL=url, OPENAI_API_KEY="secret", OPENAI_MODEL="small")
    assert second == f"{passages} passages, 0 of them new or changed\nSee [3].\n"
    [(path, key, body)] = received
    assert (path, key, body["model"]) == ("/v1/chat/completions", "Bearer secret", "small")
    assert body["messages"][0]["content"] in first


@pytest.mark.needs("milvus_lite", "fastapi", "prometheus_client", "structlog", "uvicorn")
def test_milvus_lite_reranks_through_the_server_with_the_scores_of_python(tmp_path: Path) -> None:
    lines = run("model_ranker.py", cwd=tmp_path).splitlines()
    assert re.fullmatch(r"Milvus calls http://127\.0\.0\.1:\d+ as the provider 'cohere':", lines[0])
    assert re.fullmatch(r"  \d\.\d\d  lovelace", lines[1])
    difference = re.fullmatch(r"largest difference from the scores in Python: (.+)", lines[3])
    assert difference is not None
    assert float(difference[1]) < 1e-5
    assert lines[4].startswith("Milvus Lite has this provider alone")


@pytest.mark.needs("milvus_lite")
def test_a_milvus_server_without_an_endpoint_is_wrong_usage(tmp_path: Path) -> None:
    command = [sys.executable, str(EXAMPLES / "model_ranker.py"), "--milvus", "http://127.0.0.1:19530"]
    ran = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert ran.returncode == 2
    assert "a Milvus server needs --endpoint" in ran.stderr


class Slow(BaseRerankFunction):
    """Score for as long as the caller waits."""

    def __init__(self) -> None:
        self.began, self.stopped = threading.Event(), threading.Event()

    def score_requests(self, requests: Any, stop: threading.Event) -> list[list[float]]:
        self.began.set()
        if stop.wait(60):
            self.stopped.set()
        raise StoppedError("the caller left")


class Failing(BaseRerankFunction):
    def __init__(self, error: Exception) -> None:
        self.error = error

    def score_requests(self, requests: Any, stop: threading.Event) -> list[list[float]]:
        raise self.error


@pytest.fixture(scope="module")
def service() -> Iterator[tuple[Any, str]]:
    """The service's module, and its address, while uvicorn runs it in a thread."""
    for name in ("fastapi", "uvicorn", "httpx", "milvus_lite"):
        pytest.importorskip(name)
    import uvicorn

    spec = importlib.util.spec_from_file_location("fastapi_service", EXAMPLES / "fastapi_service.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["fastapi_service"] = module  # FastAPI looks up the types of the routes there
    spec.loader.exec_module(module)
    started = threading.Event()

    class Server(uvicorn.Server):
        async def startup(self, sockets: Any = None) -> None:
            await super().startup(sockets)
            started.set()

    server = Server(uvicorn.Config(module.app, port=0, log_config=None))
    thread = threading.Thread(target=server.run)
    thread.start()
    assert started.wait(60)
    yield module, f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    server.should_exit = True
    thread.join(30)
    assert not thread.is_alive()
    del sys.modules["fastapi_service"]


def test_the_service_searches_and_reranks(service: tuple[Any, str]) -> None:
    import httpx

    module, address = service
    texts, query = list(module.TEXTS.values()), "who wrote a compiler"
    with httpx.Client(base_url=address) as client:
        assert client.get("/health").json() == {"status": "ok"}
        found = client.get("/search", params={"q": "who published the first program", "top_k": 2}).json()
        assert found["reranked"] is True
        assert found["results"][0]["id"] == "lovelace"
        ranked = client.post("/rerank", json={"query": query, "documents": texts, "top_k": 2}).json()
    expected = load("builtin/rerank", device="cpu")(query, texts, 2)
    assert [result["index"] for result in ranked] == [result.index for result in expected]
    assert [result["score"] for result in ranked] == pytest.approx([result.score for result in expected], abs=1e-6)


def test_the_service_answers_twenty_requests_at_once(service: tuple[Any, str]) -> None:
    import httpx

    async def ask(client: httpx.AsyncClient, number: int) -> Any:
        query = ("who published the first program", "who wrote a compiler")[number % 2]
        return (await client.get("/search", params={"q": query, "top_k": 1})).json()["results"][0]["id"]

    async def calls() -> list[Any]:
        async with httpx.AsyncClient(base_url=service[1], timeout=60) as client:
            return list(await asyncio.gather(*(ask(client, number) for number in range(20))))

    assert asyncio.run(calls()) == ["lovelace", "compiler"] * 10


@pytest.mark.parametrize(
    ("path", "status", "message"),
    [("/search?q=a&top_k=0", 422, "top_k"), ("/search", 422, "q"), ("/documents", 404, "Not Found")],
)
def test_the_service_says_what_is_wrong(service: tuple[Any, str], path: str, status: int, message: str) -> None:
    import httpx

    answer = httpx.get(service[1] + path)
    assert (answer.status_code, message in answer.text) == (status, True), answer.text


@pytest.mark.parametrize(
    ("error", "status"), [(InputError("no such text"), 400), (ModelError("the model is gone"), 503)]
)
def test_an_error_of_this_package_is_an_answer(
    service: tuple[Any, str], monkeypatch: pytest.MonkeyPatch, error: Exception, status: int
) -> None:
    import httpx

    module, address = service
    monkeypatch.setattr(module.app.state.search, "reranker", Failing(error))
    answer = httpx.post(f"{address}/rerank", json={"query": "q", "documents": ["a"]})
    assert (answer.status_code, answer.json()) == (status, {"error": str(error)})
    found = httpx.get(f"{address}/search", params={"q": "who published the first program", "top_k": 1}).json()
    assert (found["reranked"], found["results"][0]["id"]) == (False, "lovelace")


def test_a_client_that_leaves_stops_the_model_and_the_service_goes_on(
    service: tuple[Any, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import httpx

    module, address = service
    slow = Slow()
    monkeypatch.setattr(module.app.state.search, "reranker", slow)
    monkeypatch.setattr(module, "SECONDS", 60.0)
    url, body = httpx.URL(f"{address}/rerank"), json.dumps({"query": "q", "documents": ["a"]})
    head = (
        f"POST {url.path} HTTP/1.1\r\nHost: {url.host}\r\nContent-Type: application/json\r\nContent-Length: {len(body)}"
    )
    with socket.create_connection((url.host, url.port or 80)) as connection:
        connection.sendall(f"{head}\r\n\r\n{body}".encode())
        assert slow.began.wait(30)
        assert not slow.stopped.is_set()
    assert slow.stopped.wait(30)
    assert httpx.get(f"{address}/health").status_code == 200


def test_a_call_that_takes_too_long_is_stopped_and_says_so(
    service: tuple[Any, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import httpx

    module, address = service
    slow = Slow()
    monkeypatch.setattr(module.app.state.search, "reranker", slow)
    monkeypatch.setattr(module, "SECONDS", 1.0)
    answer = httpx.post(f"{address}/rerank", json={"query": "q", "documents": ["a"]}, timeout=30)
    assert (answer.status_code, answer.json()) == (504, {"detail": "it took too long"})
    assert slow.stopped.wait(10)
