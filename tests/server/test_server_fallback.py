"""The server with a chain of rerankers: a service, and another behind it."""

from collections.abc import Sequence
from typing import Any

import pytest
from fault_server import Answer, FaultServer, Time, fault_server, remote
from serving import serving

from milvus_rerank import FallbackRerankFunction, LexicalRerankFunction

pytestmark = pytest.mark.needs("fastapi", "httpx")

BODY = {"query": "a cat", "documents": ["a dog", "a cat", "a cat that sleeps"]}


def serve(members: Sequence[Any]) -> Any:
    return serving({"m": lambda: FallbackRerankFunction(members)})


def service(faults: FaultServer) -> Any:
    return remote(faults.address, "jina", attempts=1, time=Time())


def test_the_local_reranker_answers_while_the_service_is_away() -> None:
    with fault_server() as faults, service(faults) as away, serve([(away, 5.0), "lexical"]) as server:
        faults.then = lambda received: Answer({"detail": "down"}, 500)
        answer = server.post("/v1/rerank", BODY)
        assert answer.status_code == 200, answer.text
        scores = {row["index"]: row["relevance_score"] for row in answer.json()["results"]}
        expected = LexicalRerankFunction().score(BODY["query"], BODY["documents"])  # type: ignore[arg-type]
        assert [scores[index] for index in range(3)] == pytest.approx(expected, abs=1e-6)
        assert len(faults.received) == 1


@pytest.mark.parametrize(("status", "answered"), [(500, 502), (429, 503)])
def test_if_all_are_services_that_failed_the_answer_is_that_of_the_last(status: int, answered: int) -> None:
    with (
        fault_server() as faults,
        service(faults) as first,
        service(faults) as second,
        serve([first, second]) as server,
    ):
        faults.then = lambda received: Answer({"detail": "down"}, status)
        assert server.post("/v1/rerank", BODY).status_code == answered
        assert len(faults.received) == 2
