"""Whatever goes wrong: nothing hangs, every request is answered or refused, and the counts add up."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
from serving import TIMEOUT, serving, wait_for

from milvus_rerank.errors import InputError, ModelError, OutOfMemoryError
from milvus_rerank.reranker.base import BaseRerankFunction
from milvus_rerank.reranker.lexical import LexicalRerankFunction
from milvus_rerank.server.settings import Settings, read_keys
from milvus_rerank.validation import is_loopback

COMMAND = Path(sys.executable).with_name("milvus-rerank")
BODY = {"query": "q", "documents": ["a", "b"]}


class Stubborn(BaseRerankFunction):
    """Scores documents by their length; waits while ``hold`` is set, and raises for documents that ask for it."""

    def __init__(self) -> None:
        self.hold = threading.Event()
        self.busy = threading.Event()
        self.scored: list[str] = []
        self.seconds = 0.0

    def score_requests(self, requests, stop):
        self.busy.set()
        while self.hold.is_set():
            time.sleep(0.002)
        time.sleep(self.seconds)
        texts = [text for _, documents in requests for text in documents]
        self.scored += texts
        if "raise" in texts:
            raise RuntimeError(f"secret{len(texts)}text in a message")
        if "memory" in texts:
            raise OutOfMemoryError("one pair does not fit")
        if "nan" in texts:
            return [[float("nan")] * len(documents) for _, documents in requests]
        return [[float(len(text)) for text in documents] for _, documents in requests]


@pytest.fixture
def function():
    return Stubborn()


def test_a_model_that_raises_fails_its_request_alone(function, capsys) -> None:
    from milvus_rerank.server.main import log_to

    log_to(sys.stderr)
    with serving({"m": lambda: function}) as server:
        for word in ("raise", "memory", "nan"):
            answer = server.post("/rerank", {"query": "q", "documents": [word]})
            assert answer.status_code == 500
            assert answer.json()["error_type"] == "Backend"
            assert answer.headers["x-request-id"] in answer.json()["error"]
            assert server.post("/rerank", BODY).status_code == 200
        server.settled()
        assert server.outcomes() == {"internal_error": 3, "ok": 3}
    logged = "".join(capsys.readouterr())
    assert "RuntimeError" in logged
    assert "score_requests" in logged  # where it happened
    assert "secret1text" not in logged


def test_a_request_beside_one_that_fails_is_answered(function) -> None:
    with serving({"m": lambda: function}) as server, ThreadPoolExecutor(3) as pool:
        function.hold.set()
        first = pool.submit(server.post, "/rerank", BODY)
        assert function.busy.wait(TIMEOUT)
        others = [
            pool.submit(server.post, "/rerank", {"query": "q", "documents": [word]}) for word in ("raise", "fine")
        ]
        wait_for(lambda: server.application.models.batchers["cpu"].waiting_requests == 3)
        function.hold.clear()
        assert [one.result(TIMEOUT).status_code for one in (first, *others)] == [200, 500, 200]


def test_a_model_that_cannot_be_loaded_is_an_error_and_is_tried_again() -> None:
    tries = []

    def load():
        tries.append(1)
        if len(tries) < 3:
            raise ModelError("no file /secret/path")
        return LexicalRerankFunction()

    with serving({"m": load}, preload=False) as server:
        for _ in range(2):
            answer = server.post("/rerank", BODY)
            assert answer.status_code == 500
            assert "secret" not in answer.text
        assert server.post("/rerank", BODY).status_code == 200


def test_one_load_at_a_time_and_the_server_lives_meanwhile() -> None:
    loading, go = [], threading.Event()

    def slow():
        loading.append(1)
        assert len(loading) == 1
        assert go.wait(TIMEOUT)
        loading.pop()
        return LexicalRerankFunction()

    rerankers = {"slow": slow, "slower": slow}
    with serving(rerankers, preload=False) as server, ThreadPoolExecutor(4) as pool:
        waiting = [pool.submit(server.post, "/rerank", {**BODY, "model": name}) for name in ("slow", "slower", "slow")]
        wait_for(lambda: bool(loading))
        assert server.client.get("/health").status_code == 200
        assert not any(one.done() for one in waiting)
        go.set()
        assert [one.result(TIMEOUT).status_code for one in waiting] == [200] * 3


def test_ready_says_no_while_models_load_and_health_says_yes() -> None:
    go = threading.Event()

    def slow():
        assert go.wait(TIMEOUT)
        return LexicalRerankFunction()

    states = []

    def look() -> None:
        wait_for(lambda: bool(states))

    with ThreadPoolExecutor(1) as pool:

        def first(server_address: str) -> None:
            states.append(httpx.get(f"{server_address}/ready").json())
            states.append(httpx.get(f"{server_address}/health").json())
            go.set()

        import milvus_rerank.server.main as run
        from milvus_rerank.server.app import Application
        from milvus_rerank.server.models import Models
        from milvus_rerank.server.settings import Limits

        settings = Settings(port=0, limits=Limits())
        application = Application(Models({"m": slow}), settings, ("m",))
        server = run.Server(application, settings, lambda address: pool.submit(first, address))
        thread = threading.Thread(target=server.run)
        thread.start()
        wait_for(lambda: application.ready)
        look()
        server.should_exit = True
        thread.join(TIMEOUT)
    assert states == [{"status": "loading"}, {"status": "ok"}]


def test_a_client_that_leaves_takes_its_queued_work_with_it(function) -> None:
    with serving({"m": lambda: function}) as server, ThreadPoolExecutor(1) as pool:
        function.hold.set()
        first = pool.submit(server.post, "/rerank", BODY)
        assert function.busy.wait(TIMEOUT)
        with pytest.raises(httpx.ReadTimeout):
            httpx.post(f"{server.address}/rerank", json={"query": "q", "documents": ["left"]}, timeout=0.3)
        wait_for(lambda: server.application.models.batchers["cpu"].waiting_requests == 1)
        function.hold.clear()
        assert first.result(TIMEOUT).status_code == 200
        server.settled()
        assert "left" not in function.scored
        assert server.outcomes() == {"ok": 1, "client_disconnected": 1}


@pytest.mark.parametrize(
    "sent",
    [
        b"",
        b"POST /rer",
        b"POST /rerank HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n",
        b"POST /rerank HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: 100\r\n\r\n",
        b'POST /rerank HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\n{"query": "q',
        b"nonsense\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",  # TLS where none is spoken
    ],
)
def test_a_client_may_leave_at_any_stage(function, sent) -> None:
    with serving({"m": lambda: function}) as server:
        host, port = server.address.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port))) as connection:
            connection.sendall(sent)
            time.sleep(0.02)
        assert server.post("/rerank", BODY).status_code == 200
        server.settled()
        assert set(server.outcomes()) <= {"ok", "client_disconnected"}


def test_a_request_that_is_not_done_at_its_deadline_is_told_so(function) -> None:
    with serving({"m": lambda: function}, deadline=0.2) as server:
        function.hold.set()
        began = time.monotonic()
        answer = server.post("/rerank", BODY)
        assert time.monotonic() - began < 5
        function.hold.clear()
        assert answer.status_code == 504
        assert answer.json()["error"] == "not done within the deadline of 0.2 s"
        wait_for(lambda: server.application.models.batchers["cpu"].waiting_requests == 0)
        assert server.post("/rerank", BODY).status_code == 200
        server.settled()
        assert server.outcomes() == {"deadline_exceeded": 1, "ok": 1}


def test_too_many_requests_are_refused_at_once_with_the_time_to_come_again(function) -> None:
    with serving({"m": lambda: function}, requests=4) as server, ThreadPoolExecutor(4) as pool:
        function.hold.set()
        waiting = [pool.submit(server.post, "/rerank", BODY) for _ in range(4)]
        wait_for(lambda: server.metric("milvus_rerank_active_requests") == 4)
        began = time.monotonic()
        refused = [server.post("/rerank", BODY) for _ in range(10)]
        assert time.monotonic() - began < 5
        assert [one.status_code for one in refused] == [429] * 10
        assert refused[0].headers["retry-after"] == "1"
        assert refused[0].json()["error_type"] == "Overloaded"
        assert server.client.get("/health").status_code == 200
        function.hold.clear()
        assert [one.result(TIMEOUT).status_code for one in waiting] == [200] * 4
        assert server.post("/rerank", BODY).status_code == 200
        server.settled()
        assert server.outcomes() == {"ok": 5, "overloaded": 10}


def test_too_many_tokens_are_refused(function) -> None:
    with serving({"m": lambda: function}, queue_tokens=500) as server, ThreadPoolExecutor(4) as pool:
        function.hold.set()
        first = pool.submit(server.post, "/rerank", BODY)
        assert function.busy.wait(TIMEOUT)
        second = pool.submit(server.post, "/rerank", {"query": "q", "documents": ["word " * 300]})
        wait_for(lambda: server.application.models.batchers["cpu"].waiting_tokens > 300)
        refused = server.post("/rerank", {"query": "q", "documents": ["word " * 300]})
        assert refused.status_code == 429
        assert "tokens are waiting already" in refused.json()["error"]
        function.hold.clear()
        assert [one.result(TIMEOUT).status_code for one in (first, second)] == [200, 200]


def test_what_cannot_be_done_in_time_is_refused_instead_of_being_late(function) -> None:
    function.seconds = 0.2
    with serving({"m": lambda: function}, deadline=2.0) as server, ThreadPoolExecutor(8) as pool:
        text = "x" * 4 * 8192  # a batch of its own
        server.post("/rerank", {"query": "q", "documents": [text]})
        bodies = [{"query": f"q{number}", "documents": [text * 2]} for number in range(30)]
        began = time.monotonic()
        statuses = [one.status_code for one in pool.map(lambda body: server.post("/rerank", body), bodies)]
        assert time.monotonic() - began < 20
        assert set(statuses) <= {200, 429, 504}
        assert statuses.count(200) >= 3
        server.settled()


def test_limits_of_documents_and_texts(function) -> None:
    with serving({"m": lambda: function}, documents=3, text_characters=10) as server:
        answer = server.post("/rerank", {"query": "q", "documents": ["a"] * 4})
        assert (answer.status_code, answer.json()["error"]) == (
            422,
            "got 4 documents; this server takes at most 3 in a request",
        )
        answer = server.post("/rerank", {"query": "q", "documents": ["a", "b" * 11]})
        assert answer.json()["error"] == "document 1 has 11 characters; this server takes at most 10"
        assert "the query has 11" in server.post("/rerank", {"query": "q" * 11, "documents": []}).json()["error"]
        assert server.post("/rerank", {"query": "q" * 10, "documents": ["a" * 10] * 3}).status_code == 200


def test_a_body_that_is_too_large_is_refused_whether_announced_or_not(function) -> None:
    with serving({"m": lambda: function}, body_bytes=1000) as server:
        announced = server.client.post("/rerank", content=b"x" * 100_000)
        chunked = server.client.post("/rerank", content=(b"x" * 100 for _ in range(1000)))
        for answer in (announced, chunked):
            assert answer.status_code == 413
            assert answer.json()["error"] == "the body is larger than 1000 bytes"
        assert server.post("/rerank", BODY).status_code == 200
        server.settled()
        assert server.application.gate._held == 0


def test_a_hundred_megabytes_are_refused_without_being_kept(function) -> None:
    with serving({"m": lambda: function}) as server:
        block = b"x" * 2**20
        answer = server.client.post("/rerank", content=(block for _ in range(100)))
        assert answer.status_code == 413
        assert server.post("/rerank", BODY).status_code == 200


def test_a_slow_body_is_given_up(function) -> None:
    with serving({"m": lambda: function}, body_seconds=0.2) as server:
        host, port = server.address.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port)), timeout=TIMEOUT) as connection:
            connection.sendall(b"POST /rerank HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\n{")
            got = b""
            while not got.endswith(b"}"):
                got += connection.recv(65536)
        assert got.startswith(b"HTTP/1.1 408")
        assert b"the body took more than 0.2 s to arrive" in got


@pytest.mark.parametrize(
    ("after", "sent"),
    [(False, b""), (False, b"POST /rerank HTTP/1.1\r\nhost: x\r\n"), (True, b"POST /rerank HTTP/1.1\r\nhost: x\r\n")],
    ids=["nothing", "half", "half after an answer"],
)
def test_slow_headers_are_given_up(function, after, sent) -> None:
    with serving({"m": lambda: function}, header_seconds=0.3) as server:
        host, port = server.address.removeprefix("http://").split(":")
        began = time.monotonic()
        with socket.create_connection((host, int(port)), timeout=TIMEOUT) as connection:
            if after:
                connection.sendall(b"GET /health HTTP/1.1\r\nhost: x\r\n\r\n")
                got = b""
                while not got.endswith(b'{"status":"ok"}'):
                    got += connection.recv(65536)
                time.sleep(0.5)  # idle for longer than headers may take: still open
                began = time.monotonic()
            connection.sendall(sent)
            assert connection.recv(65536) == b""  # closed
            assert 0.2 < time.monotonic() - began < TIMEOUT / 2


def test_a_request_longer_than_the_headers_time_is_answered(function) -> None:
    with serving({"m": lambda: function}, header_seconds=0.1) as server, ThreadPoolExecutor(1) as pool:
        function.hold.set()
        first = pool.submit(server.post, "/rerank", BODY)
        assert function.busy.wait(TIMEOUT)
        time.sleep(0.3)
        function.hold.clear()
        assert first.result(TIMEOUT).status_code == 200


def test_all_bodies_together_are_limited(function) -> None:
    with serving({"m": lambda: function}, held_bytes=3000) as server, ThreadPoolExecutor(1) as pool:
        function.hold.set()
        first = pool.submit(server.post, "/rerank", {"query": "q", "documents": ["x" * 2000]})
        assert function.busy.wait(TIMEOUT)
        refused = server.post("/rerank", {"query": "q", "documents": ["x" * 2000]})
        assert refused.status_code == 429
        function.hold.clear()
        assert first.result(TIMEOUT).status_code == 200
        server.settled()
        assert server.application.gate._held == 0


def test_keys_are_asked_for_everywhere_but_at_the_door(function) -> None:
    with serving({"m": lambda: function}, keys=[b"first", "zweiter-schlüssel".encode()]) as server:
        for header in (None, "Bearer wrong", "Bearer", "first", "Basic first", "Bearer first2", "Bearer fir"):
            headers = {} if header is None else {"authorization": header}
            answer = server.post("/rerank", BODY, headers=headers)
            assert answer.status_code == 401, header
            assert answer.headers["www-authenticate"] == "Bearer"
            assert answer.json()["error"].endswith("'Authorization: Bearer KEY'")
        for header in ("Bearer first", "bearer first"):
            assert server.post("/rerank", BODY, headers={"authorization": header}).status_code == 200
        for path in ("/info", "/metrics", "/openapi.json"):
            assert server.client.get(path).status_code == 401
        for path in ("/", "/health", "/ready"):
            assert server.client.get(path).status_code == 200
        server.settled()
        assert server.outcomes() == {"unauthorized": 7, "ok": 2}
    assert "first" not in repr(Settings(keys=(b"first",)))


def test_a_server_that_others_can_reach_needs_a_key_or_a_word() -> None:
    Settings("127.0.0.1").check()
    Settings("::1").check()
    Settings("localhost").check()
    Settings("0.0.0.0", keys=(b"k",)).check()
    Settings("0.0.0.0", open=True).check()
    for host in ("0.0.0.0", "::", "192.168.1.5", "example.org", ""):
        assert not is_loopback(host)
        with pytest.raises(InputError, match="--keys-file FILE"):
            Settings(host).check()


def test_keys_come_from_the_environment_and_a_file(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text("# those of the team\nb \n\nc\n")
    assert read_keys(None, None) == ()
    assert read_keys("a, z", None) == (b"a", b"z")
    assert read_keys("a", file) == (b"a", b"b", b"c")
    file.write_text("# none\n")
    with pytest.raises(InputError, match="there is no key in it"):
        read_keys(None, file)
    with pytest.raises(InputError, match="cannot be read"):
        read_keys(None, tmp_path / "absent")


def test_stopping_in_the_middle_of_a_load_answers_everybody(function) -> None:
    function.seconds = 0.02
    with serving({"m": lambda: function}, drain_seconds=20.0) as server:
        statuses: list[int] = []
        refused: list[str] = []
        stop = threading.Event()

        def ask(number: int) -> None:
            with httpx.Client(base_url=server.address, timeout=TIMEOUT) as client:
                while not stop.is_set():
                    try:
                        body = {"query": f"q{number}", "documents": ["a", "b"]}
                        statuses.append(client.post("/rerank", json=body).status_code)
                    except (httpx.ConnectError, httpx.RemoteProtocolError, httpx.ReadError) as error:
                        refused.append(type(error).__name__)
                        return

        team = [threading.Thread(target=ask, args=(number,)) for number in range(8)]
        for one in team:
            one.start()
        wait_for(lambda: len(statuses) > 20)
        server.server.handle_exit(signal.SIGTERM, None)
        for one in team:
            one.join(TIMEOUT)
            assert not one.is_alive()
        stop.set()
        wait_for(lambda: server.metric("milvus_rerank_active_requests") == 0)
        assert set(statuses) <= {200, 503}
        assert statuses.count(200) == server.outcomes()["ok"]
        # Those that got no status were refused their connection: none was taken and left without an answer.
        assert server.metric("milvus_rerank_requests_total") == len(statuses)


def test_what_is_not_done_when_draining_ends_is_refused(function) -> None:
    with serving({"m": lambda: function}, drain_seconds=0.3) as server, ThreadPoolExecutor(1) as pool:
        function.hold.set()
        waiting = pool.submit(server.post, "/rerank", BODY)
        assert function.busy.wait(TIMEOUT)
        server.server.handle_exit(signal.SIGTERM, None)
        answer = waiting.result(TIMEOUT)
        function.hold.clear()
        assert (answer.status_code, answer.json()["error"]) == (503, "the server is shutting down")


def start(*options: str, env: dict[str, str] | None = None) -> tuple[subprocess.Popen[str], str]:
    """Start the command and return it with its address, once it is ready."""
    process = subprocess.Popen(
        [str(COMMAND), "serve", "--port", "0", *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **(env or {})},
    )
    for line in process.stderr:
        entry = json.loads(line)
        if entry["event"] == "listening":
            address = entry["address"]
            break
    else:
        process.communicate()
        raise AssertionError("it said no address")
    wait_for(lambda: httpx.get(f"{address}/ready").status_code == 200)
    return process, address


@pytest.mark.parametrize("sign", [signal.SIGTERM, signal.SIGINT])
def test_the_command_serves_and_ends_when_told_to(sign) -> None:
    process, address = start("--reranker", "lexical")
    try:
        answer = httpx.post(f"{address}/rerank", json={"query": "a b", "documents": ["c", "a b"]}).json()
        assert [row["index"] for row in answer["results"]] == [1, 0]
        process.send_signal(sign)
        out, err = process.communicate(timeout=TIMEOUT)
    finally:
        process.kill()
    assert out == ""
    lines = [json.loads(line) for line in err.splitlines()]
    assert [line["status"] for line in lines if line.get("route") == "/rerank"] == [200]
    assert "Traceback" not in err
    assert process.returncode == 0


def run(*options: str, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    command = [str(COMMAND), "serve", *options]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, env={**os.environ, **(env or {})})


def test_the_command_says_what_it_will_not_do(tmp_path: Path) -> None:
    done = run("--host", "0.0.0.0", "--port", "0")
    assert done.returncode == 1
    assert "error: others can reach --host 0.0.0.0, and there is no key" in done.stderr
    done = run("--model", str(tmp_path / "absent"), "--port", "0")
    assert done.returncode == 1
    assert "does not load" in done.stderr
    assert "Traceback" not in done.stderr
    done = run("--model", "a=builtin/rerank", "--model", "a=builtin/rerank")
    assert done.returncode == 2
    assert "two models are called 'a'" in done.stderr
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        done = run("--reranker", "lexical", "--port", str(taken.getsockname()[1]))
    assert done.returncode == 1
    assert "Traceback" not in done.stderr


def test_traces_without_their_packages_say_what_to_install(tmp_path: Path) -> None:
    absent = tmp_path / "sitecustomize.py"
    absent.write_text("import sys\nsys.modules['opentelemetry.sdk'] = None\n")
    done = run("--traces", "--reranker", "lexical", "--port", "0", env={"PYTHONPATH": str(tmp_path)})
    assert done.returncode == 1
    assert 'pip install "milvus-rerank[server]"' in done.stderr
    assert "Traceback" not in done.stderr


def test_the_command_takes_keys_from_the_environment() -> None:
    process, address = start("--reranker", "lexical", env={"MILVUS_RERANK_API_KEYS": "k"})
    try:
        assert httpx.post(f"{address}/rerank", json=BODY).status_code == 401
        answer = httpx.post(f"{address}/rerank", json=BODY, headers={"authorization": "Bearer k"})
        assert answer.status_code == 200
    finally:
        process.kill()
        process.communicate()
