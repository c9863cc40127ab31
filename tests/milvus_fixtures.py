"""Real Milvus for the tests: the embedded one, a server of it, and a small collection with known distances.

Document ``i`` has the vector at ``10 * i`` degrees; a query finds it at the cosine of the angle between them.
"""

import math
import socket
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from pymilvus import Collection, DataType, Function, FunctionType, MilvusClient, connections
from pymilvus.decorators import PyMilvusDeprecationWarning

TEXTS = [
    "the weather in paris is mild",
    "a vector database stores vectors",
    "milvus is a vector database",
    "bread is baked in an oven",
    "an index makes milvus search quick",
    "milvus builds an index over vectors",
    "rivers flow to the sea",
    "search results are ranked by distance",
    "a cross encoder reranks search results",
]
DIM = 4
MILVUS_INDEX = "milvus index"  # at 0 degrees: the first stage finds d0, d1, d2...; both words are in d4 and d5
SEARCH_RESULTS = "search results"  # at 80 degrees: it finds d8, d7, d6...; both words are in d7 and d8
ANGLES = {MILVUS_INDEX: 0, SEARCH_RESULTS: 80}


def vector(degrees: float) -> list[float]:
    """Return the unit vector at an angle."""
    return [math.cos(math.radians(degrees)), math.sin(math.radians(degrees)), 0.0, 0.0]


def embed(queries: Sequence[str]) -> list[list[float]]:
    """Return the vectors of the known queries."""
    return [vector(ANGLES[query]) for query in queries]


def cosine(number: int, query: str = MILVUS_INDEX) -> float:
    """Return the distance at which Milvus finds a document."""
    return math.cos(math.radians(10 * number - ANGLES[query]))


def document(number: int) -> dict[str, Any]:
    """Return one row; its key is ``pk``, its field ``id`` is no key, and ``tag`` is a dynamic field."""
    return {
        "pk": f"d{number}",
        "id": 1000 + number,
        "text": TEXTS[number],
        "note": None if number % 2 else f"note {number}",
        "year": 2015 + number,
        "meta": {"odd": bool(number % 2)},
        "labels": [f"l{number}"],
        "dense": vector(10 * number),
        "tag": f"t{number}",
    }


def make_docs(client: MilvusClient, name: str = "docs", *, full_text: bool = True) -> None:
    """Create, fill and load the collection; d6, d7 and d8 are in the partition ``late``.

    :param full_text: with a BM25 field ``sparse``, which servers before 2.5 do not know.
    """
    schema = client.create_schema(auto_id=False, enable_dynamic_field=True)
    schema.add_field("pk", DataType.VARCHAR, is_primary=True, max_length=64)
    schema.add_field("id", DataType.INT64)
    schema.add_field("text", DataType.VARCHAR, max_length=1000, **({"enable_analyzer": True} if full_text else {}))
    if full_text:  # nullable fields came with 2.5, too
        schema.add_field("note", DataType.VARCHAR, max_length=1000, nullable=True)
    schema.add_field("year", DataType.INT64)
    schema.add_field("meta", DataType.JSON)
    schema.add_field("labels", DataType.ARRAY, element_type=DataType.VARCHAR, max_capacity=4, max_length=16)
    schema.add_field("dense", DataType.FLOAT_VECTOR, dim=DIM)
    indexes = client.prepare_index_params()
    indexes.add_index("dense", index_type="FLAT", metric_type="COSINE")
    if full_text:
        schema.add_field("sparse", DataType.SPARSE_FLOAT_VECTOR)
        schema.add_function(Function("bm25", FunctionType.BM25, ["text"], ["sparse"]))
        indexes.add_index("sparse", index_type="SPARSE_INVERTED_INDEX", metric_type="BM25")
    client.create_collection(name, schema=schema, index_params=indexes, consistency_level="Strong")
    client.create_partition(name, "late")
    rows = [document(number) for number in range(len(TEXTS))]
    for row in rows if not full_text else []:
        del row["note"]
    client.insert(name, rows[:6])
    client.insert(name, rows[6:], partition_name="late")


def make_plain(client: MilvusClient, name: str, rows: list[dict[str, Any]]) -> None:
    """Create a collection the short way, with an integer key ``id``, a field ``vector`` and dynamic fields."""
    client.create_collection(name, dimension=DIM, metric_type="COSINE", consistency_level="Strong")
    client.insert(name, rows)


@contextmanager
def lite_client(folder: Path) -> Iterator[MilvusClient]:
    """Open an embedded Milvus on the file ``lite.db`` of a folder."""
    pytest.importorskip("milvus_lite")
    client = MilvusClient(str(folder / "lite.db"))
    try:
        yield client
    finally:
        client.close()


@contextmanager
def orm_collection(uri: str, name: str) -> Iterator[Collection]:
    """Open a collection of the deprecated object API; calls on it warn, so tests filter that warning."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PyMilvusDeprecationWarning)
        connections.connect("orm", uri=uri)
        collection = Collection(name, using="orm")
    try:
        yield collection
    finally:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", PyMilvusDeprecationWarning)
            connections.remove_connection("orm")


@contextmanager
def lite_server(folder: Path, timeout: float = 30.0) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """Run ``milvus-lite server`` on a free port of 127.0.0.1; yields its URI and its process, ends it at last."""
    pytest.importorskip("milvus_lite")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [str(Path(sys.executable).with_name("milvus-lite")), "server", "--data-dir", str(folder)]
    command += ["--host", "127.0.0.1", "--port", str(port)]
    with (
        (folder / "server.log").open("wb") as log,
        subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT) as process,
    ):
        try:
            _wait_for(port, process, folder / "server.log", time.monotonic() + timeout)
            yield f"http://127.0.0.1:{port}", process
        finally:
            process.kill()  # its data is thrown away; a stopped (SIGSTOP) process dies, too


def _wait_for(port: int, process: "subprocess.Popen[bytes]", log: Path, deadline: float) -> None:
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        except OSError:
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"milvus-lite server did not start: {log.read_text()[-2000:]}") from None
            time.sleep(0.05)
