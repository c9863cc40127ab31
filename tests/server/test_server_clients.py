"""The server as clients see it that no one here wrote."""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from peers import running
from present import present
from serving import Running, serving

from milvus_rerank import CrossEncoderRerankFunction

QUERY = "Which animal barks?"
DOCUMENTS = [
    "A cat is a small animal that purrs.",
    "The stock market fell on Monday.",
    "A dog is an animal that barks at strangers.",
    "Trees have bark.",
    "Wolves howl at the moon.",
    "Dogs bark.",
    "Fish live in water.",
]


@pytest.fixture(scope="module")
def reranker() -> CrossEncoderRerankFunction:
    return CrossEncoderRerankFunction("builtin/rerank", device="cpu", threads=1)


@pytest.fixture(scope="module")
def server(reranker: CrossEncoderRerankFunction) -> Iterator[Running]:
    with serving({"builtin/rerank": lambda: reranker}, keys=[b"secret"]) as running:
        yield running


@pytest.fixture(scope="module")
def open_server(reranker: CrossEncoderRerankFunction) -> Iterator[Running]:
    with serving({"builtin/rerank": lambda: reranker}) as running:
        yield running


@pytest.fixture(scope="module")
def expected(reranker: CrossEncoderRerankFunction) -> list[tuple[int, float]]:
    """Client-side reranking: index and score, best first."""
    return [(one.index, present(one.score)) for one in reranker(QUERY, DOCUMENTS, top_k=0)]


def close_to(expected: list[tuple[int, float]]) -> object:
    return [(index, pytest.approx(score, abs=1e-5)) for index, score in expected]


def test_milvus_lite_reranks_with_the_server_as_the_client_would(
    server: Running, reranker: CrossEncoderRerankFunction, tmp_path: Path
) -> None:
    from pymilvus import DataType, Function, FunctionType, MilvusClient

    client = MilvusClient(str(tmp_path / "x.db"))
    schema = client.create_schema()
    schema.add_field("pk", DataType.INT64, is_primary=True)
    schema.add_field("text", DataType.VARCHAR, max_length=200)
    schema.add_field("vector", DataType.FLOAT_VECTOR, dim=2)
    index = client.prepare_index_params()
    index.add_index("vector", index_type="FLAT", metric_type="COSINE")
    client.create_collection("docs", schema=schema, index_params=index)
    rows = [{"pk": 100 + place, "text": text, "vector": [1.0, place / 10]} for place, text in enumerate(DOCUMENTS)]
    client.insert("docs", rows)
    client.load_collection("docs")

    ranker = Function(
        name="ranker",
        input_field_names=["text"],
        function_type=FunctionType.RERANK,
        params={
            "reranker": "model",
            "provider": "cohere",
            "model_name": "builtin/rerank",
            "queries": [QUERY],
            "base_url": f"{server.address}/v2",
            "api_key": "secret",
        },
    )
    options: dict[str, Any] = {
        "data": [[1.0, 0.0]],
        "anns_field": "vector",
        "limit": len(rows),
        "output_fields": ["text"],
    }
    found = client.search("docs", ranker=ranker, **options)[0]
    here = reranker.rerank_hits(QUERY, client.search("docs", **options)[0])
    client.close()
    assert [(hit.id, hit["entity"]["text"]) for hit in found] == [(one.id, one.text) for one in here]
    assert [hit["distance"] for hit in found] == pytest.approx([one.score for one in here], abs=1e-5)
    assert found[0]["distance"] > found[-1]["distance"] + 1


def test_pymilvus_models_tei_function(open_server: Running, reranker: CrossEncoderRerankFunction) -> None:
    with running("pymilvus.model"):
        from pymilvus.model.reranker.tei import TEIRerankFunction

    function = TEIRerankFunction(api_url=open_server.address)
    found = function(QUERY, DOCUMENTS, top_k=3)  # it returns five whatever it is asked
    wanted = CrossEncoderRerankFunction("builtin/rerank", device="cpu", threads=1, activation_fct="sigmoid")
    here = wanted(QUERY, DOCUMENTS, top_k=5)
    assert [(one.index, one.text) for one in found] == [(one.index, one.text) for one in here]
    assert [one.score for one in found] == pytest.approx([one.score for one in here], abs=1e-6)
    with pytest.raises(RuntimeError, match="at most 2000"):
        function(QUERY, ["a"] * 2001)
    function._session.close()


def test_the_cohere_sdk(server: Running, expected: list[tuple[int, float]]) -> None:
    import cohere

    with cohere.ClientV2(api_key="secret", base_url=server.address) as client:
        answer = client.rerank(model="rerank-v3.5", query=QUERY, documents=DOCUMENTS)
        assert [(one.index, one.relevance_score) for one in answer.results] == close_to(expected)
        answer = client.rerank(model="rerank-v3.5", query=QUERY, documents=DOCUMENTS, top_n=2, max_tokens_per_doc=500)
        assert [(one.index, one.relevance_score) for one in answer.results] == close_to(expected[:2])
        with pytest.raises(cohere.UnprocessableEntityError):
            client.rerank(model="m", query="q", documents=["a"] * 2001)
    objects = [{"text": text} for text in DOCUMENTS]
    with cohere.Client(api_key="secret", base_url=server.address) as first:
        answer = first.rerank(model="m", query=QUERY, documents=objects, return_documents=True)
        assert [(one.index, one.document.text) for one in answer.results] == [(i, DOCUMENTS[i]) for i, _ in expected]
    with cohere.ClientV2(api_key="wrong", base_url=server.address) as wrong, pytest.raises(cohere.UnauthorizedError):
        wrong.rerank(model="m", query="q", documents=["a"])


def test_the_voyageai_sdk(server: Running, expected: list[tuple[int, float]]) -> None:
    import voyageai

    client = voyageai.client.Client(api_key="secret", base_url=f"{server.address}/voyage/v1")
    answer = client.rerank(QUERY, DOCUMENTS, model="rerank-2", top_k=3)
    assert [(one.index, one.relevance_score) for one in answer.results] == close_to(expected[:3])
    assert [one.document for one in answer.results] == [DOCUMENTS[index] for index, _ in expected[:3]]
    assert answer.total_tokens > 50
    later = voyageai.client_async.AsyncClient(api_key="secret", base_url=f"{server.address}/voyage/v1")
    answer = asyncio.run(later.rerank(QUERY, DOCUMENTS, model="rerank-2"))
    assert [(one.index, one.relevance_score) for one in answer.results] == close_to(expected)


def test_langchain_cohere(server: Running, expected: list[tuple[int, float]]) -> None:
    from langchain_cohere import CohereRerank
    from langchain_core.documents import Document
    from pydantic import SecretStr

    compressor = CohereRerank(model="m", cohere_api_key=SecretStr("secret"), base_url=server.address, top_n=3)
    documents = [Document(text, metadata={"place": place}) for place, text in enumerate(DOCUMENTS)]
    found = compressor.compress_documents(documents, QUERY)
    assert [(one.metadata["place"], one.metadata["relevance_score"]) for one in found] == close_to(expected[:3])
    compressor.client.__exit__(None, None, None)


def test_what_milvus_does_with_a_refusal_is_to_try_again(open_server: Running) -> None:
    """It takes any status but 200 for a failure and shows the body to the user."""
    answer = open_server.post("/rerank", {"query": QUERY, "texts": "no list"})
    assert answer.status_code == 422
    assert "texts: Input should be a valid list" in answer.text
