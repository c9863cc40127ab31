"""`milvus-rerank serve`: keys, how it starts and how it ends."""

import json
import os
import select
import signal
import socket
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
from present import present
from serving import TIMEOUT, serving, wait_for
from stubborn import BODY, Stubborn

from milvus_rerank.errors import InputError
from milvus_rerank.server.settings import Settings, read_keys
from milvus_rerank.validation import is_loopback

COMMAND = Path(sys.executable).with_name("milvus-rerank")


def test_keys_are_asked_for_everywhere_but_at_the_door(function: Stubborn) -> None:
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


def start(*options: str, env: dict[str, str] | None = None) -> tuple[subprocess.Popen[str], str]:
    """Start the command and return it with its address, once it is ready."""
    process = subprocess.Popen(
        [str(COMMAND), "serve", "--port", "0", *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **(env or {})},
    )
    for line in present(process.stderr):
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
def test_the_command_serves_and_ends_when_told_to(sign: signal.Signals) -> None:
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


@pytest.mark.skipif(os.name == "nt", reason="needs a pseudo-terminal")
def test_people_at_a_terminal_are_told_where_the_playground_is_and_how_to_stop() -> None:
    import pty

    terminal, end = pty.openpty()
    command = [str(COMMAND), "serve", "--port", "0", "--reranker", "lexical"]
    with subprocess.Popen(command, stdout=end, stderr=subprocess.PIPE, text=True) as process:
        os.close(end)
        try:
            address = next(
                entry["address"] for entry in map(json.loads, present(process.stderr)) if entry["event"] == "listening"
            )
            assert select.select([terminal], [], [], TIMEOUT)[0]
            assert f"Playground: {address}  Press Ctrl-C to stop." in os.read(terminal, 1000).decode()
        finally:
            process.kill()
            os.close(terminal)


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
