"""Names and pages that may use the server: neither other names nor pages of other sites, on loopback without a key."""

from typing import Any

import pytest
from serving import Running, serving
from stubborn import BODY, Stubborn

from milvus_rerank.errors import InputError
from milvus_rerank.server.playground import Milvus, SearchBody
from milvus_rerank.server.settings import Settings

HERE = ["127.0.0.1", "127.0.0.1:8787", "localhost", "LOCALHOST:80", "localhost.", "[::1]:8787", "127.3.2.1"]
ELSEWHERE = [
    "evil.example", "evil.example:8787", "localhost.evil.example", "127.0.0.1.nip.io", "0.0.0.0", "10.0.0.1", "[::2]",
    "", "localhost@evil.example", "evil.example#localhost", "127.0.0.1evil.example", "xn--localhost-x.example",
]  # fmt: skip


@pytest.mark.parametrize("host", HERE)
def test_names_of_this_machine_are_taken(server: Running, host: str) -> None:
    assert server.post("/rerank", BODY, headers={"host": host}).status_code == 200
    assert server.client.get("/", headers={"host": host}).status_code == 200


@pytest.mark.parametrize("host", ELSEWHERE)
def test_other_names_are_refused_and_the_answer_says_what_to_type(server: Running, host: str) -> None:
    for method, path in (("POST", "/rerank"), ("GET", "/"), ("GET", "/info"), ("GET", "/metrics")):
        answer = server.client.request(method, path, json=BODY, headers={"host": host})
        assert answer.status_code in (400, 421)  # 400: the parser knows it for nonsense
        if answer.status_code == 421:
            assert "start it with --allowed-host" in answer.json()["error"]
    if host:
        assert server.client.get("/health", headers={"host": host}).status_code in (200, 400)


ORIGINS = [
    "http://evil.example",
    "https://127.0.0.1.evil.example",
    "null",
    "file://",
    "http://127.0.0.1:1",
    "chrome://x",
]


@pytest.mark.parametrize("origin", ORIGINS)
def test_pages_of_other_sites_are_refused(server: Running, origin: str) -> None:
    assert server.post("/rerank", BODY, headers={"origin": origin}).status_code == 403
    assert server.client.get("/info", headers={"origin": origin}).status_code == 403


def test_the_servers_own_page_is_taken(server: Running) -> None:
    answer = server.post("/rerank", BODY, headers={"origin": server.address})
    assert answer.status_code == 200
    assert "access-control-allow-origin" not in answer.headers


def test_with_a_key_every_name_is_taken_as_a_page_does_not_know_it(function: Stubborn) -> None:
    with serving({"m": lambda: function}, keys=[b"k"]) as server:
        headers = {"host": "rerank.example", "origin": "https://search.example"}
        assert server.post("/rerank", BODY, headers=headers).status_code == 401
        assert server.post("/rerank", BODY, headers=headers | {"authorization": "Bearer k"}).status_code == 200


SETTINGS: list[tuple[dict[str, Any], dict[str, bool]]] = [
    ({}, {"localhost": False, "rerank": True}),
    ({"host": "0.0.0.0", "open": True}, {"localhost": False, "rerank": False}),
    ({"host": "0.0.0.0", "open": True, "allowed_hosts": ("Rerank.",)}, {"RERANK:80": False, "localhost": False}),
    ({"host": "0.0.0.0", "open": True, "allowed_hosts": ("rerank",)}, {"a": True, "rerank.evil.example": True}),
    ({"keys": (b"k",)}, {"rerank": False}),
    ({"keys": (b"k",), "allowed_hosts": ("a.example",)}, {"a.example": False, "b.example": True, "127.0.0.1": False}),
    ({"allowed_hosts": ("a.example",)}, {"a.example:8787": False, "a.example.": False, "b.a.example": True}),
]  # fmt: skip


@pytest.mark.parametrize(("options", "refused"), SETTINGS)
def test_allowed_names(options: dict[str, Any], refused: dict[str, bool]) -> None:
    settings = Settings(**options)
    assert {host: settings.refuses_host(host) for host in refused} == refused


def test_the_playground_reaches_only_collections_that_are_allowed() -> None:
    class Client:
        def list_collections(self, timeout: float) -> list[str]:
            return ["secrets", "docs_en", "docs", "Docs"]

    assert Milvus(Client(), None).collections() == []
    milvus = Milvus(Client(), None, allowed=("docs*", "a"))
    assert milvus.collections() == ["docs", "docs_en"]
    for name in ("secrets", "Docs", "xdocs", "*"):
        with pytest.raises(InputError, match="the playground may not search"):
            milvus.search(SearchBody(query="q", collection=name))
