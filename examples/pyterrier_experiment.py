"""PyTerrier: compare a search in an embedded Milvus with the same search reranked, on a judged collection.

pip install "milvus-rerank[lite]" pyterrier
"""

import json
import tempfile
from pathlib import Path

import pandas as pd
import pyterrier as pt
from pymilvus import MilvusClient

import milvus_rerank
from milvus_rerank import StaticEmbedder, load

FOLDER = Path(milvus_rerank.__file__).parent / "data" / "history"  # 300 passages, 60 queries; yours in BEIR's layout
embedder, reranker = StaticEmbedder(), load("builtin/rerank", device="cpu")


def read(name: str) -> list[dict[str, str]]:
    """Return the lines of a JSON-lines file."""
    return [json.loads(line) for line in (FOLDER / name).read_text("utf-8").splitlines()]


def fill(client: MilvusClient) -> None:
    """Create the collection of passages."""
    passages = read("corpus.jsonl")
    vectors = embedder.encode_documents([passage["text"] for passage in passages])
    client.create_collection("history", dimension=embedder.dim, id_type="string", max_length=64, metric_type="COSINE")
    rows = zip(passages, vectors, strict=True)
    client.insert("history", [{"id": row["_id"], "text": row["text"], "vector": vector} for row, vector in rows])


def retrieve(topics: pd.DataFrame) -> pd.DataFrame:
    """Search in Milvus for all topics at once."""
    vectors = list(embedder.encode_queries(topics["query"].tolist()))
    found = client.search("history", data=vectors, limit=30, output_fields=["text"])
    columns = ["qid", "query", "docno", "score", "rank", "text"]
    rows = [
        (topic.qid, topic.query, hit.id, hit.distance, rank, hit["text"])
        for topic, hits in zip(topics.itertuples(), found, strict=True)
        for rank, hit in enumerate(hits)
    ]
    return pd.DataFrame(rows, columns=columns)


def score(hits: pd.DataFrame) -> list[float]:
    """Return the reranker's score of each row."""
    return reranker.score_pairs(zip(hits["query"], hits["text"], strict=True))


client = MilvusClient(str(Path(tempfile.mkdtemp()) / "pyterrier.db"))
fill(client)
milvus = pt.apply.generic(retrieve)
reranked = milvus >> pt.apply.doc_score(score, batch_size=1000)

topics = pd.DataFrame(read("queries.jsonl")).rename(columns={"_id": "qid", "text": "query"})[["qid", "query"]]
qrels = pd.read_csv(FOLDER / "qrels" / "test.tsv", sep="\t", dtype={"query-id": str, "corpus-id": str})
qrels.columns = ["qid", "docno", "label"]
print(pt.Experiment([milvus, reranked], topics, qrels, ["ndcg_cut_10"], names=["milvus", "reranked"], round=3))
