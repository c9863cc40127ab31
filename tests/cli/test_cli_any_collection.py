"""`milvus-rerank search` over collections of other programs, and what reaches the server."""

import base64
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc  # type: ignore[import-untyped]
import pytest
from commands import Cli
from pymilvus import DataType, Function, FunctionType
from pymilvus.grpc_gen.milvus_pb2 import ConnectResponse
from tiny_embedder import passage_texts

from milvus_rerank.embedding import StaticEmbedder
from milvus_rerank.indexing import open_client

pytestmark = pytest.mark.needs("milvus_lite")


@pytest.fixture
def foreign(cli: Cli, embedder: Path, tmp_path: Path) -> Cli:
    """The command line, and ./milvus.db with collections of other names than those of `index`."""
    texts, model = passage_texts(), StaticEmbedder(str(embedder))
    with open_client(str(tmp_path / "milvus.db")) as client:
        for name, dense in (("dense", True), ("words", False)):
            schema = client.create_schema(auto_id=True)
            params = client.prepare_index_params()
            schema.add_field("pk", DataType.INT64, is_primary=True)
            schema.add_field("body", DataType.VARCHAR, max_length=500, enable_analyzer=True)
            schema.add_field("year", DataType.INT64)
            if dense:
                schema.add_field("emb", DataType.FLOAT_VECTOR, dim=model.dim)
                params.add_index("emb", index_type="AUTOINDEX", metric_type="L2")
            else:
                schema.add_field("bm25", DataType.SPARSE_FLOAT_VECTOR)
                schema.add_function(Function("f", FunctionType.BM25, ["body"], ["bm25"]))
                params.add_index("bm25", index_type="SPARSE_INVERTED_INDEX", metric_type="BM25")
            client.create_collection(name, schema=schema, index_params=params)
            rows: list[dict[str, Any]] = [{"body": text, "year": 1900 + row} for row, text in enumerate(texts)]
            vectors = model.encode_documents(texts).tolist()
            client.insert(
                name, [{**row, "emb": vector} if dense else row for row, vector in zip(rows, vectors, strict=True)]
            )
    return cli


def test_a_collection_of_another_program_is_searched_with_the_embedder_that_is_named(
    foreign: Cli, embedder: Path
) -> None:
    arguments = ("--collection", "dense", "--reranker", "lexical", "--json")
    code, out, err = foreign("search", "people on the moon", *arguments, "--embedder", embedder)
    assert (code, err) == (0, "")
    answer = json.loads(out)
    assert (answer["mode"], answer["results"][0]["text"]) == ("dense", " people walked on the moon")
    assert sorted(answer["results"][0]["entity"]) == ["body", "pk", "year"]
    code, out, err = foreign("search", "moon", *arguments)
    assert (code, out) == (1, "")
    assert "does not say which embedder made its vectors ('emb' has " in err
    assert "--embedder" in err
    code, out, err = foreign("search", "moon", *arguments, "--embedder", "builtin/embed")
    assert (code, out) == (1, "")
    assert "dimensions, but the embedder 'builtin/embed' makes 256" in err


def test_a_collection_with_bm25_alone_is_searched_without_an_embedder(foreign: Cli) -> None:
    code, out, err = foreign("search", "moon", "--collection", "words", "--reranker", "lexical", "--json")
    assert (code, err) == (0, "")
    answer = json.loads(out)
    assert (answer["mode"], answer["results"][0]["text"]) == ("bm25", " people walked on the moon")


class Server(grpc.GenericRpcHandler):  # type: ignore[misc]
    """Note what each call carries, accept connections, and implement nothing else."""

    def __init__(self) -> None:
        self.metadata: list[dict[str, Any]] = []

    def service(self, details: Any) -> Any:
        self.metadata.append({pair.key: pair.value for pair in details.invocation_metadata})
        answer = ConnectResponse().SerializeToString()
        return grpc.unary_unary_rpc_method_handler(lambda *_: answer) if details.method.endswith("/Connect") else None


@pytest.fixture
def server() -> Iterator[tuple[Server, str]]:
    handler, server = Server(), grpc.server(ThreadPoolExecutor(1))
    server.add_generic_rpc_handlers([handler])
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield handler, f"http://127.0.0.1:{port}"
    server.stop(None).wait()


def test_the_token_and_the_database_reach_the_server(cli: Cli, server: tuple[Server, str], tmp_path: Path) -> None:
    handler, uri = server
    (tmp_path / "a.csv").write_text("id,text\n1,x\n", "utf-8")
    expected = {"authorization": base64.b64encode(b"me:secret").decode(), "dbname": "books"}
    for command in (("search", "moon"), ("index", "a.csv")):
        handler.metadata.clear()
        code, _, err = cli(*command, "--uri", uri, "--token", "me:secret", "--db-name", "books", "--timeout", 2)
        assert code == 1
        assert "secret" not in err
        assert any(expected.items() <= metadata.items() for metadata in handler.metadata)
