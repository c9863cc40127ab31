"""Services that rerank: the HTTP client, and the packages that it needs."""

import asyncio
import subprocess
import sys
from typing import Any

import httpx
import pytest
from fault_server import KEY, Answer, FaultServer

from milvus_rerank import JinaRerankFunction, RetryPolicy, TEIRerankFunction
from milvus_rerank.errors import InputError, ServiceError

pytestmark = pytest.mark.compat


# Packages


def run(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout


def test_importing_them_loads_no_http_client() -> None:
    code = "import sys, milvus_rerank.reranker; milvus_rerank.CohereRerankFunction; print([m for m in "
    assert run(f"{code}('httpx', 'anyio') if m in sys.modules])") == "[]\n"


@pytest.mark.parametrize("package", ["httpx"])
def test_a_missing_package_says_what_to_type(package: str) -> None:
    code = f"""
import sys
sys.modules[{package!r}] = None
from milvus_rerank import TEIRerankFunction, errors
try:
    TEIRerankFunction("http://localhost:1")
except errors.MissingDependencyError as error:
    print(error)
"""
    assert run(code) == (
        f"reranking with a service needs the package {package!r}, which is not installed. "
        'Type: pip install "milvus-rerank[services]"\n'
    )


# The user's own client


def note_headers(seen: list[Any]) -> Any:
    def answer(request: Any) -> Any:
        seen.append((str(request.url), request.headers["authorization"], request.headers["x-team"]))
        return httpx.Response(200, json={"results": [{"index": 0, "relevance_score": 0.5}]})

    return httpx.MockTransport(answer)


def test_a_users_client_sends_the_requests_and_stays_open() -> None:
    seen: list[Any] = []
    with httpx.Client(transport=note_headers(seen), headers={"x-team": "search"}, follow_redirects=True) as client:
        with JinaRerankFunction("m", KEY, client=client) as function:
            assert function.score("q", ["a"]) == [0.5]
            with pytest.raises(InputError, match=r"client is an httpx\.Client: use the plain calls, or pass an httpx"):
                asyncio.run(function.ascore("q", ["a"]))
        assert not client.is_closed
    assert seen == [("https://api.jina.ai/v1/rerank", f"Bearer {KEY}", "search")]


def test_a_users_asynchronous_client_sends_the_requests_and_stays_open() -> None:
    seen: list[Any] = []

    async def main() -> None:
        async with httpx.AsyncClient(transport=note_headers(seen), headers={"x-team": "search"}) as client:
            async with JinaRerankFunction("m", KEY, client=client) as function:
                assert await function.ascore("q", ["a"]) == [0.5]
                with pytest.raises(InputError, match=r"client is an httpx\.AsyncClient: await arerank\(\) or its like"):
                    function.score("q", ["a"])
            assert not client.is_closed

    asyncio.run(main())
    assert seen == [("https://api.jina.ai/v1/rerank", f"Bearer {KEY}", "search")]


def test_a_client_that_follows_redirections_takes_no_key_elsewhere(faults: FaultServer) -> None:
    faults.answers = [Answer({}, 307, {"location": "https://elsewhere/x"})]
    with httpx.Client(follow_redirects=True) as client:
        function = JinaRerankFunction("m", KEY, base_url=faults.address, client=client)
        with pytest.raises(ServiceError, match="it points to https://elsewhere/x: give that address"):
            function.score("q", ["a"])


def test_something_else_than_a_client_is_refused() -> None:
    with pytest.raises(InputError, match=r"client must be an httpx\.Client or httpx\.AsyncClient, got str"):
        TEIRerankFunction("http://localhost:1", client="proxy")  # type: ignore[arg-type]


def test_a_retry_policy_sets_the_attempts_and_pauses(faults: FaultServer) -> None:
    faults.answers = [Answer({}, 503), Answer({}, 503, {"retry-after": "0.3"}), Answer({}, 503)]
    retries = RetryPolicy(attempts=9, max_wait=0.01, max_retry_after=0.2)
    with JinaRerankFunction("m", KEY, base_url=faults.address, attempts=retries) as function:
        with pytest.raises(ServiceError, match=r"asked again after 0.3 s, which is too long"):
            function.score("q", ["a"])
        assert len(faults.received) == 2
        assert function.score("q", ["a", "bb"]) == [1.0, 2.0]
    with pytest.raises(InputError, match="max_wait must be a positive number of seconds, got 0"):
        RetryPolicy(max_wait=0)
