"""A model hub on loopback, as the hub's client sees the real one: redirects to large files, ranges, tokens."""

import hashlib
import json
import os
import re
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

LARGE = (".safetensors", ".onnx", ".onnx_data", ".bin", "tokenizer.json")
"""Endings of files that a hub keeps as large ones, and redirects to another address."""
COMMIT = "c0ffee" + "0" * 34


@dataclass
class Hub:
    """Repositories, and what clients have asked for.

    :param repositories: files by name, by the repository's name.
    :param token: the token that gated repositories want; None for none.
    :param cut: for a file's name, after how many bytes its next download is cut off.
    """

    repositories: dict[str, dict[str, bytes]]
    token: str | None = None
    cut: dict[str, int] = field(default_factory=dict)
    sent: Counter[str] = field(default_factory=Counter)  # bytes by file
    ranges: list[str] = field(default_factory=list)
    address: str = ""

    def environment(self, home: Path) -> dict[str, str]:
        """Return a process' environment in which the hub's client uses this hub and a cache of its own."""
        return {
            **os.environ,
            "HF_ENDPOINT": self.address,
            "HF_HOME": str(home),
            "HF_HUB_OFFLINE": "0",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_HUB_ETAG_TIMEOUT": "5",
        }


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub

    def log_message(self, *_: Any) -> None:
        pass

    def do_HEAD(self) -> None:
        self.answer(body=False)

    def do_GET(self) -> None:
        self.answer(body=True)

    def answer(self, *, body: bool) -> None:
        path = self.path.partition("?")[0]
        api = re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/(revision|tree)/([^/]+))?", path)
        file = re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path)
        large = re.fullmatch(r"/cdn/([^/]+/[^/]+)/(.+)", path)
        name = next((match[1] for match in (api, file, large) if match), "")
        files = self.hub.repositories.get(name)
        revision = (api and api[3]) or (file and file[2]) or "main"
        if files is None:
            self.fail(404, "RepoNotFound", "Repository not found")
        elif self.hub.token is not None and self.headers.get("Authorization") != f"Bearer {self.hub.token}":
            status = 403 if self.headers.get("Authorization") else 401
            self.fail(status, "GatedRepo", f"Access to model {name} is restricted")
        elif revision not in ("main", COMMIT):
            self.fail(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        elif api:
            rows = [self.row(path, content) for path, content in files.items()]
            siblings = [{"rfilename": path} for path in files]
            self.send_json(rows if api[2] == "tree" else {"id": name, "sha": COMMIT, "siblings": siblings})
        elif file and file[3] in files:
            self.send_file(name, file[3], files[file[3]], redirect=file[3].endswith(LARGE), body=body)
        elif large and large[2] in files:
            self.send_file(name, large[2], files[large[2]], redirect=False, body=body)
        else:
            self.fail(404, "EntryNotFound", "Entry not found")

    def row(self, path: str, content: bytes) -> dict[str, Any]:
        row: dict[str, Any] = {"type": "file", "path": path, "size": len(content), "oid": self.digest(path, content)}
        if path.endswith(LARGE):
            row["lfs"] = {"oid": self.digest(path, content), "size": len(content), "pointerSize": 130}
        return row

    def digest(self, path: str, content: bytes) -> str:
        return (hashlib.sha256 if path.endswith(LARGE) else hashlib.sha1)(content).hexdigest()

    def send_json(self, value: Any) -> None:
        content = json.dumps(value).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def send_file(self, name: str, path: str, content: bytes, *, redirect: bool, body: bool) -> None:
        headers = {"X-Repo-Commit": COMMIT, "ETag": f'"{self.digest(path, content)}"', "Accept-Ranges": "bytes"}
        if redirect:
            headers |= {"X-Linked-ETag": headers["ETag"], "X-Linked-Size": str(len(content))}
            headers |= {"Location": f"{self.hub.address}/cdn/{name}/{path}", "Content-Length": "0"}
            self.send_response(302)
        else:
            start = re.match(r"bytes=(\d+)-", self.headers.get("Range", ""))
            first = int(start[1]) if start else 0
            if start:
                self.hub.ranges.append(f"{path}:{first}")
                headers["Content-Range"] = f"bytes {first}-{len(content) - 1}/{len(content)}"
            content = content[first:]
            headers["Content-Length"] = str(len(content))
            self.send_response(206 if start else 200)
        for key, value in headers.items():
            self.send_header(key, value)
        self.end_headers()
        if body and not redirect:
            cut = self.hub.cut.pop(path, None)
            self.wfile.write(content[:cut])
            self.hub.sent[path] += len(content[:cut])
            self.close_connection = cut is not None

    def fail(self, status: int, code: str, message: str) -> None:
        self.send_response(status)
        self.send_header("X-Error-Code", code)
        self.send_header("X-Error-Message", message)
        self.send_header("Content-Length", "0")
        self.end_headers()


@contextmanager
def serve(hub: Hub) -> Iterator[Hub]:
    """Serve a hub on a free port of loopback."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("OwnHandler", (Handler,), {"hub": hub}))
    hub.address = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join(10)


def files_of(folder: Path) -> dict[str, bytes]:
    """Return the files of a folder by name."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
