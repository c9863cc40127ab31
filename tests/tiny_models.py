"""Tiny models of seven architectures with seeded random weights, saved as a user would find them on disk."""

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
import transformers
from pair_texts import MAX_LENGTH, TRAINING_TEXTS
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers


def _wordpiece() -> tuple[Tokenizer, list[str]]:
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    tokenizer.train_from_iterator(TRAINING_TEXTS, trainers.WordPieceTrainer(vocab_size=400, special_tokens=special))
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return tokenizer, special


def _byte_bpe(roberta: bool) -> tuple[Tokenizer, list[str]]:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"] if roberta else ["[CLS]", "[PAD]", "[SEP]", "[UNK]", "[MASK]"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=400, special_tokens=special, initial_alphabet=alphabet)
    tokenizer.train_from_iterator(TRAINING_TEXTS, trainer)
    if roberta:
        tokenizer.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0), add_prefix_space=False)
    else:
        tokenizer.post_processor = processors.TemplateProcessing(
            single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B [SEP]", special_tokens=[("[CLS]", 0), ("[SEP]", 2)]
        )
    return tokenizer, special


def unigram(pair: str, special: list[str], first: str, last: str) -> tuple[Tokenizer, list[str]]:
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Replace("  ", " ")])
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    trainer = trainers.UnigramTrainer(vocab_size=300, special_tokens=special, unk_token=special[3])
    tokenizer.train_from_iterator(TRAINING_TEXTS * 3, trainer)
    ids = [(first, special.index(first)), (last, special.index(last))]
    tokenizer.post_processor = processors.TemplateProcessing(single=f"{first} $A {last}", pair=pair, special_tokens=ids)
    return tokenizer, special


def _xlm_unigram() -> tuple[Tokenizer, list[str]]:
    return unigram("<s> $A </s> </s> $B </s>", ["<s>", "<pad>", "</s>", "<unk>", "<mask>"], "<s>", "</s>")


def _deberta_unigram() -> tuple[Tokenizer, list[str]]:
    special = ["[PAD]", "[CLS]", "[SEP]", "[UNK]", "[MASK]"]
    return unigram("[CLS] $A [SEP] $B:1 [SEP]:1", special, "[CLS]", "[SEP]")


_WIDTH = 32
_SIZES = {"hidden_size": _WIDTH, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 37}
_DISENTANGLED = {**_SIZES, "relative_attention": True, "pos_att_type": ["p2c", "c2p"]}
_DISTIL = {"dim": _WIDTH, "n_layers": 2, "n_heads": 4, "hidden_dim": 37}

# name -> tokenizer, model class prefix, its sizes, inputs it takes besides ids and mask, tokens its positions reserve
ARCHITECTURES: dict[str, tuple[Callable[[], tuple[Tokenizer, list[str]]], str, dict[str, Any], bool, int]] = {
    "bert": (_wordpiece, "Bert", _SIZES, True, 0),
    "roberta": (lambda: _byte_bpe(True), "Roberta", _SIZES, False, 2),
    "xlm-roberta": (_xlm_unigram, "XLMRoberta", _SIZES, False, 2),
    "deberta-v2": (_deberta_unigram, "DebertaV2", {**_DISENTANGLED, "position_biased_input": False}, True, 0),
    "traced": (_deberta_unigram, "DebertaV2", {**_DISENTANGLED, "position_biased_input": True}, True, 0),
    "mpnet": (_xlm_unigram, "MPNet", _SIZES, False, 2),
    "albert": (_deberta_unigram, "Albert", {**_SIZES, "embedding_size": 16}, True, 0),
    "electra": (_wordpiece, "Electra", {**_SIZES, "embedding_size": _WIDTH}, True, 0),
    "distilbert": (_wordpiece, "DistilBert", _DISTIL, False, 0),
    "modernbert": (lambda: _byte_bpe(False), "ModernBert", {**_SIZES, "local_attention": 16}, False, 0),
}


def save_tiny_model(
    name: str, folder: Path, *, labels: int = 1, activation: str | None = "Identity", width: int = _WIDTH
) -> Path:
    """Write a seeded tiny classifier of an architecture to a folder."""
    make_tokenizer, prefix, sizes, with_types, reserved = ARCHITECTURES[name]
    sizes = {option: width if size == _WIDTH else size for option, size in sizes.items()}
    core, special = make_tokenizer()
    roles: dict[str, str | tuple[str, ...]] = {
        "pad": "pad",
        "unk": "unk",
        "cls": ("cls", "<s>"),
        "sep": ("sep", "</s>"),
        "mask": "mask",
    }
    tokens = {f"{role}_token": _pick(special, words) for role, words in roles.items()}
    names = ["input_ids", "token_type_ids", "attention_mask"] if with_types else ["input_ids", "attention_mask"]
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=core, model_max_length=MAX_LENGTH, model_input_names=names, **tokens
    )
    config = getattr(transformers, f"{prefix}Config")(
        vocab_size=len(tokenizer),
        pad_token_id=tokenizer.pad_token_id,
        max_position_embeddings=MAX_LENGTH + reserved,
        num_labels=labels,
        **sizes,
    )
    if prefix == "ModernBert":
        for role in ("bos", "cls"):
            setattr(config, f"{role}_token_id", tokenizer.cls_token_id)
        config.eos_token_id = config.sep_token_id = tokenizer.sep_token_id
    if activation is not None:
        kind = "linear" if activation == "Identity" else "activation"
        config.sentence_transformers = {"activation_fn": f"torch.nn.modules.{kind}.{activation}"}
    torch.manual_seed(0)
    model = getattr(transformers, f"{prefix}ForSequenceClassification")(config).eval()
    with torch.no_grad():
        for parameter in _wide(model):  # so that scores differ by far more than the tolerance
            parameter.mul_(8)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


PUBLISHED_TOKENIZERS = {
    "bert": "BertTokenizerFast",
    "roberta": "RobertaTokenizerFast",
    "xlm-roberta": "XLMRobertaTokenizerFast",
    "deberta-v2": "DebertaV2TokenizerFast",
    "electra": "ElectraTokenizerFast",
    "distilbert": "DistilBertTokenizerFast",
    "modernbert": "PreTrainedTokenizerFast",
}


def copy_as_published(folder: Path, architecture: str, target: Path) -> Path:
    """Copy a tiny model and name the tokenizer class that published models name.

    On transformers 4 FlagEmbedding takes a pair's special tokens from that class, not from tokenizer.json. Tiny models
    themselves name the base class: on transformers 5 other classes leave out parts of tokenizer.json.
    """
    shutil.copytree(folder, target)
    path = target / "tokenizer_config.json"
    tokenizer_config = json.loads(path.read_text("utf-8")) | {"tokenizer_class": PUBLISHED_TOKENIZERS[architecture]}
    path.write_text(json.dumps(tokenizer_config), "utf-8")
    return target


def _wide(model: torch.nn.Module) -> Iterator[torch.nn.Parameter]:
    return (parameter for parameter in model.parameters() if parameter.dim() == 2)


def _pick(special: list[str], words: str | tuple[str, ...]) -> str:
    options = (words,) if isinstance(words, str) else words
    return next(token for token in special if any(word in token.lower() for word in options))


def save_embedding_model(folder: Path) -> Path:
    """Write a model without a classification head, as an embedding model has it."""
    save_tiny_model("bert", folder)
    config = transformers.BertConfig.from_pretrained(folder)
    torch.manual_seed(0)
    transformers.BertModel(config).save_pretrained(folder)
    path = folder / "config.json"
    values = json.loads(path.read_text())
    del values["architectures"]
    path.write_text(json.dumps(values))
    return folder
