"""Train builtin/rerank: one stage of a small cross-encoder started from all-MiniLM-L6-v2 or an earlier stage."""

from __future__ import annotations

import argparse
import json
import shutil
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from common import passage, read_jsonl, reduce_vocabulary, teacher_folder
from model2vec import StaticModel
from torch import Tensor, nn
from torch.nn.functional import kl_div, log_softmax, softmax
from transformers import AutoModelForSequenceClassification, AutoTokenizer, PreTrainedTokenizerFast

SCALE, OFFSET = 20.0, -8.0  # a cosine of 0.4 with the teacher becomes a logit of 0


@dataclass
class Data:
    """Tokenised queries and passages (without and with title), the teacher's vectors and mined candidates."""

    queries: list[list[int]]
    owners: np.ndarray
    titled: np.ndarray
    passages: list[list[list[int]]]
    query_vectors: np.ndarray
    passage_vectors: list[np.ndarray]
    mined: np.ndarray | None


def start_model(texts: list[str], size: int, common: int) -> tuple[nn.Module, PreTrainedTokenizerFast]:
    """Build the cross-encoder from the teacher's weights with a reduced vocabulary and a new head."""
    backend, ids = reduce_vocabulary(texts, size, common)
    names = {f"{name}_token": f"[{name.upper()}]" for name in ("pad", "unk", "cls", "sep", "mask")}
    inputs = ["input_ids", "token_type_ids", "attention_mask"]
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, model_max_length=512, model_input_names=inputs, **names
    )
    model = AutoModelForSequenceClassification.from_pretrained(teacher_folder(), num_labels=1, dtype=torch.float32)
    kept = model.bert.embeddings.word_embeddings.weight.detach()[ids].clone()
    model.bert.embeddings.word_embeddings = nn.Embedding.from_pretrained(kept, freeze=False, padding_idx=0)
    model.config.vocab_size, model.config.pad_token_id = len(ids), 0
    nn.init.normal_(model.classifier.weight, std=0.02)
    nn.init.constant_(model.classifier.bias, OFFSET / 2)
    return model, tokenizer


def mine(folder: Path, queries: list[str], texts: list[str], owners: np.ndarray, depth: int) -> np.ndarray:
    """Rank the passages for each query with the static model and keep the best `depth` other than its own."""
    model = StaticModel.from_pretrained(folder)
    vectors, asked = torch.from_numpy(model.encode(texts)), torch.from_numpy(model.encode(queries))
    found = []
    for start in range(0, len(queries), 2048):
        scores = asked[start : start + 2048] @ vectors.T
        own = torch.from_numpy(owners[start : start + 2048])
        scores[torch.arange(len(scores)), own] = -2
        found.append(scores.topk(depth, dim=1).indices.to(torch.int32))
    return torch.cat(found).numpy()


def load_data(build: Path, tokenizer: PreTrainedTokenizerFast, length: int, embed: Path | None) -> Data:
    """Tokenise everything once and mine candidates when a static model is given."""
    pairs, rows = read_jsonl(build / "pairs.jsonl"), read_jsonl(build / "queries.jsonl")
    texts = [[passage(pair, bool(titled)) for pair in pairs] for titled in (0, 1)]

    def encode(items: list[str], limit: int) -> list[list[int]]:
        return tokenizer(items, add_special_tokens=False, truncation=True, max_length=limit)["input_ids"]

    asked = [row["query"] for row in rows]
    owners = np.array([int(row["text"]) for row in rows])
    return Data(
        queries=encode(asked, 40),
        owners=owners,
        titled=np.array([row["kind"] == "sentence" for row in rows]),
        passages=[encode(items, length) for items in texts],
        query_vectors=np.load(build / "teacher_queries.npy"),
        passage_vectors=[np.load(build / f"teacher_passages_{titled}.npy") for titled in (0, 1)],
        mined=mine(embed, asked, texts[1], owners, 50) if embed else None,
    )


