"""mteb: evaluate a reranker of this package on a reranking task, here one that reads no dataset of a hub.

pip install "milvus-rerank[eval]" mteb
"""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import mteb
import numpy as np
from datasets import Dataset
from mteb.abstasks import AbsTaskRetrieval
from mteb.abstasks.retrieval_dataset_loaders import RetrievalSplitData
from mteb.abstasks.task_metadata import TaskMetadata
from mteb.models import ModelMeta

import milvus_rerank
from milvus_rerank import StaticEmbedder, load
from milvus_rerank.reranker.base import BaseRerankFunction

FOLDER = Path(milvus_rerank.__file__).parent / "data" / "history"
CANDIDATES = 10


class MTEBReranker:
    """A reranker as mteb calls it: batches of queries, and batches of their documents."""

    def __init__(self, reranker: BaseRerankFunction, name: str, revision: str | None = None) -> None:
        self.reranker = reranker
        self.mteb_model_meta = ModelMeta.create_empty({"name": name, "revision": revision})

    def predict(
        self, inputs1: Iterable[Mapping[str, Any]], inputs2: Iterable[Mapping[str, Any]], **_: object
    ) -> np.ndarray:
        queries = [text for batch in inputs1 for text in batch["text"]]
        texts = [text for batch in inputs2 for text in batch["text"]]
        return np.array(self.reranker.score_pairs(zip(queries, texts, strict=True)))


def read(name: str) -> list[dict[str, str]]:
    """Return the lines of a JSON-lines file."""
    return [json.loads(line) for line in (FOLDER / name).read_text("utf-8").splitlines()]


class History(AbsTaskRetrieval):
    """The collection of this package, with the candidates of its embedder; yours comes from mteb.get_task."""

    metadata = TaskMetadata(
        name="History",
        description="Questions about the history of computing",
        dataset={"path": "history", "revision": "1"},
        type="Reranking",
        eval_splits=["test"],
        eval_langs=["eng-Latn"],
        main_score="ndcg_at_10",
    )

    def load_data(self, **_: object) -> None:
        """Read the files, and search with the embedder."""
        passages, queries = read("corpus.jsonl"), read("queries.jsonl")
        lines = [line.split("\t") for line in (FOLDER / "qrels" / "test.tsv").read_text("utf-8").splitlines()[1:]]
        embedder = StaticEmbedder()
        vectors = embedder.encode_documents([f"{row['title']} {row['text']}".strip() for row in passages])
        nearest = np.argsort(-embedder.encode_queries([query["text"] for query in queries]) @ vectors.T)
        split = RetrievalSplitData(
            corpus=Dataset.from_list(
                [{"id": row["_id"], "title": row["title"], "text": row["text"]} for row in passages]
            ),
            queries=Dataset.from_list([{"id": row["_id"], "text": row["text"]} for row in queries]),
            relevant_docs={
                query["_id"]: {document: int(grade) for name, document, grade in lines if name == query["_id"]}
                for query in queries
            },
            top_ranked={
                query["_id"]: [passages[index]["_id"] for index in row[:CANDIDATES]]
                for query, row in zip(queries, nearest, strict=True)
            },
        )
        self.dataset = {"default": {"test": split}}
        self.data_loaded = True


model = MTEBReranker(load("builtin/rerank", device="cpu"), "milvus-rerank/builtin-rerank", "1")
results = mteb.evaluate(model, History(), cache=None, show_progress_bar=False)
print(f"nDCG@10 {results.task_results[0].get_score():.3f}")
