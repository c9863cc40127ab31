"""Let Milvus itself rerank: start milvus-rerank serve, and pass its address to a search as a model ranker.

pip install "milvus-rerank[lite,server]"
python model_ranker.py
python model_ranker.py --milvus http://localhost:19530 --endpoint http://rerank:8787

Without arguments it uses Milvus Lite and starts the server. Milvus Lite has one of the providers, cohere, and sends
all documents at once; a Milvus server of 2.6 or later has all of them. It calls the endpoint itself, so the address
must be one that Milvus reaches. The collection model_ranker_example is made for the run, and dropped at its end.
"""

import argparse
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pymilvus import MilvusClient

from milvus_rerank import StaticEmbedder, as_ranker, load

TEXTS = {
    "babbage": "Babbage planned a general calculating machine driven by punched cards.",
    "lovelace": "Ada Lovelace published the first program, for Babbage's analytical engine.",
    "eniac": "Six women set up the cables and switches of ENIAC.",
    "compiler": "Grace Hopper wrote the first compiler, A-0, in 1952.",
}
COLLECTION = "model_ranker_example"
QUERY = "who published the first program"


@contextmanager
def rerank_server() -> Iterator[str]:
    """Run milvus-rerank serve on a free port, and yield its address once its model is loaded."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "milvus_rerank", "serve", "--port", str(port), "--device", "cpu"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as server:
        try:
            address = f"http://127.0.0.1:{port}"
            wait_until_ready(f"{address}/ready", server)
            yield address
        finally:
            server.terminate()


def wait_until_ready(url: str, server: subprocess.Popen, seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if server.poll() is not None:
            raise SystemExit('milvus-rerank serve has ended. Type: pip install "milvus-rerank[server]"')
        try:
            with urllib.request.urlopen(url, timeout=1):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.1)
    raise SystemExit(f"{url} did not answer in {seconds:g} seconds")


def fill(client: MilvusClient, embedder: StaticEmbedder) -> None:
    """Create a collection whose texts are in a VARCHAR field of the schema, which model rankers need."""
    from pymilvus import DataType

    schema = client.create_schema()
    schema.add_field("name", DataType.VARCHAR, is_primary=True, max_length=64)
    schema.add_field("text", DataType.VARCHAR, max_length=1000)
    schema.add_field("vector", DataType.FLOAT_VECTOR, dim=embedder.dim)
    index = client.prepare_index_params()
    index.add_index("vector", index_type="FLAT", metric_type="COSINE")
    client.drop_collection(COLLECTION)
    client.create_collection(COLLECTION, schema=schema, index_params=index, consistency_level="Strong")
    vectors = embedder.encode_documents(list(TEXTS.values())).tolist()
    rows = zip(TEXTS.items(), vectors, strict=True)
    client.insert(COLLECTION, [{"name": name, "text": text, "vector": vector} for (name, text), vector in rows])


def search(uri: str, endpoint: str, milvus_lite: bool) -> None:
    """Print the hits of a search that Milvus reranks, and compare their scores with those of Python."""
    client, embedder = MilvusClient(uri), StaticEmbedder()
    fill(client, embedder)
    ranker = as_ranker(QUERY, endpoint, text_field="text", milvus_lite=milvus_lite)
    print(f"Milvus calls {endpoint} as the provider {ranker.params['provider']!r}:")
    [hits] = client.search(
        COLLECTION,
        data=embedder.encode_queries([QUERY]).tolist(),
        anns_field="vector",
        limit=len(TEXTS),
        output_fields=["text"],
        ranker=ranker,
    )
    for hit in hits[:2]:
        print(f"  {hit['distance']:.2f}  {hit['name']}")
    scores = load("builtin/rerank", device="cpu").score(QUERY, [hit["entity"]["text"] for hit in hits])
    difference = max(abs(hit["distance"] - score) for hit, score in zip(hits, scores, strict=True))
    print(f"largest difference from the scores in Python: {difference:.0e}")
    client.drop_collection(COLLECTION)
    client.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--milvus", help="a Milvus server; without it, Milvus Lite")
    parser.add_argument("--endpoint", help="milvus-rerank serve, as Milvus reaches it")
    arguments = parser.parse_args()
    if arguments.milvus:
        if not arguments.endpoint:
            parser.error("a Milvus server needs --endpoint, the address of milvus-rerank serve as Milvus reaches it")
        search(arguments.milvus, arguments.endpoint, milvus_lite=False)
        return
    with rerank_server() as address:
        search(str(Path(tempfile.mkdtemp()) / "ranker.db"), address, milvus_lite=True)
    print("Milvus Lite has this provider alone; the others need a Milvus server: see --help")


if __name__ == "__main__":
    main()
