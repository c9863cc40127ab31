"""What the parts of this package cost and bring, each beside its absence: python benchmarks/parts.py.

Runs in the package's own environment and writes results/parts.json: padding of batches, the caches, and the time of a
call outside tokenizer and model. Runs alternate; figures are medians.
"""

import json
import statistics
import time
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path

from texts import Request, load_texts

from milvus_rerank import BatchOptions, CrossEncoderRerankFunction
from milvus_rerank.engines import ConstantEngine
from milvus_rerank.scoring.batching import cut
from milvus_rerank.scoring.pair_encoder import PairEncoder

RESULTS = Path(__file__).parent / "results"
BUDGETS = (512, 1024, 2048, 4096, 8192)
TOP_K = 10


def alternate(runs: dict[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """Return the median milliseconds of each, all of them run once before."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    for number in range(repeats + 1):
        for name, run in runs.items():
            started = time.perf_counter()
            run()
            if number:
                times[name].append(1000 * (time.perf_counter() - started))
    return {name: round(statistics.median(seconds), 3) for name, seconds in times.items()}


def padding(encoder: PairEncoder, requests: Sequence[Request]) -> dict[str, float]:
    """Return the share of padding in all batches at each budget, when the requests come in one call."""
    lengths = []
    for request in requests:
        rows = encoder.rows([(request.query, document) for document in request.documents])
        lengths += map(encoder.length, rows)
    slots = {budget: sum(len(rows) * lengths[rows[0]] for rows in cut(lengths, budget)) for budget in BUDGETS}
    return {str(budget): round(1 - sum(lengths) / count, 4) for budget, count in slots.items()}


def overhead(request: Request) -> dict[str, float]:
    """Return the milliseconds of a call on 100 short documents, apart from the model, and those of the tokenizer."""
    plain = CrossEncoderRerankFunction(device="cpu", batching=BatchOptions(token_cache=0))
    cached = CrossEncoderRerankFunction(device="cpu")
    documents = list(request.documents)
    texts = [request.query, *documents]
    tokenizer = plain.scorer.encoder._fast  # the Rust tokenizer alone
    for function in (plain, cached):
        function.scorer.engine = ConstantEngine(0.5)
    runs = {
        "tokenizer": lambda: tokenizer.encode_batch_fast(texts, add_special_tokens=False),
        "call": lambda: plain(request.query, documents, TOP_K),
        "call, token ids remembered": lambda: cached(request.query, documents, TOP_K),
    }
    times = alternate(runs, 100)
    return {**times, "outside tokenizer and model": round(times["call"] - times["tokenizer"], 3)}


def caches(request: Request) -> dict[str, float]:
    """Return the milliseconds of a call whose pairs are all remembered."""
    function = CrossEncoderRerankFunction(device="cpu", score_cache=1000)
    documents = list(request.documents)
    return alternate({"call, scores remembered": lambda: function(request.query, documents, TOP_K)}, 20)


def main() -> None:
    """Measure, print and save."""
    texts = load_texts(50)
    encoder = CrossEncoderRerankFunction(device="cpu").scorer.encoder
    short = texts.short(100, 0)
    result = {
        "command": "python benchmarks/parts.py",
        "texts": texts.source,
        "versions": {name: version(name) for name in ("milvus-rerank", "openvino", "tokenizers")},
        "padding": {
            "20 documents": padding(encoder, [Request(texts.requests[0].query, texts.requests[0].documents[:20])]),
            "100 documents": padding(encoder, texts.requests[:1]),
            "100 short documents": padding(encoder, [short]),
            "50 queries x 100 documents": padding(encoder, texts.requests),
        },
        "milliseconds of 100 short documents": {**overhead(short), **caches(short)},
    }
    (RESULTS / "parts.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
