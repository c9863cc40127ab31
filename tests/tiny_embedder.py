"""A tiny embedder in model2vec's layout, and JSONL files, for the tests of what works on files."""

import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from model2vec import StaticModel
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

PASSAGES = [
    {"_id": "python", "title": "Python", "text": "a programming language named after a comedy group", "year": 1991},
    {"_id": "unix", "title": "Unix", "text": "an operating system written at Bell Labs", "year": 1969},
    {"_id": "c", "title": "C", "text": "a programming language written for Unix", "year": 1972},
    {"_id": "moon", "title": "", "text": "people walked on the moon", "year": 1969},
    {"_id": "bug", "title": "First bug", "text": "a moth was found in the relay of a computer", "year": 1947},
]
QUERIES = [{"_id": "q1", "text": "programming language"}, {"_id": "q2", "text": "moon"}]
QRELS = ["query-id\tcorpus-id\tscore", "q1\tpython\t2", "q1\tc\t1", "q2\tmoon\t1"]


def save_embedder(folder: Path, texts: Iterable[str], dim: int = 32, seed: int = 0) -> Path:
    """Save an embedder with a seeded random vector for each word of some texts."""
    words = sorted({word for text in texts for word in re.findall(r"\w+", text.lower())})
    vocabulary = {"[UNK]": 0} | {word: index for index, word in enumerate(words, 1)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    vectors = np.random.default_rng(seed).normal(size=(len(vocabulary), dim)).astype(np.float32)
    vectors[0] = 0
    StaticModel(vectors, tokenizer).save_pretrained(folder)
    return folder


def write_jsonl(path: Path, records: Iterable[Mapping[str, Any]]) -> Path:
    """Write one object a line."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(record) + "\n" for record in records), "utf-8")
    return path


def write_beir(folder: Path) -> Path:
    """Write the small collection in BEIR's layout."""
    write_jsonl(folder / "corpus.jsonl", PASSAGES)
    write_jsonl(folder / "queries.jsonl", QUERIES)
    (folder / "qrels").mkdir(exist_ok=True)
    (folder / "qrels" / "test.tsv").write_text("\n".join(QRELS) + "\n", "utf-8")
    return folder


def passage_texts() -> list[str]:
    """Return the words that the small collection's embedder has to know."""
    return [f"{passage['title']} {passage['text']}" for passage in PASSAGES]
