"""What it brings to run a query once for all its documents: python benchmarks/decoders.py [--rounds N].

Runs in the package's own environment, as `make install` makes it. A Qwen3 of 8 layers, 512 wide, with random weights:
only its times mean something, and that all ways give the same scores. Writes results/decoders.json.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Sequence
from datetime import datetime, timezone
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
import transformers
from machine import machine
from texts import Request, Texts, load_texts
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from milvus_rerank import CrossEncoderRerankFunction
from milvus_rerank.engines.causal_lm import NextToken
from milvus_rerank.engines.torch_engine import TorchEngine
from milvus_rerank.models.chat_template import INSTRUCTION, SYSTEM
from milvus_rerank.scoring.scorer import PairScorer

RESULTS = Path(__file__).resolve().parent / "results"
SHAPE = {
    "hidden_size": 512,
    "num_hidden_layers": 8,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 64,
    "intermediate_size": 1536,
}
TEMPLATE = (
    f"<|im_start|>system\n{SYSTEM}<|im_end|>\n<|im_start|>user\n<Instruct>: {INSTRUCTION}\n"
    "<Query>: {{ messages | selectattr('role', 'eq', 'query') | map(attribute='content') | first }}\n"
    "<Document>: {{ messages | selectattr('role', 'eq', 'document') | map(attribute='content') | first }}"
    "<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"
)


def make_model(folder: Path, texts: Sequence[str]) -> Path:
    """Write the model, with a tokenizer of these texts and a template of the length of Qwen3-Reranker's."""
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=16000, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    core.train_from_iterator([*texts, *["yes", "no"] * 1000, TEMPLATE], trainer)
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=core, model_max_length=2048, eos_token="<|im_end|>", pad_token="<|endoftext|>"
    )
    tokenizer.chat_template = TEMPLATE
    torch.manual_seed(0)
    config = transformers.Qwen3Config(vocab_size=len(tokenizer), max_position_embeddings=2048, **SHAPE)
    transformers.Qwen3ForCausalLM(config).eval().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def ways(folder: Path) -> dict[str, Callable[[Request], list[float]]]:
    """The ways that are compared, each from a request to its scores."""
    from sentence_transformers import CrossEncoder

    ours = CrossEncoderRerankFunction(str(folder), device="cpu")
    vocabulary = ours.scorer.encoder._tokenizer.get_vocab()
    model = ours.scorer.engine._model
    forward = NextToken(model, vocabulary["yes"], vocabulary["no"], share=False)
    apart = PairScorer(
        ours.scorer.encoder,
        TorchEngine(model, forward=forward),
        activation=ours.scorer.activation,
        max_batch_tokens=ours.scorer.max_batch_tokens,
    )
    library = CrossEncoder(str(folder), device="cpu")

    def predict(request: Request) -> list[float]:
        pairs = [(request.query, document) for document in request.documents]
        return [float(score) for score in library.predict(pairs, show_progress_bar=False)]

    return {
        "sentence-transformers": predict,
        "not shared": lambda request: apart.score([(request.query, request.documents)])[0],
        "shared": lambda request: ours.score(request.query, request.documents),
    }


def measure(runs: dict[str, Callable[[Request], list[float]]], requests: Sequence[Request]) -> dict[str, Any]:
    """Time the ways by turns on the same requests; the first request warms them."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    worst = 0.0
    for number, request in enumerate(requests):
        scores = {}
        for name, run in runs.items():
            began = time.perf_counter()
            scores[name] = run(request)
            if number:
                times[name].append(time.perf_counter() - began)
        reference = np.array(scores["sentence-transformers"])
        worst = max(worst, *(float(np.abs(np.array(row) - reference).max()) for row in scores.values()))
    baseline = times["sentence-transformers"]
    ratios = {name: [a / b for a, b in zip(baseline, seconds, strict=True)] for name, seconds in times.items()}
    return {
        "rounds": len(baseline),
        "median_seconds": {name: round(median(seconds), 3) for name, seconds in times.items()},
        "times_baseline": {name: round(median(ratio), 2) for name, ratio in ratios.items()},
        "times_baseline_from_to": {
            name: [round(min(ratio), 2), round(max(ratio), 2)] for name, ratio in ratios.items()
        },
        "largest_difference_of_scores": float(f"{worst:.1e}"),
    }


def cases(texts: Texts, rounds: int) -> dict[str, list[Request]]:
    """Short documents, where the prompt is most of the tokens, and documents as they are."""
    mixed = [Request(request.query, request.documents[:20]) for request in texts.requests[: rounds + 1]]
    return {"short-20": [texts.short(20, number) for number in range(rounds + 1)], "mixed-20": mixed}


def main() -> None:
    """Measure, save, print."""
    parser = argparse.ArgumentParser(prog="python benchmarks/decoders.py", description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    args = parser.parse_args()
    texts = load_texts(max(20, args.rounds + 1))
    with tempfile.TemporaryDirectory() as scratch:
        runs = ways(make_model(Path(scratch), texts.pool))
        result = {
            "date": datetime.now(timezone.utc).date().isoformat(),
            "machine": machine(),
            "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
            "shape": SHAPE,
            "texts": texts.source,
            "cases": {name: measure(runs, requests) for name, requests in cases(texts, args.rounds).items()},
        }
    path = RESULTS / "decoders.json"
    path.write_text(json.dumps(result, indent=1) + "\n", "utf-8")
    print(json.dumps(result["cases"], indent=1), f"\nwritten to {path}")


if __name__ == "__main__":
    main()
