"""Bodies, headers and readers that used to stop the server or to score something else than what was meant."""

import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from attack_bodies import ATTACKS, attack, running
from serving import TIMEOUT, Running, serving, wait_for
from stubborn import BODY, Stubborn

from milvus_rerank import CrossEncoderRerankFunction

JSON = {"content-type": "application/json"}


@pytest.fixture(scope="module")
def process() -> Iterator[tuple["subprocess.Popen[bytes]", int]]:
    with running() as (process, port):
        yield process, port


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
@pytest.mark.parametrize(
    ("name", "status"),
    [
        ("1 MB of numbers", 422),
        ("1 MB of empty texts", 422),
        ("16 MiB of empty lists", 422),
        ("16 MiB of brackets", 422),
        ("16 MiB of quotes in a text", 422),
        ("rank_fields of 0.3 MB", 422),
        ("80 other texts of 200,000 letters", 200),
    ],
)
def test_no_body_makes_the_server_deaf_or_takes_more_than_8_times_its_size(
    process: tuple["subprocess.Popen[bytes]", int], name: str, status: int
) -> None:
    measured = attack(*process, ATTACKS[name]())
    assert measured.status == status
    assert measured.pause < 1000, "milliseconds; a tenth of it on an idle machine"
    assert measured.memory < 8 * measured.bytes + 16 * 2**20


DOCUMENTS: list[tuple[Any, str]] = [
    ({"content": "a"}, "documents[1] has no text in 'text'; its keys are 'content'"),
    ({"title": "a", "body": "b"}, "its keys are 'title', 'body'"),
    ({"image": "http://x"}, "its keys are 'image'"),
    ({}, "its keys are none"),
    ({"text": None}, "documents[1] has no text in 'text'"),
    ({"text": {"a": "b"}}, "documents[1] has no text or number in 'text'"),
    ({"content": [{"type": "text", "text": "a"}]}, "its keys are 'content'"),
]


@pytest.mark.parametrize(("document", "message"), DOCUMENTS)
def test_a_document_without_a_text_is_named_with_its_keys(server: Running, document: Any, message: str) -> None:
    for path in ("/rerank", "/v1/rerank"):
        answer = server.post(path, {"query": "q", "documents": ["a text", document]})
        assert answer.status_code == 422
        assert message in answer.json()["error"]


def test_rank_fields_that_no_document_has_are_refused(server: Running) -> None:
    documents = [{"title": "bugs", "body": "a moth"}, {"title": "moths"}]
    body = {"query": "moth", "documents": documents, "rank_fields": ["title", "body", "title"]}
    results = server.post("/v1/rerank", body).json()["results"]
    texts = ["bugs\na moth", "moths"]
    plain = server.post("/v1/rerank", {"query": "moth", "documents": texts}).json()["results"]
    assert results == plain
    answer = server.post("/v1/rerank", body | {"rank_fields": ["titel", "boddy"]})
    assert answer.status_code == 422
    assert "documents[0] has no text in 'titel', 'boddy'; its keys are 'title', 'body'" in answer.json()["error"]
    assert server.post("/v1/rerank", body | {"rank_fields": []}).status_code == 422
    assert server.post("/v1/rerank", body | {"rank_fields": ["a"] * 101}).status_code == 422


FORMATS: dict[str, dict[str, Any]] = {
    "/rerank": {"query": "q", "texts": ["a", "b", "c"]},
    "/v1/rerank": {"query": "q", "documents": ["a", "b", "c"]},
    "/v2/rerank": {"query": "q", "documents": ["a", "b", "c"]},
    "/voyage/v1/rerank": {"query": "q", "documents": ["a", "b", "c"]},
}


def count(answer: httpx.Response) -> int:
    assert answer.status_code == 200, answer.text
    data = answer.json()
    return len(data if isinstance(data, list) else data.get("results") or data["data"])


@pytest.mark.parametrize("path", FORMATS)
def test_both_names_of_the_number_of_results_are_taken_and_others_refused(server: Running, path: str) -> None:
    body = FORMATS[path]
    assert count(server.post(path, body | {"top_n": 2})) == count(server.post(path, body | {"top_k": 2})) == 2
    assert count(server.post(path, body | {"top_n": 1, "top_k": 1})) == 1
    answer = server.post(path, body | {"top_n": 1, "top_k": 2})
    assert answer.status_code == 422
    assert "mean the same and differ" in answer.json()["error"]
    for key, near in (("topn", "top_n"), ("top_N", "top_n"), ("documenst", "return_documents"), ("limit", "expected")):
        answer = server.post(path, body | {key: 2})
        assert answer.status_code == 422
        assert re.search(
            f"unknown key '{key}'; (did you mean '(top_[kn]|documents|{near})'|expected )", answer.json()["error"]
        )


@pytest.mark.parametrize(
    ("path", "keys"),
    [
        ("/v1/rerank", {"max_chunks_per_doc": 10, "return_documents": False, "user": "me", "overlap_tokens": 8}),
        ("/v1/rerank", {"priority": 0, "truncate": "END", "instruction": None, "raw_scores": False}),
        ("/v2/rerank", {"priority": 0, "max_tokens_per_doc": 100}),
        ("/voyage/v1/rerank", {"truncation": True, "return_documents": False}),
    ],
)
def test_keys_of_real_clients_are_taken(server: Running, path: str, keys: dict[str, Any]) -> None:
    assert count(server.post(path, FORMATS[path] | keys)) == 3


def test_documents_come_back_under_either_name(server: Running) -> None:
    for key in ("return_documents", "return_text"):
        assert server.post("/rerank", FORMATS["/rerank"] | {key: True}).json()[0]["text"] in "abc"
        results = server.post("/v1/rerank", FORMATS["/v1/rerank"] | {key: True}).json()["results"]
        assert results[0]["document"]["text"] in "abc"


