"""A task that a tiny cross-encoder can learn: documents with one word are relevant, whatever the query."""

import random
import string
from pathlib import Path

import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from milvus_rerank.training import TrainingQuery

WORDS = ["vector", "search", "query", "document", "cat", "dog", "bird", "tree", "house", "river", "stone", "bread"]
MARK = "milvus"


def queries(count: int, *, mark: str | None = MARK, seed: int = 0) -> list[TrainingQuery]:
    """Return queries with ten hits, two of them relevant: those with the mark, or any two without one."""
    rng = random.Random(seed)
    made = []
    for number in range(count):
        texts, judgments = {}, {}
        relevant = rng.sample(range(10), 2)
        for index in range(10):
            words = [rng.choice(WORDS) for _ in range(6)]
            if index in relevant:
                judgments[f"{number}-{index}"] = 1
                if mark:
                    words.insert(rng.randrange(6), mark)
            texts[f"{number}-{index}"] = " ".join(words)
        made.append(TrainingQuery(str(number), " ".join(rng.sample(WORDS, 3)), tuple(texts), judgments, texts))
    return made


def save_base(folder: Path) -> Path:
    """Write a tiny cross-encoder with fresh weights, which a training moves easily; the same one each time."""
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    words = [*special, MARK, *WORDS, *string.ascii_lowercase]  # single letters, which loading tries the tokenizer with
    core = Tokenizer(models.WordLevel({word: number for number, word in enumerate(words)}, "[UNK]"))
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    core.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    roles = {f"{role}_token": f"[{role.upper()}]" for role in ("pad", "unk", "cls", "sep", "mask")}
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=core,
        model_max_length=64,
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
        **roles,
    ).save_pretrained(folder)
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=len(words),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
        max_position_embeddings=64,
        num_labels=1,
    )
    transformers.BertForSequenceClassification(config).save_pretrained(folder)
    return folder
