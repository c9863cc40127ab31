"""The MCP server, with the SDK's own client: in process, by stdin and stdout, and over HTTP."""

import asyncio
import json
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from adapting import QUERY, ROOT, TEXTS, direct, framework, run_example
from two_stage_docs import Failing

framework("mcp", "milvus_lite")

from mcp import Client, StdioServerParameters

from milvus_rerank import LexicalRerankFunction, load
from milvus_rerank.errors import ModelError
from milvus_rerank.integrations.mcp import make_server

pytestmark = pytest.mark.filterwarnings("default")  # frameworks warn of each other
PROGRAM = [sys.executable, "-m", "milvus_rerank"]


def talk(server: Any, work: Callable[[Any], Awaitable[Any]]) -> Any:
    """Connect to a server, run the work with the client, and return its result."""

    async def connected() -> Any:
        async with Client(server) as client:
            return await work(client)

    return asyncio.run(connected())


def call(server: Any, tool: str, **arguments: Any) -> Any:
    return talk(server, lambda client: client.call_tool(tool, arguments))


@pytest.fixture
def books(tmp_path: Path) -> str:
    """A Milvus Lite file with the collection ``books``, indexed with the built-in embedder."""
    folder = tmp_path
    rows = [{"id": f"d{index}", "text": text, "year": 1800 + index} for index, text in enumerate(TEXTS) if text]
    (folder / "books.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    command = [*PROGRAM, "index", "books.jsonl", "--uri", "books.db"]
    subprocess.run(command, cwd=folder, env={**os.environ, "PYTHONPATH": str(ROOT)}, check=True, capture_output=True)
    return str(folder / "books.db")


def test_rerank_gives_the_rerankers_scores_as_structured_content() -> None:
    answer = call(make_server(load("builtin/rerank")), "rerank", query=QUERY, documents=TEXTS)
    results = answer.structured_content["results"]
    assert [result["index"] for result in results] == [index for index, _ in direct()]
    assert [result["score"] for result in results] == pytest.approx([score for _, score in direct()], abs=1e-6)


def test_many_documents_are_ranked_together_and_progress_is_reported() -> None:
    documents = [f"milvus {'index ' * (number % 7)}" for number in range(150)]
    reported: list[tuple[float, float | None]] = []

    async def progress(done: float, total: float | None, message: str | None) -> None:
        reported.append((done, total))

    arguments = {"query": "milvus index", "documents": documents, "top_k": 150}
    answer = talk(
        make_server(LexicalRerankFunction()),
        lambda client: client.call_tool("rerank", arguments, progress_callback=progress),
    )
    expected = LexicalRerankFunction()("milvus index", documents, None)
    assert [result["index"] for result in answer.structured_content["results"]] == [one.index for one in expected]
    assert reported == [(0, 150), (64, 150), (128, 150), (150, 150)]


def test_twenty_concurrent_calls_lose_nothing() -> None:
    async def calls(client: Any) -> Any:
        return await asyncio.gather(
            *(client.call_tool("rerank", {"query": QUERY, "documents": TEXTS}) for _ in range(20))
        )

    answers = talk(make_server(load("builtin/rerank")), calls)
    for answer in answers:
        assert [result["index"] for result in answer.structured_content["results"]] == [index for index, _ in direct()]
    assert len(answers) == 20


def test_the_tools_are_read_only_and_typed(client: Any) -> None:
    server = make_server(LexicalRerankFunction(), client, ("docs",))
    tools = {tool.name: tool for tool in talk(server, lambda client: client.list_tools()).tools}
    assert set(tools) == {"rerank", "search", "list_models"}
    for tool in tools.values():
        assert tool.annotations.read_only_hint is True
        assert tool.output_schema["type"] == "object"
    schema = tools["search"].input_schema
    assert schema["required"] == ["query", "collection"]
    assert schema["properties"]["collection"]["description"] == "One of: docs."
    without = talk(make_server(LexicalRerankFunction()), lambda client: client.list_tools())
    assert {tool.name for tool in without.tools} == {"rerank", "list_models"}


def test_search_reranks_a_named_collection_only(books: str) -> None:
    from pymilvus import MilvusClient

    client = MilvusClient(books)
    try:
        server = make_server(load("builtin/rerank"), client, ("books",))
        answer = call(server, "search", query=QUERY, collection="books", top_k=2, filter="year > 1800")
        best = answer.structured_content["results"][0]
        assert (best["id"], best["entity"]["year"]) == ("d1", 1801)
        assert best["score"] == pytest.approx(dict(direct())[1], abs=1e-6)

        async def searches(client: Any) -> Any:
            asked = {"query": QUERY, "collection": "books", "top_k": 2}
            return await asyncio.gather(*(client.call_tool("search", asked) for _ in range(20)))

        found = [[hit["id"] for hit in one.structured_content["results"]] for one in talk(server, searches)]
        assert found == [[f"d{index}" for index, _ in direct() if index != 2][:2]] * 20
        refused = call(server, "search", query=QUERY, collection="secrets")
        assert refused.is_error
        assert "there is no collection 'secrets' to search; choose from: books" in refused.content[0].text
        wrong = call(server, "search", query=QUERY, collection="books", filter="yeer > 1")
        assert wrong.is_error
    finally:
        client.close()


def test_list_models_names_the_built_in_models() -> None:
    answer = call(make_server(LexicalRerankFunction()), "list_models").structured_content
    assert answer["reranker"].startswith("LexicalRerankFunction")
    assert "builtin/rerank" in [model["name"] for model in answer["models"]]


def test_errors_reach_the_client_and_foreign_ones_without_their_text() -> None:
    server = make_server(Failing(ModelError("the model is gone; type: pip install it")))
    failed = call(server, "rerank", query=QUERY, documents=TEXTS)
    assert failed.is_error
    assert "the model is gone; type: pip install it" in failed.content[0].text
    foreign = call(make_server(Failing(RuntimeError("secret"))), "rerank", query=QUERY, documents=TEXTS)
    assert foreign.is_error
    assert "secret" not in foreign.content[0].text
    pictures = call(make_server(LexicalRerankFunction()), "rerank", query=QUERY, documents=[{"type": "image"}])
    assert pictures.is_error


def test_the_command_speaks_the_protocol_and_nothing_else_on_stdout(books: str) -> None:
    command = [*PROGRAM[1:], "mcp", "--milvus-uri", books, "--collection", "books"]
    parameters = StdioServerParameters(
        command=sys.executable, args=command, env={**os.environ, "PYTHONPATH": str(ROOT)}
    )
    answer = call(parameters, "search", query=QUERY, collection="books", top_k=1)
    assert answer.structured_content["results"][0]["id"] == "d1"
    request = {
        "jsonrpc": "2.0", "id": 1, "method": "initialize",
        "params": {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "t", "version": "1"}},
    }  # fmt: skip
    ran = subprocess.run(
        [*PROGRAM, "mcp"], input=json.dumps(request) + "\n", env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    lines = [json.loads(line) for line in ran.stdout.splitlines()]
    assert [line["result"]["serverInfo"]["name"] for line in lines] == ["milvus-rerank"]
    assert ran.returncode == 0, ran.stderr


def test_the_command_serves_http_on_loopback_only(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    refused = subprocess.run(
        [*PROGRAM, "mcp", "--http", "--host", "0.0.0.0"], env=environment, capture_output=True, text=True, timeout=60
    )
    assert refused.returncode == 1
    assert "--host must be a loopback address such as 127.0.0.1, got '0.0.0.0'" in " ".join(refused.stderr.split())
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [*PROGRAM, "mcp", "--reranker", "lexical", "--http", "--port", str(port)]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        try:
            wait_for_port(port, process)
            answer = call(f"http://127.0.0.1:{port}/mcp", "rerank", query=QUERY, documents=TEXTS)
            assert answer.structured_content["results"][0]["index"] == 1
        finally:
            process.terminate()
        assert process.stdout is not None
        assert process.stdout.read() == b""


def wait_for_port(port: int, process: Any) -> None:
    deadline = time.monotonic() + 60
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        except OSError:
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.05)


def test_the_example_finds_the_first_program(tmp_path: Path) -> None:
    printed = run_example("mcp_client.py", tmp_path)
    expected = r"tools: list_models, rerank, search\n-?\d+\.\d\d  lovelace\n-?\d+\.\d\d  \w+\n"
    assert re.fullmatch(expected, printed), printed
