"""Time this package against sentence-transformers on the same weights and pairs: python benchmarks/speed.py.

Runs alternate, medians are taken, and the ratio is that of the medians: machines are shared.
"""

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from sentence_transformers import CrossEncoder

from milvus_rerank import CrossEncoderRerankFunction
from milvus_rerank.evaluation import demo_folder, load_judged
from milvus_rerank.models import model_folder

RESULTS = Path(__file__).parent / "results"
BUDGETS = (256, 512, 1024, 2048, 4096, 8192, 16384)


def make_pairs(queries: int, documents: int) -> list[tuple[str, str]]:
    """Return pairs of mixed lengths: the demo's queries, and documents of one to eight of its passages."""
    judged = load_judged(demo_folder())
    texts = [passage.text for passage in judged.passages]
    generator = np.random.default_rng(0)

    def document() -> str:
        return " ".join(generator.choice(texts, size=generator.integers(1, 9), replace=False))

    return [(query, document()) for query in list(judged.queries.values())[:queries] for _ in range(documents)]


def alternate(runs: dict[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """Return the median seconds of each, all of them run once before."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    for run in runs.values():
        run()
    for _ in range(repeats):
        for name, run in runs.items():
            started = time.perf_counter()
            run()
            times[name].append(time.perf_counter() - started)
    return {name: statistics.median(own) for name, own in times.items()}


def main() -> None:
    """Measure, print and save."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--queries", type=int, default=4)
    parser.add_argument("--documents", type=int, default=25)
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    pairs = make_pairs(args.queries, args.documents)
    reference = CrossEncoder(str(model_folder("builtin/rerank")), device="cpu", model_kwargs={"dtype": "float32"})
    ours = {budget: CrossEncoderRerankFunction(device="cpu", max_batch_tokens=budget) for budget in BUDGETS}
    default = CrossEncoderRerankFunction(device="cpu").scorer.max_batch_tokens
    runs: dict[str, Callable[[], object]] = {
        "sentence-transformers": lambda: reference.predict(pairs, show_progress_bar=False)
    }
    for budget, reranker in ours.items():
        runs[f"milvus-rerank, {budget} tokens"] = lambda reranker=reranker: reranker.score_pairs(pairs)
    medians = alternate(runs, args.repeats)
    base = medians["sentence-transformers"]
    encoder = ours[default].scorer.encoder
    ids = {text: own for pair in pairs for text, own in zip(pair, encoder.tokenize(pair), strict=True)}
    lengths = [encoder.pair_length(ids[query], ids[document]) for query, document in pairs]
    expected = np.array(reference.predict(pairs, show_progress_bar=False))
    result = {
        "command": f"python benchmarks/speed.py --queries {args.queries} --documents {args.documents} "
        f"--repeats {args.repeats}",
        "model": "builtin/rerank, float32",
        "pairs": len(pairs),
        "tokens": {"mean": statistics.mean(lengths), "min": min(lengths), "max": max(lengths)},
        "threads": torch.get_num_threads(),
        "machine": platform.machine(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "versions": {
            name: version(name) for name in ("milvus-rerank", "sentence-transformers", "transformers", "torch")
        },
        "default_max_batch_tokens": default,
        "largest_difference": float(np.abs(np.array(ours[default].score_pairs(pairs)) - expected).max()),
        "seconds": medians,
        "times_sentence_transformers": {name: base / seconds for name, seconds in medians.items()},
    }
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "speed.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
