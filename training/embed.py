"""Make builtin/embed: a static model distilled from all-MiniLM-L6-v2 and tuned to its text similarities."""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numpy as np
import torch
from common import passage, read_jsonl, reduce_vocabulary, teacher_folder
from safetensors.numpy import save_file
from tokenizers import Tokenizer
from torch import Tensor, nn
from torch.nn.functional import embedding_bag, kl_div, log_softmax, normalize, softmax
from transformers import AutoModel

CLS, SEP = 101, 102


@torch.inference_mode()
def token_vectors(ids: list[int]) -> Tensor:
    """Embed each WordPiece alone with the teacher."""
    model = AutoModel.from_pretrained(teacher_folder()).eval()
    batches = torch.tensor([[CLS, token, SEP] for token in ids]).split(2048)
    return torch.cat([model(input_ids=batch).last_hidden_state.mean(1) for batch in batches])


def distil(ids: list[int], counts: np.ndarray, dimensions: int) -> Tensor:
    """Reduce the teacher's token vectors by PCA and weigh them down by frequency (SIF)."""
    vectors = token_vectors(ids)
    centred = vectors - vectors.mean(0)
    basis = torch.linalg.eigh(centred.T @ centred).eigenvectors.flip(1)[:, :dimensions]
    frequency = torch.from_numpy((counts + 1.0) / (counts.sum() + len(counts))).float()
    return centred @ basis * (1e-3 / (1e-3 + frequency)).unsqueeze(1)


def bags(tokenizer: Tokenizer, texts: list[str], limit: int) -> list[list[int]]:
    """Tokenise texts to at most `limit` ids each, never empty."""
    return [e.ids[:limit] or [0] for e in tokenizer.encode_batch_fast(texts, add_special_tokens=False)]


def pooled(weight: Tensor, rows: list[list[int]]) -> Tensor:
    """Average the token vectors of each row and scale to unit length."""
    offsets = np.cumsum([0] + [len(row) for row in rows[:-1]])
    flat = torch.tensor([token for row in rows for token in row])
    return normalize(embedding_bag(flat, weight, torch.from_numpy(offsets), mode="mean"), dim=1)


def tune(weight: Tensor, queries: list[list[int]], texts: list[list[list[int]]], target: list[np.ndarray],
         owners: np.ndarray, usable: np.ndarray, epochs: int, rate: float, seed: int) -> Tensor:  # fmt: skip
    """Fit in-batch query-passage similarity distributions and cosines to the teacher's."""
    rng = np.random.default_rng(seed)
    weight = nn.Parameter(weight / weight.norm(dim=1).mean())
    optimiser = torch.optim.Adam([weight], lr=rate)
    size, step = 512, 0
    steps = epochs * (len(usable) // size)
    for epoch in range(epochs):
        order, total, started = rng.permutation(usable), 0.0, time.time()
        for start in range(0, len(order) - size + 1, size):
            for group in optimiser.param_groups:
                group["lr"] = rate * (1 - step / steps)
            chosen = order[start : start + size]
            titled = rng.integers(2)
            picked = owners[chosen]
            student_q = pooled(weight, [queries[i] for i in chosen])
            student_p = pooled(weight, [texts[titled][i] for i in picked])
            teacher_q = torch.from_numpy(target[2][chosen]).float()
            teacher_p = torch.from_numpy(target[titled][picked]).float()
            wanted, found = teacher_q @ teacher_p.T, student_q @ student_p.T
            loss = kl_div(log_softmax(found / 0.05, 1), softmax(wanted / 0.05, 1), reduction="batchmean")
            loss = loss + kl_div(log_softmax(found.T / 0.05, 1), softmax(wanted.T / 0.05, 1), reduction="batchmean")
            inside = (student_p @ student_p.T - teacher_p @ teacher_p.T).square().mean()
            loss = loss + 20 * inside + 20 * (found - wanted).square().mean()
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            total, step = total + loss.item(), step + 1
        print(f"epoch {epoch}: loss {total / (len(order) // size):.4f}, {time.time() - started:.0f} s", flush=True)
    return weight.detach()


def save(folder: Path, weight: Tensor, tokenizer: Tokenizer, max_length: int) -> None:
    """Store the model in model2vec's layout: int8 directions with one float scale for each token."""
    folder.mkdir(parents=True, exist_ok=True)
    vectors = weight.numpy().astype(np.float32)
    scales = np.abs(vectors).max(axis=1, keepdims=True) / 127 + 1e-12
    codes = np.rint(vectors / scales).astype(np.int8)
    save_file({"embeddings": codes, "weights": scales[:, 0]}, folder / "model.safetensors")
    tokenizer.save(str(folder / "tokenizer.json"), pretty=False)
    config = {
        "model_type": "model2vec",
        "architectures": ["StaticModel"],
        "tokenizer_name": "sentence-transformers/all-MiniLM-L6-v2",
        "hidden_dim": int(codes.shape[1]),
        "seq_length": 1000000,
        "normalize": True,
        "max_length": max_length,
        "embedding_dtype": "int8",
    }
    (folder / "model.safetensors").chmod(0o644)
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", "utf-8")


def main() -> None:
    """Distil, tune and store the model."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--build", type=Path, default=Path("build"))
    parser.add_argument("--out", type=Path, default=Path("build/embed"))
    parser.add_argument("--vocabulary", type=int, default=22000)
    parser.add_argument("--common", type=int, default=16000, help="WordPieces kept by general frequency")
    parser.add_argument("--dimensions", type=int, default=256)
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--rate", type=float, default=3e-3)
    parser.add_argument("--skip", nargs="*", default=[], help="sources whose texts the model must not see")
    parser.add_argument("--seed", type=int, default=13)
    args = parser.parse_args()
    torch.set_num_threads(2)
    torch.manual_seed(args.seed)
    pairs, rows = read_jsonl(args.build / "pairs.jsonl"), read_jsonl(args.build / "queries.jsonl")
    titled = [passage(pair, True) for pair in pairs]
    seen = np.array([pair["source"] not in args.skip for pair in pairs])
    tokenizer, ids = reduce_vocabulary(
        [t for t, s in zip(titled, seen, strict=True) if s], args.vocabulary, args.common
    )
    queries = bags(tokenizer, [row["query"] for row in rows], 64)
    texts = [bags(tokenizer, [passage(pair, False) for pair in pairs], 192), bags(tokenizer, titled, 192)]
    shown = [text for text, s in zip(texts[1], seen, strict=True) if s]
    counts = np.bincount([token for text in shown for token in text], minlength=len(ids))
    weight = distil(ids, counts, args.dimensions)
    if args.epochs:
        names = ("teacher_passages_0", "teacher_passages_1", "teacher_queries")
        target = [np.load(args.build / f"{name}.npy") for name in names]
        owners = np.array([int(row["text"]) for row in rows])
        usable = np.flatnonzero(seen[owners])
        weight = tune(weight, queries, texts, target, owners, usable, args.epochs, args.rate, args.seed)
    save(args.out, weight, tokenizer, 512)


if __name__ == "__main__":
    main()
