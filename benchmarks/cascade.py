"""What a cascade brings and costs: python benchmarks/cascade.py [--queries N] [--strong N] [--only REGEX].

Runs in the package's own environment, with torch for the larger model. Every row reranks the same 100 candidates of
each query and returns 10; rows take turns query by query, so that a slow minute hits all. Writes results/cascade.json.
"""

import argparse
import json
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path
from statistics import mean, median
from typing import Any

import numpy as np
from machine import machine
from models import MODELS, random_base, write_tokenizer
from texts import Request, Texts, load_texts, other_requests

from milvus_rerank import BatchOptions, CascadeRerankFunction, CrossEncoderRerankFunction, RerankResult
from milvus_rerank.evaluation import ndcg
from milvus_rerank.models import model_folder
from milvus_rerank.models.files import read_config

RESULTS = Path(__file__).resolve().parent / "results"
KEEP = 30
TOP_K = 10
ALONE = "builtin/rerank"
STRONG = "base12"

Rank = Callable[[str, Sequence[str]], list[RerankResult]]


def model(name: str, dtype: str = "float32") -> CrossEncoderRerankFunction:
    """A cross-encoder that remembers no tokens: rows see the same texts, and the first would work for the others."""
    return CrossEncoderRerankFunction(name, device="cpu", dtype=dtype, batching=BatchOptions(token_cache=0))


def calls(reranker: Any, first: int | None = None) -> Rank:
    """Rerank all documents, or the first ones alone."""
    return lambda query, documents: reranker(query, documents[:first], TOP_K)


def int8_folder(requests: Sequence[Request]) -> Path:
    """Export builtin/rerank in int8, checked on queries that are not timed."""
    folder = MODELS / "cascade-int8"
    if not (folder / "fidelity.json").exists():
        texts = MODELS / "cascade-texts.jsonl"
        lines = (json.dumps({"query": item.query, "documents": item.documents[:50]}) for item in requests)
        MODELS.mkdir(exist_ok=True)
        texts.write_text("\n".join(lines) + "\n", "utf-8")
        program = str(Path(sys.executable).with_name("milvus-rerank"))
        arguments = ["export", ALONE, str(folder), "--dtype", "int8", "--texts", str(texts), "--force"]
        subprocess.run([program, *arguments], check=True)
    return folder


def base12_folder() -> Path:
    """Write a model of BERT base's shape with random weights: 12 layers, 768 wide."""
    folder = MODELS / "cascade-base12"
    builtin = model_folder(ALONE)
    assert builtin is not None
    if not (folder / "tokenizer.json").exists():
        random_base(read_config(builtin)["vocab_size"]).eval().save_pretrained(folder)
        write_tokenizer(builtin, folder)
    return folder


def trained_rows(small: CrossEncoderRerankFunction, texts: Texts) -> dict[str, Rank]:
    """builtin/rerank alone, and behind cheaper stages."""
    int8 = model(str(int8_folder(other_requests(texts, 40))), "int8")
    return {
        ALONE: calls(small),
        f"{ALONE} on the first {KEEP}": calls(small, KEEP),
        f"lexical {KEEP}, {ALONE}": calls(CascadeRerankFunction([("lexical", KEEP), (small, None)])),
        f"{ALONE} in int8": calls(int8),
        f"{ALONE} in int8 {KEEP}, {ALONE}": calls(CascadeRerankFunction([(int8, KEEP), (small, None)])),
    }


def strong_rows(small: CrossEncoderRerankFunction) -> dict[str, Rank]:
    """The larger model alone, and behind cheaper stages; its weights are random, so only its time means something."""
    strong = model(str(base12_folder()))
    return {
        STRONG: calls(strong),
        f"lexical {KEEP}, {STRONG}": calls(CascadeRerankFunction([("lexical", KEEP), (strong, None)])),
        f"{ALONE} {KEEP}, {STRONG}": calls(CascadeRerankFunction([(small, KEEP), (strong, None)])),
        f"{ALONE} {TOP_K}, {STRONG}": calls(CascadeRerankFunction([(small, TOP_K), (strong, None)])),
    }


def by_turns(
    rows: Mapping[str, Rank], requests: Sequence[Request]
) -> tuple[dict[str, list[float]], dict[str, dict[str, list[str]]]]:
    """Return seconds and the ids of the best documents, of each row for each request."""
    seconds: dict[str, list[float]] = {name: [] for name in rows}
    rankings: dict[str, dict[str, list[str]]] = {name: {} for name in rows}
    names = list(rows)
    for rank in rows.values():
        rank(requests[0].query, list(requests[0].documents[:20]))  # warms it
    for number, request in enumerate(requests):
        turn = number % len(names)
        for name in names[turn:] + names[:turn]:
            began = time.perf_counter()
            results = rows[name](request.query, list(request.documents))
            seconds[name].append(time.perf_counter() - began)
            rankings[name][request.key] = [request.ids[result.index] for result in results]
        print(
            f"{number + 1} of {len(requests)}:",
            {name: round(times[-1], 2) for name, times in seconds.items()},
            flush=True,
        )
    return seconds, rankings


