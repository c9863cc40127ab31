"""Whatever goes wrong: nothing hangs, every request is answered or refused, and the counts add up."""

import signal
import socket
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest
from serving import TIMEOUT, serving, wait_for
from stubborn import BODY, Stubborn

from milvus_rerank.errors import ModelError
from milvus_rerank.reranker.lexical import LexicalRerankFunction
from milvus_rerank.server.settings import Settings


def test_a_model_that_raises_fails_its_request_alone(function: Stubborn, capsys: pytest.CaptureFixture[str]) -> None:
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


def test_a_request_beside_one_that_fails_is_answered(function: Stubborn) -> None:
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

    def load() -> LexicalRerankFunction:
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

    def slow() -> LexicalRerankFunction:
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

    def slow() -> LexicalRerankFunction:
        assert go.wait(TIMEOUT)
        return LexicalRerankFunction()

    states: list[Any] = []

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


def test_a_client_that_leaves_takes_its_queued_work_with_it(function: Stubborn) -> None:
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
        b"POST /rerank HTTP/1.1\r\nhost: localhost\r\ncontent-length: 100\r\n",
        b"POST /rerank HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: 100\r\n\r\n",
        b"POST /rerank HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: 100\r\n\r\n"
        b'{"query": "q',
        b"nonsense\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",  # TLS where none is spoken
    ],
)
def test_a_client_may_leave_at_any_stage(function: Stubborn, sent: Any) -> None:
    with serving({"m": lambda: function}) as server:
        host, port = server.address.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port))) as connection:
            connection.sendall(sent)
            time.sleep(0.02)
        assert server.post("/rerank", BODY).status_code == 200
        server.settled()
        assert set(server.outcomes()) <= {"ok", "client_disconnected"}


def test_stopping_in_the_middle_of_a_load_answers_everybody(function: Stubborn) -> None:
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


def test_what_is_not_done_when_draining_ends_is_refused(function: Stubborn) -> None:
    with serving({"m": lambda: function}, drain_seconds=0.3) as server, ThreadPoolExecutor(1) as pool:
        function.hold.set()
        waiting = pool.submit(server.post, "/rerank", BODY)
        assert function.busy.wait(TIMEOUT)
        server.server.handle_exit(signal.SIGTERM, None)
        answer = waiting.result(TIMEOUT)
        function.hold.clear()
        assert (answer.status_code, answer.json()["error"]) == (503, "the server is shutting down")
