"""The ranker with which Milvus calls the server."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from serving import Running, serving

from milvus_rerank import CrossEncoderRerankFunction, as_ranker
from milvus_rerank.errors import InputError
from milvus_rerank.search.model_ranker import PATHS, PROVIDERS, Provider

QUERY = "who was the first programmer"
TEXTS = ["Babbage designed an engine.", "Ada Lovelace wrote a program.", "Rivers flow to the sea.", "Bread is baked."]
HOST = "http://rerank:8787"


@pytest.fixture(scope="module", params=[(), (b"secret",)], ids=["open", "with a key"])
def server(reranker: CrossEncoderRerankFunction, request: pytest.FixtureRequest) -> Iterator[Running]:
    with serving({"builtin/rerank": lambda: reranker}, keys=request.param) as running:
        running.key = "secret" if request.param else None  # type: ignore[attr-defined]
        yield running


@pytest.fixture
def client(tmp_path: Path) -> Iterator[Any]:
    pytest.importorskip("milvus_lite")
    from pymilvus import DataType, MilvusClient

    client = MilvusClient(str(tmp_path / "x.db"))
    schema = client.create_schema()
    schema.add_field("pk", DataType.INT64, is_primary=True)
    schema.add_field("body", DataType.VARCHAR, max_length=200)
    schema.add_field("vector", DataType.FLOAT_VECTOR, dim=2)
    index = client.prepare_index_params()
    index.add_index("vector", index_type="FLAT", metric_type="COSINE")
    client.create_collection("docs", schema=schema, index_params=index)
    client.insert("docs", [{"pk": n, "body": text, "vector": [1.0, n / 10]} for n, text in enumerate(TEXTS)])
    client.load_collection("docs")
    yield client
    client.close()


def test_milvus_lite_reranks_with_the_server_in_the_order_and_with_the_scores_of_python(
    client: Any, server: Any, reranker: CrossEncoderRerankFunction, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COHERE_API_KEY", "a key that this server must not see")
    ranker = as_ranker(QUERY, server.address, text_field="body", milvus_lite=True, api_key=server.key)
    options = {"data": [[1.0, 0.0]], "anns_field": "vector", "limit": len(TEXTS), "output_fields": ["body"]}
    [found] = client.search("docs", ranker=ranker, **options)
    here = reranker.rerank_hits(QUERY, client.search("docs", **options), text_field="body")
    assert [hit.id for hit in found] == [result.id for result in here]
    assert [hit["distance"] for hit in found] == pytest.approx([result.score for result in here], abs=1e-5)
    assert found[0]["entity"]["body"] == "Ada Lovelace wrote a program."


def test_milvus_lite_reranks_each_query_vector_with_its_own_query(
    client: Any, server: Any, reranker: CrossEncoderRerankFunction
) -> None:
    queries = [QUERY, "where do rivers flow"]
    ranker = as_ranker(queries, server.address + "/", text_field="body", milvus_lite=True, api_key=server.key)
    options = {"data": [[1.0, 0.0], [0.0, 1.0]], "anns_field": "vector", "limit": 4}
    expected = [[result.index for result in reranker(query, TEXTS)] for query in queries]
    assert [[hit.id for hit in hits] for hits in client.search("docs", ranker=ranker, **options)] == expected
    assert [ids[0] for ids in expected] == [1, 2]


def test_a_key_of_milvus_lite_stays_out_of_the_parameters_if_the_server_needs_none() -> None:
    params = as_ranker(QUERY, HOST, milvus_lite=True).params
    assert params["api_key"] == "none"
    assert params["base_url"] == "http://rerank:8787/v2"
    assert as_ranker(QUERY, HOST, milvus_lite=True, model_name="m").params["model_name"] == "m"


@pytest.mark.parametrize("provider", ["tei", "vllm"])
def test_a_provider_with_an_endpoint_gets_exactly_what_milvus_reads(provider: Provider) -> None:
    from pymilvus import FunctionType

    ranker = as_ranker(("a", "b"), f"{HOST}/rerank", provider=provider, credential="mine", max_client_batch_size=64)
    assert (ranker.type, ranker.input_field_names, ranker.output_field_names) == (FunctionType.RERANK, ["text"], [])
    assert ranker.params == {
        "reranker": "model",
        "provider": provider,
        "queries": ["a", "b"],
        "max_client_batch_size": 64,
        "credential": "mine",
        "endpoint": HOST,
    }
    assert ranker.name == "milvus_rerank"


@pytest.mark.parametrize("provider", sorted({*PROVIDERS} - {"tei", "vllm"}))
def test_a_provider_of_milvus_yaml_gets_a_model_name_and_says_what_to_write_there(provider: Provider) -> None:
    params = as_ranker(QUERY, provider=provider, model_name="builtin/rerank", text_field="body").params
    assert params == {
        "reranker": "model",
        "provider": provider,
        "queries": [QUERY],
        "max_client_batch_size": 128,
        "model_name": "builtin/rerank",
    }
    with pytest.raises(InputError, match="needs a model's name; pass model_name="):
        as_ranker(QUERY, provider=provider)
    with pytest.raises(InputError) as caught:
        as_ranker(QUERY, f"{HOST}/", provider=provider, model_name="m")
    assert str(caught.value).endswith(f"function.rerank.model.providers.{provider}.url: {HOST}{PATHS[provider]}")


@pytest.mark.parametrize("provider", PROVIDERS)
def test_the_path_of_each_provider_is_a_route_of_the_server(server: Any, provider: Provider) -> None:
    path = PATHS[provider] or "/hf-inference/models/builtin/rerank/pipeline/sentence-similarity"
    body: dict[str, Any] = {"query": QUERY, "texts" if provider == "tei" else "documents": TEXTS}
    if provider == "ali":
        body = {"input": body}
    elif provider == "huggingface":
        body = {"inputs": {"source_sentence": QUERY, "sentences": TEXTS}}
    headers = {"authorization": f"Bearer {server.key}"} if server.key else {}
    answer = server.post(path, body, headers=headers)
    assert answer.status_code == 200, answer.text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"provider": "sglang"}, "provider must be one of 'tei', 'vllm', 'cohere', .*, got 'sglang'"),
        ({"provider": "tei", "endpoint": None}, "provider 'tei' needs endpoint, the address of milvus-rerank serve"),
        ({"endpoint": ""}, "provider 'vllm' needs endpoint"),
        ({"endpoint": "rerank:8787"}, "endpoint must be an address such as 'http://rerank:8787', got 'rerank:8787'"),
        ({"endpoint": "http://h:port"}, "endpoint must be an address"),
        ({"endpoint": 8787}, "got int: 8787"),
        ({"endpoint": f"{HOST}/prefix"}, "scheme, host and port alone.*Milvus adds the path of the route, '/rerank'"),
        ({"endpoint": f"{HOST}?a=b"}, "scheme, host and port alone"),
        ({"endpoint": "http://me:secret@rerank:8787"}, "must not hold a user or password; use the server's key$"),
        ({"model_name": "m"}, "'vllm' sends no model's name, got model_name='m'; leave it out"),
        ({"model_name": " "}, "model_name must be a string that is not empty, got str: ' '"),
        ({"credential": ""}, "credential must be a string that is not empty"),
        ({"api_key": "secret"}, "api_key is for Milvus Lite alone.*pass credential='NAME', or milvus_lite=True"),
        ({"milvus_lite": True, "provider": "tei"}, "has the provider 'cohere' alone, got 'tei'; leave out provider"),
        ({"milvus_lite": True, "credential": "mine"}, "Milvus Lite reads no milvus.yaml.*pass the key itself"),
        ({"milvus_lite": True, "endpoint": None}, "provider 'cohere' needs endpoint"),
        ({"text_field": ""}, "text_field must be the name of one VARCHAR field, such as 'text', got str: ''"),
        ({"text_field": ["title", "text"]}, "rankers read one field. To join several: TwoStageSearch"),
        ({"text_field": "{title}: {text}"}, "text_field must be the name of one VARCHAR field"),
        ({"queries": []}, "queries is empty; pass one query for each query vector of the search"),
        ({"queries": ["a", None]}, "query must be a string"),
        ({"max_client_batch_size": 0}, "max_client_batch_size must be a positive integer, got int: 0"),
        ({"name": ""}, "name must be a string that is not empty"),
    ],
)
def test_an_argument_that_milvus_would_refuse_or_ignore_says_what_to_pass(
    arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message) as caught:
        as_ranker(**{"queries": QUERY, "endpoint": HOST, **arguments})
    assert "secret" not in str(caught.value)


def test_an_address_keeps_its_scheme_and_its_brackets() -> None:
    assert as_ranker(QUERY, "https://rerank.example").params["endpoint"] == "https://rerank.example"
    assert as_ranker(QUERY, "http://[::1]:8787/").params["endpoint"] == "http://[::1]:8787"


def test_a_ranker_without_pymilvus_says_what_to_type() -> None:
    code = """
import sys
sys.modules["pymilvus"] = None
from milvus_rerank import as_ranker, errors
try:
    as_ranker("q", "http://h")
except errors.MissingDependencyError as error:
    print(error)
"""
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout == (
        "a Milvus ranker needs the package 'pymilvus', which is not installed. Type: pip install milvus-rerank\n"
    )