def times(seconds: Mapping[str, Sequence[float]], baseline: str) -> dict[str, dict[str, Any]]:
    """Return medians over the queries, and how many times faster than the baseline on the same query."""
    ratios = {
        name: [alone / time for alone, time in zip(seconds[baseline], times, strict=True)]
        for name, times in seconds.items()
    }
    return {
        name: {
            "seconds_per_query": round(median(times), 3),
            "times_faster": round(median(ratios[name]), 3),
            "times_faster_from_to": [round(min(ratios[name]), 3), round(max(ratios[name]), 3)],
        }
        for name, times in seconds.items()
    }


def trained(rows: Mapping[str, Rank], texts: Texts) -> dict[str, Any]:
    """Quality and time."""
    seconds, rankings = by_turns(rows, texts.requests)
    keys = [request.key for request in texts.requests]
    judgments = {key: texts.judgments[key] for key in keys}
    first = {request.key: list(request.ids[:TOP_K]) for request in texts.requests}
    quality = {name: ndcg(run, judgments, TOP_K) for name, run in {"first stage": first, **rankings}.items()}
    shared = {
        name: mean(len(set(run[key]) & set(rankings[ALONE][key])) for key in keys) for name, run in rankings.items()
    }
    figures = times(seconds, ALONE)
    baselines = ("first stage", ALONE, f"{ALONE} on the first {KEEP}")
    return {
        "queries": len(keys),
        "first_stage_ndcg10": round(mean(quality["first stage"].values()), 4),
        "rows": {
            name: {
                **row,
                "ndcg10": round(mean(quality[name].values()), 4),
                "ndcg10_change_from_to": {
                    other: change(quality[name], quality[other]) for other in baselines if other != name
                },
                "top10_shared_with_alone": round(shared[name], 2),
            }
            for name, row in figures.items()
        },
    }


def change(run: Mapping[str, float], other: Mapping[str, float]) -> list[float]:
    """Return the mean difference over the queries, and the 95% interval of it by 10 000 seeded bootstrap samples."""
    differences = np.array([run[key] - other[key] for key in run])
    samples = np.random.default_rng(0).choice(differences, (10_000, len(differences))).mean(axis=1)
    return [round(float(value), 4) for value in (differences.mean(), *np.percentile(samples, (2.5, 97.5)))]


def strong(rows: Mapping[str, Rank], requests: Sequence[Request]) -> dict[str, Any]:
    """Time alone."""
    seconds, _ = by_turns(rows, requests)
    return {
        "weights": "random: only times mean something",
        "queries": len(requests),
        "rows": times(seconds, STRONG),
    }


def main() -> None:
    """Measure, save, print."""
    parser = argparse.ArgumentParser(prog="python benchmarks/cascade.py", description=__doc__)
    parser.add_argument("--queries", type=int, default=50, help="how many queries the trained models rerank")
    parser.add_argument("--strong", type=int, default=6, help="how many the larger model reranks")
    parser.add_argument("--only", default="", help="a regular expression on parts' names; the others stay as they are")
    parser.add_argument("--output", type=Path, default=RESULTS / "cascade.json")
    args = parser.parse_args()
    command = shlex.join(["python", "benchmarks/cascade.py", *sys.argv[1:]])
    texts = load_texts(args.queries)
    small = model(ALONE)
    kept = json.loads(args.output.read_text("utf-8")) if args.only and args.output.exists() else {}
    result: dict[str, Any] = kept or {
        "date": datetime.now(timezone.utc).date().isoformat(),
        "command": command,
        "machine": machine(),
        "texts": texts.source,
        "documents": len(texts.requests[0].documents),
        "top_k": TOP_K,
        "keep": KEEP,
        "reranker": repr(small),
        "dtype_auto": CrossEncoderRerankFunction(ALONE, device="cpu", dtype="auto").scorer.engine.dtype,
        "versions": {name: version(name) for name in ("milvus-rerank", "openvino", "tokenizers", "nncf")},
    }

    def part(name: str, work: Callable[[], dict[str, Any]]) -> None:
        if re.search(args.only, name):
            result[name] = {**work(), **({"command": command} if args.only else {})}
            print(name, json.dumps(result[name], indent=1), flush=True)
            args.output.write_text(json.dumps(result, indent=1) + "\n", "utf-8")

    part("trained", lambda: trained(trained_rows(small, texts), texts))
    part("strong", lambda: strong(strong_rows(small), texts.requests[: args.strong]))
    print(f"written to {args.output}")


if __name__ == "__main__":
    main()
