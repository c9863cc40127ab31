"""The error of probabilities before and after a calibration: python benchmarks/calibration.py FOLDER...

Runs in the package's own environment. A FOLDER is a judged collection in BEIR's layout. Writes its JSON into results/.
"""

import argparse
import json
import tempfile
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from milvus_rerank import CrossEncoderRerankFunction, StaticEmbedder
from milvus_rerank.evaluation import load_judged
from milvus_rerank.evaluation.calibrate import calibrate, label_hits
from milvus_rerank.indexing import describe, index_passages, load, open_client, open_search

RESULTS = Path(__file__).resolve().parent / "results" / "calibration.json"
CANDIDATES = 20


def main() -> None:
    """Measure each collection, save, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folders", nargs="+", type=Path)
    arguments = parser.parse_args()
    reranker, embedder = CrossEncoderRerankFunction("builtin/rerank", device="cpu"), StaticEmbedder()
    results: dict[str, Any] = {"date": datetime.now(timezone.utc).date().isoformat(), "candidates": CANDIDATES}
    for folder in arguments.folders:
        judged = load_judged(folder)
        with tempfile.TemporaryDirectory() as scratch, open_client(f"{scratch}/m.db") as client:
            index_passages(client, "collection", judged.passages, embedder)
            info = describe(client, "collection")
            load(client, info)
            labelled = label_hits(open_search(client, info, embedder=embedder), judged, CANDIDATES)
        report = calibrate(reranker, labelled)
        figures = report.to_dict()["figures"]
        results[folder.name] = {"method": report.calibration.method, **figures}
        print(folder.name, report.calibration.method, f"{report.ece_before:.4f} -> {report.ece_after:.4f}", flush=True)
    RESULTS.write_text(json.dumps(results, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()
