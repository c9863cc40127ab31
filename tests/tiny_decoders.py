"""Tiny causal language models with seeded random weights, saved as rerankers of that kind are."""

from pathlib import Path
from typing import Any

import torch
import transformers
from pair_texts import TRAINING_TEXTS
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

ROLES = (
    "<|im_start|>system\n"
    "{{ messages | selectattr('role', 'eq', 'system') | map(attribute='content') | first | default('Judge it.') }}"
    "<|im_end|>\n<|im_start|>user\n"
    "<Query>: {{ messages | selectattr('role', 'eq', 'query') | map(attribute='content') | first }}\n"
    "<Document>: {{ messages | selectattr('role', 'eq', 'document') | map(attribute='content') | first }}"
    "<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"
)
"""A template that knows a query and a document."""

IN_PARTS = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% for part in message['content'] %}{% if part['type'] == 'text' %}{{ part['text'] }}{% endif %}{% endfor %}"
    "<|im_end|>\n{% endfor %}<|im_start|>assistant\n"
)
"""One that wants contents as lists of parts."""

STRICT = (
    "{% for message in messages %}"
    "{% if message['role'] not in ['system', 'user', 'assistant'] %}{{ raise_exception('no such role') }}{% endif %}"
    "<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
"""A chat model's, which knows no query and document."""

_SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2}
CAUSAL: dict[str, tuple[str, dict[str, Any]]] = {
    "qwen3": ("Qwen3", {**_SIZES, "intermediate_size": 37, "head_dim": 8}),
    "qwen2": ("Qwen2", {**_SIZES, "intermediate_size": 37}),
    "llama": ("Llama", {**_SIZES, "intermediate_size": 37}),
    "gemma2": ("Gemma2", {**_SIZES, "intermediate_size": 37, "head_dim": 8, "query_pre_attn_scalar": 8}),
}


def save_causal_model(
    name: str,
    folder: Path,
    *,
    template: str | None = ROLES,
    pad: bool = True,
    length: int = 512,
    answers: tuple[str, str] = ("yes", "no"),
    split: str | None = None,
) -> Path:
    """Write a seeded tiny language model to a folder."""
    prefix, sizes = CAUSAL[name]
    tokenizer = _tokenizer(pad, length, answers, split)
    tokenizer.chat_template = template
    config = getattr(transformers, f"{prefix}Config")(
        vocab_size=len(tokenizer),
        max_position_embeddings=length,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        **sizes,
    )
    return _save(getattr(transformers, f"{prefix}ForCausalLM"), config, tokenizer, folder)


def save_last_token_classifier(folder: Path, *, pad: bool, template: str | None = None) -> Path:
    """Write a classifier on a language model's body, as converted rerankers have it."""
    tokenizer = _tokenizer(pad, 512)
    tokenizer.chat_template = template
    config = transformers.Qwen3Config(
        vocab_size=len(tokenizer), num_labels=1, pad_token_id=tokenizer.pad_token_id, **CAUSAL["qwen3"][1]
    )
    return _save(transformers.Qwen3ForSequenceClassification, config, tokenizer, folder)


def _save(model_class: Any, config: Any, tokenizer: Any, folder: Path) -> Path:
    torch.manual_seed(0)
    model = model_class(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 2:  # so that scores differ by far more than the tolerance
                parameter.mul_(6)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def _tokenizer(
    pad: bool, length: int, answers: tuple[str, str] = ("yes", "no"), split: str | None = None
) -> transformers.PreTrainedTokenizerFast:
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    if split is not None:
        words = pre_tokenizers.Split(Regex(split), "isolated")
        core.pre_tokenizer = pre_tokenizers.Sequence([words, pre_tokenizers.ByteLevel(False, use_regex=False)])
    core.decoder = decoders.ByteLevel()
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=420, special_tokens=special, initial_alphabet=alphabet)
    core.train_from_iterator([*TRAINING_TEXTS, *answers * 20, "<Query>: <Document>: system user"], trainer)
    roles = {"pad_token": "<|endoftext|>"} if pad else {}
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=core, model_max_length=length, eos_token="<|im_end|>", **roles
    )
