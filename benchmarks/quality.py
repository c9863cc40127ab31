"""Measure nDCG@10 of builtin/embed alone and with its candidates reranked by builtin/rerank, through Milvus Lite.

python benchmarks/quality.py FOLDER [FOLDER ...], each in BEIR's layout.
"""

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

from milvus_rerank import CrossEncoderRerankFunction, StaticEmbedder
from milvus_rerank.evaluation import DemoReport, load_judged, run_demo

RESULTS = Path(__file__).parent / "results"


def measure(folder: Path, candidates: int) -> DemoReport:
    """Index a collection, search it for every judged query, and rerank what comes back."""
    with tempfile.TemporaryDirectory() as scratch:
        return run_demo(
            load_judged(folder),
            Path(scratch) / "quality.db",
            StaticEmbedder(),
            CrossEncoderRerankFunction(device="cpu"),
            reranker_name="builtin/rerank",
            candidates=candidates,
        )


def figures(report: DemoReport) -> dict[str, Any]:
    """Return the figures of one collection."""
    comparison = report.comparison
    better, equal, worse = comparison.changes
    return {
        "passages": report.passages,
        "queries": len(comparison.queries),
        "candidates": comparison.candidates,
        "ndcg_before": round(comparison.ndcg_before, 4),
        "ndcg_after": round(comparison.ndcg_after, 4),
        "queries_better": better,
        "queries_equal": equal,
        "queries_worse": worse,
        "median_rerank_seconds": round(comparison.median_seconds["rerank"], 3),
    }


def main() -> None:
    """Measure each folder, print and save."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folders", type=Path, nargs="+")
    parser.add_argument("--candidates", type=int, default=50)
    args = parser.parse_args()
    path = RESULTS / "quality.json"
    result: dict[str, Any] = json.loads(path.read_text("utf-8")) if path.exists() else {"collections": {}}
    for folder in args.folders:
        report = measure(folder, args.candidates)
        result["collections"][folder.resolve().name] = figures(report)
        result["versions"] = report.to_dict()["versions"]
        path.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
        print(json.dumps({folder.resolve().name: figures(report)}))


if __name__ == "__main__":
    main()
