"""Compare the choice of ``tune`` with the best of its full grid, on queries that chose nothing.

Usage: python benchmarks/tune.py FOLDER_OF_A_BEIR_COLLECTION [TARGET ...]
"""

import json
import platform
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from milvus_rerank import StaticEmbedder
from milvus_rerank.evaluation import JudgedQueries, evaluate, load_judged
from milvus_rerank.evaluation.tuning import TuneOptions, make_variants, read_target, tune
from milvus_rerank.evaluation.tuning.choose import divide
from milvus_rerank.evaluation.tuning.scored import Scored, quality
from milvus_rerank.evaluation.tuning.settings import Variant, make_settings
from milvus_rerank.indexing import describe, index_passages, open_client, open_search

RESULTS = Path(__file__).parent / "results" / "tune.json"
OPTIONS = TuneOptions(candidates=(10, 20, 30, 50))
VARIANTS = ["lexical", *make_variants(["builtin/rerank"], dtypes=["auto"], max_lengths=[None, 256, 192, 128, 64])]


def full_grid(search: Any, judged: JudgedQueries, variants: list[Variant], seed: int) -> dict[str, float]:
    """Return the nDCG of each setting of the full grid on the held-out queries."""
    relevant = {name: grades for name, grades in judged.judgments.items() if max(grades.values(), default=0) > 0}
    _, names = divide([name for name in judged.queries if name in relevant], seed)
    queries = JudgedQueries(judged.name, {name: judged.queries[name] for name in names}, relevant)
    scored: dict[Variant, Scored] = {}
    for variant in variants:
        report = evaluate(search, queries, rerankers={"reranked": variant.load()}, candidates=OPTIONS.candidates[-1])
        scored[variant] = Scored()
        scored[variant].add(*report.systems)
    settings = make_settings(variants, frozenset(variants), OPTIONS.candidates, OPTIONS.k)
    return {f"{item} of {item.candidates}": quality(item, scored, relevant, names, OPTIONS.k) for item in settings}


def main() -> None:
    """Tune, score the full grid, and write both."""
    folder, target = Path(sys.argv[1]), read_target(sys.argv[2:])
    judged = load_judged(folder)
    variants = [item if isinstance(item, Variant) else Variant(item) for item in VARIANTS]
    with tempfile.TemporaryDirectory() as place, open_client(str(Path(place) / "tune.db")) as client:
        embedder = StaticEmbedder()
        index_passages(client, judged.name, judged.passages, embedder)
        search = open_search(client, describe(client, judged.name), embedder=embedder)
        began = time.perf_counter()
        report = tune(search, judged, variants, target, OPTIONS)
        seconds = time.perf_counter() - began
        asked = JudgedQueries(judged.name, judged.queries, judged.judgments)
        grid = full_grid(search, asked, variants, OPTIONS.seed)
    best = max(grid, key=grid.__getitem__)
    result = {
        "machine": f"{platform.machine()}, {platform.system()}, Python {platform.python_version()}",
        "collection": judged.name,
        "seconds": round(seconds, 1),
        "best_of_full_grid": {"name": best, "ndcg": grid[best]},
        "below_best": grid[best] - report.chosen.ndcg,
        "share_of_grid": report.pairs / report.grid_pairs,
        "report": report.to_dict(),
        "full_grid": grid,
    }
    RESULTS.write_text(json.dumps(result, indent=2) + "\n", "utf-8")
    print(json.dumps({key: result[key] for key in ("seconds", "best_of_full_grid", "below_best", "share_of_grid")}))


if __name__ == "__main__":
    main()
