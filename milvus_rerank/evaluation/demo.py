"""The demo: index and search the shipped collection on Milvus Lite, before and after reranking."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import milvus_rerank
from milvus_rerank.evaluation.compare import compare
from milvus_rerank.evaluation.judged import JudgedCollection
from milvus_rerank.evaluation.report import ComparisonReport
from milvus_rerank.indexing import describe, index_passages, open_client, open_search
from milvus_rerank.indexing.embedders import Embedder
from milvus_rerank.inventory import installed_version
from milvus_rerank.reranker.base import BaseRerankFunction

DEMO_COLLECTION = "history"
_PACKAGES = (
    "milvus-rerank",
    "pymilvus",
    "milvus-lite",
    "openvino",
    "torch",
    "transformers",
    "model2vec",
    "ir-measures",
)


@dataclass(frozen=True, slots=True)
class DemoReport:
    """The results of the demo.

    :param comparison: the queries before and after reranking.
    :param embedder: the embedder's name.
    :param reranker: the reranker's name.
    :param passages: the number of indexed passages.
    :param index_seconds: the seconds that it took to embed and store the passages.
    :param search_seconds: the seconds that all queries took.
    """

    comparison: ComparisonReport
    embedder: str
    reranker: str
    passages: int
    index_seconds: float
    search_seconds: float

    def to_dict(self) -> dict[str, Any]:
        """Return the report as JSON-safe Python values, with the versions of the packages used."""
        return {
            **self.comparison.to_dict(),
            "embedder": self.embedder,
            "reranker": self.reranker,
            "passages": self.passages,
            "timings": {"index": self.index_seconds, "queries": self.search_seconds},
            "versions": {name: version for name in _PACKAGES if (version := installed_version(name))},
        }


def demo_folder() -> Path:
    """Return the folder of the shipped collection."""
    return Path(milvus_rerank.__file__).parent / "data" / DEMO_COLLECTION


def run_demo(
    judged: JudgedCollection,
    database: Path,
    embedder: Embedder,
    reranker: BaseRerankFunction,
    *,
    reranker_name: str,
    candidates: int = 50,
    progress: Callable[[str, int], object] = lambda stage, done: None,
    clock: Callable[[], float] = time.perf_counter,
) -> DemoReport:
    """Index a judged collection into a Milvus Lite file, then search it before and after reranking.

    Any judged collection works, not only the shipped collection: see :func:`~milvus_rerank.evaluation.load_judged`.

    :param judged: the collection.
    :param database: the Milvus Lite file; a file that already holds the collection is reused.
    :param embedder: the embedder of passages and queries.
    :param reranker: the second stage.
    :param reranker_name: the reranker's name in the report.
    :param candidates: the number of hits to rerank for each query.
    :param progress: called with ``index`` or ``search``, and the number of newly finished passages or queries.
    :param clock: returns seconds; tests pass a fake.
    :returns: the results.
    """
    started = clock()
    with open_client(str(database)) as client:
        index_passages(
            client, DEMO_COLLECTION, judged.passages, embedder, progress=lambda done: progress("index", done)
        )
        indexed = clock()
        search = open_search(client, describe(client, DEMO_COLLECTION), reranker=reranker, embedder=embedder)
        comparison = compare(search, judged, candidates=candidates, progress=lambda done: progress("search", done))
    return DemoReport(
        comparison, embedder.model_name, reranker_name, len(judged.passages), indexed - started, clock() - indexed
    )
