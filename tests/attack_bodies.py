"""Bodies within the limits that used to stop the server: the longest pause of /health, and memory by body size.

python tests/attack_bodies.py [NAME...] prints a line for each; the tests run the smaller ones.
"""

import http.client
import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

MIB = 2**20
SHORT = [f"document {number} about the history of computing" for number in range(2000)]


def body(**values: object) -> bytes:
    return json.dumps({"query": "who wrote the first program", **values}, ensure_ascii=False).encode()


def filled(start: str, item: str, end: str, size: int) -> bytes:
    """Return a body of ``size`` bytes that repeats an item."""
    return (start + item * ((size - len(start) - len(end)) // len(item.encode())) + end).encode()


LIST = '{"query": "q", "documents": ['
ATTACKS: dict[str, Callable[[], bytes]] = {
    "1 MB of numbers": lambda: filled(LIST, "1,", "1]}", 10**6),
    "1 MB of empty texts": lambda: filled(LIST, '"",', '""]}', 10**6),
    "16 MiB of numbers": lambda: filled(LIST, "1,", "1]}", 16 * MIB),
    "16 MiB of empty lists": lambda: filled(LIST, "[],", "[]]}", 16 * MIB),
    "16 MiB of empty objects": lambda: filled(LIST, "{},", "{}]}", 16 * MIB),
    "16 MiB of brackets": lambda: filled(LIST, "[", "]}", 16 * MIB),
    "16 MiB of quotes in a text": lambda: filled(LIST + '"', '\\"', '"]}', 16 * MIB),
    "rank_fields of 0.3 MB": lambda: body(
        documents=[{"a": "x" * 100}] * 2000, rank_fields=["a"] * 20_000, return_documents=True
    ),
    "100 rank_fields": lambda: body(
        documents=[{f"f{n}": "word " for n in range(10)}] * 2000, rank_fields=[f"f{n}" for n in range(100)]
    ),
    "deep objects, returned": lambda: body(
        documents=[{"text": "a", "deep": json.loads("[" * 100 + "]" * 100)}] * 400, return_documents=True
    ),
    "a text of 16 MiB": lambda: body(documents=["word " * (16 * MIB // 5 - 30)]),
    "80 texts of 200,000 characters": lambda: body(documents=["word " * 40_000] * 80),
    "80 other texts of 200,000 letters": lambda: body(documents=[chr(97 + n % 26) * 200_000 for n in range(80)]),
    "20 texts of Chinese": lambda: body(documents=["漢字語文" * 50_000] * 20),
    "emoji": lambda: body(documents=["word 🎉 " * 20_000] * 80),
    "emoji, escaped": lambda: json.dumps({"query": "q", "documents": ["🎉 " * 60_000] * 20}).encode(),
    "2000 short texts": lambda: body(documents=SHORT),
    "a query of 200,000 characters": lambda: body(documents=SHORT[:500]).replace(b"who", b"who " * 49_000, 1),
}


class Measured(NamedTuple):
    """Outcome of a body: status, its bytes, the longest pause of /health in ms, and the bytes that the peak grew by."""

    status: int
    bytes: int
    pause: float
    memory: int


@contextmanager
def running(*options: str) -> Iterator[tuple["subprocess.Popen[bytes]", int]]:
    """Serve in a process of its own; yields it and its port."""
    command = [sys.executable, "-m", "milvus_rerank", "serve", "--port", "0", *options]
    with subprocess.Popen(command, stderr=subprocess.PIPE) as process:
        assert process.stderr is not None
        line = json.loads(next(line for line in process.stderr if b'"listening"' in line))
        threading.Thread(target=lambda: list(process.stderr or ()), daemon=True).start()
        port = int(line["address"].rpartition(":")[2])
        try:
            while answer(port, "GET", "/ready")[0] != 200:
                time.sleep(0.05)
            yield process, port
        finally:
            process.terminate()


def answer(port: int, method: str, path: str, content: bytes | None = None) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
    try:
        connection.request(method, path, content, {"content-type": "application/json"})
        response = connection.getresponse()
        return response.status, response.read()
    except (BrokenPipeError, ConnectionResetError):
        return 0, b""
    finally:
        connection.close()


def peak(process: "subprocess.Popen[bytes]") -> int:
    """Return the peak memory in bytes."""
    lines = Path(f"/proc/{process.pid}/status").read_text().splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith("VmHWM"))) * 1024


def attack(process: "subprocess.Popen[bytes]", port: int, content: bytes) -> Measured:
    """Send one body to /v1/rerank while another connection asks for /health."""
    Path(f"/proc/{process.pid}/clear_refs").write_text("5")  # the peak starts anew
    before, done, pauses = peak(process), threading.Event(), [0.0]

    def watch() -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
        while not done.is_set():
            began = time.perf_counter()
            connection.request("GET", "/health")
            connection.getresponse().read()
            pauses.append((time.perf_counter() - began) * 1e3)
            time.sleep(0.005)
        connection.close()

    watcher = threading.Thread(target=watch)
    watcher.start()
    time.sleep(0.05)
    status, _ = answer(port, "POST", "/v1/rerank", content)
    done.set()
    watcher.join()
    return Measured(status, len(content), max(pauses), peak(process) - before)


def main() -> None:
    """Print a table."""
    names = sys.argv[1:] or list(ATTACKS)
    with running("--deadline", "120") as (process, port):
        attack(process, port, body(documents=SHORT[:100]))
        print(f"{'body':36} {'status':>6} {'MB':>6} {'pause ms':>9} {'memory MB':>10} {'times':>6}")
        for name in names:
            found = attack(process, port, ATTACKS[name]())
            sizes = f"{found.bytes / 1e6:6.2f} {found.pause:9.0f} {found.memory / 1e6:10.1f}"
            print(f"{name:36} {found.status:6} {sizes} {found.memory / found.bytes:6.1f}", flush=True)


if __name__ == "__main__":
    main()
