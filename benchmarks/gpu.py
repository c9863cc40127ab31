"""Pairs per second on a GPU beside sentence-transformers: python benchmarks/gpu.py [--pairs N] [--rounds N].

Runs in the package's own environment on a machine with CUDA. Models have the shapes of published ones and random
weights, so that their times mean something and their scores only show that all ways agree. Writes results/gpu.json.
"""

import argparse
import gzip
import json
import logging
import tempfile
import time
from collections.abc import Callable, Sequence
from datetime import datetime, timezone
from importlib.metadata import version
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
import transformers
from machine import machine

from milvus_rerank import BatchOptions, CrossEncoderRerankFunction
from milvus_rerank.engines import packed_encoder, torch_engine
from milvus_rerank.engines.layer_ops import LayerOps
from milvus_rerank.models.source import model_folder

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"  # on a CPU the script only shows that it runs
RESULTS = Path(__file__).resolve().parent / "results"
PUBLISHED = {"minilm-l6": 3817, "bge-v2-m3": 1569, "modernbert-base": 1418}
"""sentence-transformers, pairs/s on one H100 in bfloat16, other texts of at most 512 tokens (blog on ettin)."""

Pairs = Sequence[tuple[str, str]]
Run = Callable[[Pairs], Sequence[float]]


def make_model(name: str, folder: Path) -> Path:
    """Write a model of a published shape, with the tokenizer of builtin/rerank."""
    core = transformers.PreTrainedTokenizerFast(
        tokenizer_file=str(model_folder("builtin/rerank") / "tokenizer.json"),  # type: ignore[operator]
        model_max_length=512,
        model_input_names=["input_ids", "attention_mask"] + (["token_type_ids"] if name == "minilm-l6" else []),
        **{f"{role}_token": f"[{role.upper()}]" for role in ("pad", "unk", "cls", "sep", "mask")},
    )
    common = {"num_labels": 1, "pad_token_id": core.pad_token_id}
    torch.manual_seed(0)
    config: Any
    if name == "minilm-l6":
        sizes = {"hidden_size": 384, "num_hidden_layers": 6, "num_attention_heads": 12, "intermediate_size": 1536}
        config = transformers.BertConfig(vocab_size=30522, **sizes, **common)
        model = transformers.BertForSequenceClassification(config)
    elif name == "bge-v2-m3":
        sizes = {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16, "intermediate_size": 4096}
        config = transformers.XLMRobertaConfig(
            vocab_size=250002, max_position_embeddings=8194, type_vocab_size=1, **sizes, **common
        )
        model = transformers.XLMRobertaForSequenceClassification(config)
    else:
        tokens = {f"{role}_token_id": core.cls_token_id for role in ("bos", "cls", "eos", "sep")}
        config = transformers.ModernBertConfig(classifier_pooling="mean", **common, **tokens)
        model = transformers.ModernBertForSequenceClassification(config)
    with torch.no_grad():  # wider weights of the head: scores of random weights lie within half precision otherwise
        model.classifier.get_parameter("out_proj.weight" if name == "bge-v2-m3" else "weight").mul_(50)
    model.eval().save_pretrained(folder)
    core.save_pretrained(folder)
    return folder


def ways(folder: Path, budgets: Sequence[int]) -> dict[str, Run]:
    """Return what is compared: from pairs to scores. Names say batch size or token budget."""
    from sentence_transformers import CrossEncoder

    library = CrossEncoder(str(folder), device=DEVICE, model_kwargs={"dtype": torch.bfloat16})

    def predict(size: int) -> Run:
        return lambda pairs: library.predict(list(pairs), batch_size=size, show_progress_bar=False).tolist()

    def ours(tokens: int | None, pack: bool, dtype: str = "bfloat16", kernels: bool = True) -> Run:
        can_pack, pick_ops = torch_engine.can_pack, packed_encoder.pick_ops
        torch_engine.can_pack = can_pack if pack else lambda *_: False
        packed_encoder.pick_ops = pick_ops if kernels else lambda _: LayerOps()
        try:
            batching = BatchOptions(max_batch_tokens=tokens, token_cache=0)
            rerank = CrossEncoderRerankFunction(
                str(folder), device=DEVICE, engine="torch", dtype=dtype, batching=batching
            )
        finally:
            torch_engine.can_pack, packed_encoder.pick_ops = can_pack, pick_ops
        return rerank.score_pairs

    runs = {f"sentence-transformers, {size}": predict(size) for size in (128, 512)}
    runs["padded"] = ours(None, False)
    runs["packed"] = ours(None, True)
    runs |= {f"packed, {tokens} tokens": ours(tokens, True) for tokens in budgets}
    runs["packed, torch's operations"] = ours(None, True, kernels=False)
    runs["packed, float16"] = ours(None, True, "float16")
    return runs


