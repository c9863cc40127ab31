"""Services that rerank: the scores of each class are those of the server that it asks."""

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import pytest
from fault_server import KEY
from service_factories import Make
from serving import Running, serving

from milvus_rerank import CrossEncoderRerankFunction, JinaRerankFunction, LexicalRerankFunction, TEIRerankFunction
from milvus_rerank.errors import InputError, ServiceError
from milvus_rerank.reranker.remote.function import RemoteRerankFunction

pytestmark = pytest.mark.compat

QUERY = "logic theorist machine"

DOCUMENTS = ["nothing here", "logic machine", "the logic theorist machine", "theorist", "a machine", "logic, Ψ"]

LOCAL = LexicalRerankFunction()


@pytest.fixture(scope="module")
def server() -> Iterator[Running]:
    with serving({"lexical": lambda: LOCAL}, keys=[KEY.encode()]) as running:
        yield running


# Against this package's own server


def test_every_class_gives_the_scores_of_the_server_it_asks(server: Running, make: Make) -> None:
    with make(server.address, api_key=KEY) as function:
        assert function.score(QUERY, DOCUMENTS) == pytest.approx(LOCAL.score(QUERY, DOCUMENTS), abs=1e-6)
        found = function(QUERY, DOCUMENTS, top_k=2)
        assert [(one.index, one.text, one.score) for one in found] == [
            (2, DOCUMENTS[2], 1.0),
            (1, DOCUMENTS[1], pytest.approx(2 / 3, abs=1e-6)),
        ]
        assert [one.index for one in function(QUERY, DOCUMENTS, top_k=0, threshold=0.5)] == [2, 1]
        assert len(function(QUERY, DOCUMENTS * 3)) == 5
        assert json.loads(json.dumps(found[0].to_dict())) == {"text": DOCUMENTS[2], "score": 1.0, "index": 2}


def test_hits_keep_their_ids_and_fields(server: Running, make: Make) -> None:
    hits = [{"id": 10 + place, "distance": 0.5, "entity": {"text": text}} for place, text in enumerate(DOCUMENTS)]
    with make(server.address, api_key=KEY) as function:
        found = function.rerank_hits(QUERY, hits, top_k=1)
        assert [(one.id, one.distance, one.entity) for one in found] == [(12, 0.5, {"text": DOCUMENTS[2]})]
        assert asyncio.run(function.arerank_hits(QUERY, hits, top_k=1)) == found


def test_the_event_loop_gives_what_plain_calls_give(server: Running, make: Make) -> None:
    queries, lists = ["logic", "machine", "none"], [DOCUMENTS, DOCUMENTS[1:3], []]
    pairs = [("logic", "logic"), ("machine", "logic"), ("logic", "x")]

    async def all_of_them(function: RemoteRerankFunction) -> list[Any]:
        async with function:
            return [
                await function.arerank(QUERY, DOCUMENTS, 2),
                await function.ascore(QUERY, DOCUMENTS),
                await function.arerank_many(queries, lists, top_k=None),
                await function.ascore_pairs(pairs),
            ]

    with make(server.address, api_key=KEY, max_documents=4) as function:
        assert asyncio.run(all_of_them(function)) == [
            function(QUERY, DOCUMENTS, 2),
            function.score(QUERY, DOCUMENTS),
            function.rerank_many(queries, lists, top_k=None),
            function.score_pairs(pairs),
        ]
        assert function.score_pairs(pairs) == [1.0, 0.0, 0.0]


def test_long_lists_are_split_and_scores_stay_in_order(server: Running, make: Make) -> None:
    texts = [" ".join(QUERY.split()[: place % 4]) + " filler" for place in range(23)]

    def count() -> float:
        return server.metric("milvus_rerank_requests_total")

    with make(server.address, api_key=KEY, max_documents=5) as function:
        before = count()
        assert function.score(QUERY, texts) == pytest.approx(LOCAL.score(QUERY, texts), abs=1e-6)
        server.settled()
        assert count() - before == 5
        many = function.rerank_many([QUERY, "filler"], [texts, texts[:6]], top_k=0)
        server.settled()
        assert count() - before == 5 + 5 + 2
        assert [[one.index for one in some] for some in many] == [
            [one.index for one in some] for some in LOCAL.rerank_many([QUERY, "filler"], [texts, texts[:6]], top_k=0)
        ]


def test_nothing_in_asks_nobody() -> None:
    with TEIRerankFunction("http://127.0.0.1:9") as function:
        assert function(QUERY, []) == []
        assert function.rerank_many([], []) == []
        assert asyncio.run(function.arerank_many(["q", "p"], [[], []])) == [[], []]
        with pytest.raises(InputError, match=r"documents\[0\] must be a string, got int: 3"):
            asyncio.run(function.arerank(QUERY, [3]))  # type: ignore[list-item]


@pytest.mark.parametrize("key", [None, "sk-wrong-key"])
def test_a_wrong_or_missing_key_is_an_error_that_says_so(server: Running, make: Make, key: str | None) -> None:
    with make(server.address, api_key=key) as function, pytest.raises(ServiceError) as caught:
        function(QUERY, DOCUMENTS)
    assert caught.value.status == 401
    assert str(caught.value).endswith("; is the key right? pass api_key=...")
    assert "sk-wrong-key" not in str(caught.value)


def test_teis_scores_are_sigmoids_or_logits() -> None:
    reranker = CrossEncoderRerankFunction("builtin/rerank", device="cpu", threads=1)
    texts = ["A dog barks.", "Trees have bark.", "Wolves howl."]
    with serving({"m": lambda: reranker}) as running, TEIRerankFunction(running.address) as probabilities:
        raw = TEIRerankFunction(running.address, raw_scores=True)
        logits = reranker.score("who barks?", texts)
        assert raw.score("who barks?", texts) == pytest.approx(logits, abs=1e-5)
        sigmoids = CrossEncoderRerankFunction("builtin/rerank", device="cpu", threads=1, activation_fct="sigmoid")
        assert probabilities.score("who barks?", texts) == pytest.approx(sigmoids.score("who barks?", texts), abs=1e-6)
        assert max(logits) > 1 or min(logits) < 0
        raw.close()


def test_what_the_server_takes_is_the_error_of_a_larger_request() -> None:
    with (
        serving({"m": lambda: LOCAL}, documents=3) as running,
        JinaRerankFunction("any", base_url=running.address) as function,
    ):
        with pytest.raises(ServiceError, match=r"answered 422 \(.*at most 3") as caught:
            function.score(QUERY, DOCUMENTS)
        assert "A request had up to 1000 documents (max_documents)" in str(caught.value)