def scores(model: nn.Module, rows: list[tuple[list[int], list[int]]], cls: int, sep: int, tokens: int) -> Tensor:
    """Score (query, passage) id pairs in chunks of similar length."""
    lengths = [len(a) + len(b) + 3 for a, b in rows]
    order = sorted(range(len(rows)), key=lambda i: -lengths[i])
    parts, start = [], 0
    while start < len(order):
        width = lengths[order[start]]
        chosen = order[start : start + max(1, tokens // width)]
        ids = torch.zeros(len(chosen), width, dtype=torch.long)
        kinds, mask = torch.zeros_like(ids), torch.zeros_like(ids)
        for line, i in enumerate(chosen):
            first, second = rows[i]
            ids[line, : lengths[i]] = torch.tensor([cls, *first, sep, *second, sep])
            kinds[line, len(first) + 2 : lengths[i]] = 1
            mask[line, : lengths[i]] = 1
        with torch.autocast("cpu", torch.bfloat16):
            logits = model(input_ids=ids, token_type_ids=kinds, attention_mask=mask).logits
        parts.append(logits.float()[:, 0])
        start += len(chosen)
    return torch.cat(parts)[torch.argsort(torch.tensor(order))]


def train(model: nn.Module, tokenizer: PreTrainedTokenizerFast, data: Data, args: argparse.Namespace) -> None:
    """Fit groups of one passage and its rivals to the teacher's cosines and to the known pairing."""
    rng = np.random.default_rng(args.seed)
    sizes = np.array([len(ids) for ids in data.passages[1]])
    allowed = np.flatnonzero(sizes <= args.longest)
    usable = np.flatnonzero(np.isin(data.owners, allowed))
    decayed = [p for p in model.parameters() if p.ndim > 1]
    plain = [p for p in model.parameters() if p.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": 0.01}, {"params": plain, "weight_decay": 0.0}]
    optimiser = torch.optim.AdamW(groups, lr=args.rate, betas=(0.9, 0.98))
    cls, sep = tokenizer.cls_token_id, tokenizer.sep_token_id
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    model.train()
    order, cursor, seen, started = rng.permutation(usable), 0, np.zeros(4), time.time()
    for step in range(args.steps):
        warm = min(1.0, (step + 1) / args.warmup)
        fall = (args.steps - step) / args.steps if args.decay else 1.0
        for group in optimiser.param_groups:
            group["lr"] = args.rate * warm * fall
        if cursor + args.queries > len(order):
            order, cursor = rng.permutation(usable), 0
        chosen = order[cursor : cursor + args.queries]
        cursor += args.queries
        rivals = rng.choice(allowed, (len(chosen), args.group - 1))
        if data.mined is not None and args.hard:
            rivals[:, : args.hard] = data.mined[chosen][:, rng.permutation(50)[: args.hard]]
        members = np.concatenate([data.owners[chosen][:, None], rivals], axis=1)
        rows, target = [], np.zeros(members.shape, dtype=np.float32)
        for line, query in enumerate(chosen):
            with_title = int(data.titled[query] and rng.random() < 0.7)
            vectors = data.passage_vectors[with_title][members[line]].astype(np.float32)
            target[line] = vectors @ data.query_vectors[query].astype(np.float32)
            rows += [(data.queries[query], data.passages[with_title][i]) for i in members[line]]
        wanted = torch.from_numpy(target) * SCALE + OFFSET
        found = scores(model, rows, cls, sep, args.tokens).view(members.shape)
        goal = wanted.clone()
        goal[:, 0] += args.bonus
        listwise = kl_div(log_softmax(found, 1), softmax(goal, 1), reduction="batchmean")
        pointwise = (found - wanted).square().mean()
        loss = listwise + args.pointwise * pointwise
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        first = (found.argmax(1) == 0).float().mean().item()
        seen += (listwise.item(), pointwise.item(), first, 1)
        if (step + 1) % 50 == 0:
            pace = (time.time() - started) / (step + 1)
            means = " ".join(f"{value:.3f}" for value in seen[:3] / seen[3])
            print(f"step {step + 1}: listwise, pointwise, first place {means}; {pace:.2f} s a step", flush=True)
            seen[:] = 0
        if (step + 1) % args.checkpoint == 0:
            save(args.out, model, tokenizer, torch.float32)


def save(folder: Path, model: nn.Module, tokenizer: PreTrainedTokenizerFast, dtype: torch.dtype) -> None:
    """Store the cross-encoder in the plain Hugging Face layout, replacing an earlier one."""
    temporary = folder.with_name(folder.name + ".new")
    shutil.rmtree(temporary, ignore_errors=True)
    state = {name: tensor.detach().to(dtype).contiguous() for name, tensor in model.state_dict().items()}
    model.save_pretrained(temporary, state_dict=state)
    tokenizer.backend_tokenizer.no_truncation()  # training's own length is nobody else's limit
    tokenizer.save_pretrained(temporary)
    path = temporary / "config.json"
    config = json.loads(path.read_text("utf-8"))
    config["sentence_transformers"] = {"activation_fn": "torch.nn.modules.linear.Identity"}
    config["dtype"] = "float32"  # what the weights are loaded as, whatever they are stored as
    config.pop("_name_or_path", None)
    path.write_text(json.dumps(config, indent=2) + "\n", "utf-8")
    path = temporary / "tokenizer_config.json"  # a class name that transformers 4 and 5 both know
    settings = json.loads(path.read_text("utf-8")) | {"tokenizer_class": "PreTrainedTokenizerFast"}
    for name in ("max_length", "stride", "truncation_strategy", "is_local", "local_files_only"):
        settings.pop(name, None)
    path.write_text(json.dumps(settings, indent=2) + "\n", "utf-8")
    (temporary / "model.safetensors").chmod(0o644)
    shutil.rmtree(folder, ignore_errors=True)
    temporary.rename(folder)


def main() -> None:
    """Run one training stage, or with no steps only convert to half precision."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--build", type=Path, default=Path("build"))
    parser.add_argument("--start", type=Path, help="folder of the earlier stage; the teacher's weights without it")
    parser.add_argument("--out", type=Path, default=Path("build/rerank"))
    parser.add_argument("--embed", type=Path, help="static model that mines candidates; needed for --hard")
    parser.add_argument("--steps", type=int, default=0)
    parser.add_argument("--queries", type=int, default=16, help="queries in a step")
    parser.add_argument("--group", type=int, default=8, help="passages scored for each query")
    parser.add_argument("--hard", type=int, default=0, help="how many of a group are mined ones")
    parser.add_argument("--longest", type=int, default=192, help="use passages of at most so many tokens")
    parser.add_argument("--length", type=int, default=192, help="cut passages to so many tokens")
    parser.add_argument("--rate", type=float, default=1e-4)
    parser.add_argument("--warmup", type=int, default=100)
    parser.add_argument("--decay", action="store_true", help="let the rate fall to zero over this stage")
    parser.add_argument("--bonus", type=float, default=2.0, help="logit added to the known pairing")
    parser.add_argument("--pointwise", type=float, default=0.05, help="weight of the squared error to the teacher")
    parser.add_argument("--tokens", type=int, default=4096, help="tokens scored at once")
    parser.add_argument("--vocabulary", type=int, default=11000)
    parser.add_argument("--common", type=int, default=7000)
    parser.add_argument("--checkpoint", type=int, default=200)
    parser.add_argument("--half", action="store_true", help="store 16-bit weights at the end")
    parser.add_argument("--seed", type=int, default=13)
    args = parser.parse_args()
    torch.set_num_threads(2)
    torch.manual_seed(args.seed)
    if args.start:
        model = AutoModelForSequenceClassification.from_pretrained(args.start, dtype=torch.float32)
        tokenizer = AutoTokenizer.from_pretrained(args.start)
    else:
        texts = [passage(pair, True) for pair in read_jsonl(args.build / "pairs.jsonl")]
        model, tokenizer = start_model(texts, args.vocabulary, args.common)
    if args.steps:
        data = load_data(args.build, tokenizer, args.length, args.embed)
        train(model, tokenizer, data, args)
    save(args.out, model, tokenizer, torch.float16 if args.half else torch.float32)


if __name__ == "__main__":
    main()