def measure(runs: dict[str, Run], exact: Run, pairs: Pairs, rounds: int) -> dict[str, Any]:
    """Time the ways by turns, each round on other pairs; scores are compared with float32."""
    cuts = np.linspace(0, len(pairs), rounds + 1).astype(int)
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    sample = pairs[:1000]
    reference = np.array(exact(sample))
    agreement = {}
    for name, run in runs.items():
        scores = np.array(run(sample))
        ranks = [np.argsort(np.argsort(values)) for values in (reference, scores)]
        agreement[name] = {
            "largest_difference": float(f"{np.abs(scores - reference).max():.2e}"),
            "spearman": round(float(np.corrcoef(*ranks)[0, 1]), 5),
        }
    for start, end in pairwise(cuts):
        for name, run in runs.items():
            began = time.perf_counter()
            run(pairs[start:end])
            seconds[name].append((time.perf_counter() - began) / (end - start))
    hundred: dict[str, list[float]] = {name: [] for name in runs}
    for number in range(7):
        for name, run in runs.items():
            began = time.perf_counter()
            run(pairs[number * 100 : number * 100 + 100])
            hundred[name].append((time.perf_counter() - began) * 1000)
    return {
        "milliseconds_of_100_documents": {name: round(median(times), 1) for name, times in hundred.items()},
        "pairs_per_second": {name: round(1 / median(times)) for name, times in seconds.items()},
        "against_float32": agreement,
    }


def where_time_goes(folder: Path, pairs: Pairs) -> dict[str, float]:
    """Return the seconds of one call: all of it, the tokenizer, starting the engine, and the GPU alone."""
    rerank = CrossEncoderRerankFunction(
        str(folder), device=DEVICE, engine="torch", dtype="bfloat16", batching=BatchOptions(token_cache=0)
    )
    rerank.score_pairs(pairs[:200])
    scorer: Any = rerank.scorer
    spent = {"prepare": 0.0, "batch": 0.0, "engine": 0.0}

    def timed(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def run(*args: Any, **options: Any) -> Any:
            began = time.perf_counter()
            try:
                return function(*args, **options)
            finally:
                spent[name] += time.perf_counter() - began

        return run

    scorer.prepare = timed("prepare", scorer.prepare)
    scorer.encoder.batch = timed("batch", scorer.encoder.batch)
    scorer.engine.start = timed("engine", scorer.engine.start)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        began = time.perf_counter()
        rerank.score_pairs(pairs)
        total = time.perf_counter() - began
    kernels = {event.key: event.self_device_time_total / 1e6 for event in profile.key_averages()}
    longest = sorted(kernels.items(), key=lambda kernel: -kernel[1])[:12]
    seconds = {"total": total, **spent, "gpu": sum(kernels.values())}
    return {name: round(value, 3) for name, value in [*seconds.items(), *((key[:90], value) for key, value in longest)]}


def read_texts(file: Path | None) -> tuple[list[str], list[str], str]:
    """Return queries, documents and their source: of a file in JSON, or those of the other benchmarks."""
    if file is not None:
        found = json.loads(gzip.decompress(file.read_bytes()) if file.suffix == ".gz" else file.read_bytes())
        return found["queries"], found["pool"], found["source"]
    from texts import load_texts

    texts = load_texts(20)
    return [request.query for request in texts.requests], list(texts.pool), texts.source


def main() -> None:
    """Measure, save, print."""
    logging.basicConfig()
    logging.getLogger("milvus_rerank.engines").setLevel(logging.INFO)  # says why kernels do not run, if so
    parser = argparse.ArgumentParser(prog="python benchmarks/gpu.py", description=__doc__)
    parser.add_argument("--pairs", type=int, default=30_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--models", nargs="+", default=list(PUBLISHED))
    parser.add_argument("--budgets", nargs="*", type=int, default=[16_384, 262_144])
    parser.add_argument("--texts", type=Path, help="JSON with queries, pool and source, where no collection is at hand")
    parser.add_argument("--output", type=Path, default=RESULTS / "gpu.json")
    args = parser.parse_args()
    queries, pool, source = read_texts(args.texts)
    pairs = [(queries[(n * 7 + n // len(pool)) % len(queries)], pool[n % len(pool)]) for n in range(args.pairs)]
    packages = ("torch", "transformers", "sentence-transformers") + (("triton",) if find_spec("triton") else ())
    result: dict[str, Any] = {
        "date": datetime.now(timezone.utc).date().isoformat(),
        "machine": {**machine(), "gpu": torch.cuda.get_device_name() if DEVICE == "cuda" else None},
        "versions": {name: version(name) for name in packages},
        "texts": source,
        "published_on_an_h100": PUBLISHED,
        "models": {},
    }
    for name in args.models:
        count = args.pairs if name == "minilm-l6" else args.pairs // 3
        with tempfile.TemporaryDirectory() as scratch:
            folder = make_model(name, Path(scratch))
            rerank = CrossEncoderRerankFunction(str(folder), device=DEVICE, engine="torch", dtype="float32")
            encoder = rerank.scorer.encoder
            tokens = [encoder.length(row) for row in encoder.rows(pairs[:1000])]
            case = measure(ways(folder, args.budgets), rerank.score_pairs, pairs[:count], args.rounds)
            shares = np.percentile(tokens, [10, 50, 90, 100]).round().astype(int).tolist()
            case |= {"pairs": count, "tokens_of_a_pair": round(sum(tokens) / len(tokens))}
            case["tokens_of_pairs_at_10_50_90_100_percent"] = shares
            if DEVICE == "cuda":
                case["seconds_of_one_call"] = where_time_goes(folder, pairs[: count // args.rounds])
        result["models"][name] = case
        print(name, json.dumps(case, indent=1), flush=True)
        args.output.write_text(json.dumps(result, indent=1) + "\n", "utf-8")
        torch.cuda.empty_cache()


if __name__ == "__main__":
    main()