# headers


@pytest.mark.parametrize("content_type", ["", "text/plain", "application/x-www-form-urlencoded", "application/jsonp"])
def test_a_body_that_does_not_say_that_it_is_json_is_told_what_to_send(server: Running, content_type: str) -> None:
    headers = {"content-type": content_type} if content_type else {}
    answer = server.client.post("/rerank", content=b'{"query": "q", "texts": ["a"]}', headers=headers)
    assert answer.status_code == 415
    said = f"got '{content_type}'" if content_type else "it is missing"
    assert answer.json()["error"] == f"send the header 'Content-Type: application/json'; {said}"


@pytest.mark.parametrize(
    "content_type", ["application/json; charset=utf-8", "Application/JSON", "application/vnd.x+json"]
)
def test_every_way_to_say_json_is_taken(server: Running, content_type: str) -> None:
    answer = server.client.post(
        "/rerank", content=b'{"query": "q", "texts": ["a"]}', headers={"content-type": content_type}
    )
    assert answer.status_code == 200


def raw(address: str, head: str, content: bytes = b"") -> bytes:
    host, port = address.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=TIMEOUT) as connection:
        connection.sendall(head.replace("\n", "\r\n").encode() + content)
        got = b""
        while part := connection.recv(65536):
            got += part
    return got


@pytest.mark.parametrize("header", ["authorization: Bearer a", "content-type: application/json", "host: y"])
def test_a_header_that_comes_twice_is_refused(function: Stubborn, header: str) -> None:
    with serving({"m": lambda: function}, keys=[b"a", b"b"]) as server:
        head = f"POST /rerank HTTP/1.1\nhost: localhost\n{header}\n{header}\nconnection: close\ncontent-length: 2\n\n"
        got = raw(server.address, head, b"{}")
        assert got.startswith(b"HTTP/1.1 400")


def test_headers_of_more_than_64_kib_are_refused(function: Stubborn) -> None:
    with serving({"m": lambda: function}) as server:
        got = raw(
            server.address, f"GET /health HTTP/1.1\nhost: localhost\nconnection: close\nx-long: {'a' * 70_000}\n\n"
        )
        assert got.startswith(b"HTTP/1.1 431")
        assert b"the headers have more than 65536 bytes" in got
        assert server.client.get("/health").status_code == 200


# work ends


def test_the_work_of_clients_that_leave_ends() -> None:
    reranker = CrossEncoderRerankFunction("builtin/rerank", device="cpu", threads=1, long="chunk")
    body = ATTACKS["80 texts of 200,000 characters"]()
    with serving({"m": lambda: reranker}, deadline=600.0) as server:
        host, port = server.address.removeprefix("http://").split(":")
        head = "POST /v1/rerank HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
        head += f"content-length: {len(body)}\r\n\r\n"
        connections = [socket.create_connection((host, int(port)), timeout=TIMEOUT) for _ in range(8)]
        for connection in connections:
            connection.sendall(head.encode() + body)
        for connection in connections:
            connection.close()
        began, before = time.monotonic(), time.process_time()
        server.settled()
        wait_for(
            lambda: not any(thread.name.startswith("tokenize") and busy(thread) for thread in threading.enumerate())
        )
        assert time.monotonic() - began < 10
        assert time.process_time() - before < 10, "8 such bodies take more than 20 s to tokenise"
        assert server.application.middleware.held_bytes == 0
        assert server.post("/rerank", BODY).status_code == 200


def busy(thread: threading.Thread) -> bool:
    """Tell whether a thread is in this package's code."""
    frame = sys._current_frames().get(thread.ident or 0)
    while frame is not None:
        if "milvus_rerank" in frame.f_code.co_filename:
            return True
        frame = frame.f_back
    return False


def test_a_request_that_is_tokenised_when_the_server_stops_is_told_so() -> None:
    reranker = CrossEncoderRerankFunction("builtin/rerank", device="cpu", threads=1, long="chunk")
    statuses: list[int] = []
    with serving({"m": lambda: reranker}, drain_seconds=0.0, deadline=600.0) as server:
        body = ATTACKS["80 texts of 200,000 characters"]()
        client = threading.Thread(
            target=lambda: statuses.append(
                httpx.post(f"{server.address}/v1/rerank", content=body, headers=JSON, timeout=60).status_code
            )
        )
        client.start()
        wait_for(lambda: any(thread.name.startswith("tokenize") and busy(thread) for thread in threading.enumerate()))
        server.server.should_exit = True
        client.join(TIMEOUT)
    assert statuses == [503]


def test_a_log_that_nobody_reads_does_not_stop_the_server() -> None:
    command = [sys.executable, "-m", "milvus_rerank", "serve", "--port", "0", "--reranker", "lexical"]
    with subprocess.Popen(command, stderr=subprocess.PIPE) as process:
        assert process.stderr is not None
        address = re.search(r'"address": "([^"]+)"', process.stderr.readline().decode())
        assert address is not None
        with httpx.Client(base_url=address[1], timeout=TIMEOUT) as client:
            wait_for(lambda: client.get("/ready").status_code == 200)
            for _ in range(1500):  # of more than 64 KiB of lines, which is what a pipe holds
                assert client.get("/health").status_code == 200
        process.terminate()
        try:
            process.wait(TIMEOUT)
        finally:
            process.kill()
    assert process.returncode == 0


def test_attacks_stay_within_the_limits() -> None:
    sizes = {name: len(make()) for name, make in ATTACKS.items()}
    assert all(size <= 16 * 2**20 for size in sizes.values()), sizes
