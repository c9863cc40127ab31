"""Long texts are tokenised in parts, and no further than the model reads: tokens are those of the whole text."""

import random
import threading
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from pair_texts import TRAINING_TEXTS
from tiny_decoders import save_causal_model

from milvus_rerank import CrossEncoderRerankFunction
from milvus_rerank.errors import StoppedError
from milvus_rerank.scoring.pair_encoder import PairEncoder
from milvus_rerank.scoring.tokenizing import TOKENIZE_CHARACTERS

SEED = random.Random(5)
WORDS = [word for text in TRAINING_TEXTS for word in text.split()]


def words(separators: str, count: int = 60_000) -> str:
    return "".join(SEED.choice(WORDS) + SEED.choice(separators) for _ in range(count))


TEXTS = {
    "words": words(" "),
    "lines": words(" \n"),
    "odd spaces": words(" \n\t\u3000") + "  \n " * 20_000 + words(" "),
    "no spaces": words("."),
    "one word": "a" * 300_000,
    "Chinese": "".join(SEED.choices("漢字語文的一是不了人我在有他这中大来上国。", k=200_000)),
    "emoji": "".join(SEED.choices("🎉🌍👩‍💻 é́", k=200_000)),
    "spaces first": " " * 200_000 + words(" ", 30_000),
    "nothing but spaces": " " * 200_000,
    "control characters": "\x00\x1c\u200b" * 70_000 + words(" ", 30_000),
    "any characters": "".join(chr(SEED.choice([SEED.randrange(32, 0xD800), 32, 97])) for _ in range(200_000)),
}


def encoder_of(folder: Path, **options: Any) -> PairEncoder:
    from transformers import AutoTokenizer

    return PairEncoder(AutoTokenizer.from_pretrained(folder), **{"max_length": 64} | options)


@pytest.mark.parametrize("name", TEXTS)
@pytest.mark.parametrize("model", ["bert", "roberta", "xlm-roberta"])
def test_the_tokens_are_those_of_the_whole_text(tiny: dict[str, Path], model: str, name: str) -> None:
    encoder, text = encoder_of(tiny[model]), TEXTS[name]
    [whole] = encoder.tokenize([text])
    for query in ("who proposed a test", "test " * 100):
        [(ids, first)], [(_, all_of_it)] = encoder.rows([(query, text)]), encoder.rows([(query, text)], whole=True)
        assert all_of_it.tolist() == whole.tolist()
        assert first.tolist() == whole[: len(first)].tolist()
        assert len(first) <= (61 if len(query) < 64 else len(whole))
        batch, expected = encoder.batch([(ids, first)]), encoder.batch([(ids, whole)])
        assert batch.input_ids.tolist() == expected.input_ids.tolist()
        assert encoder.length((ids, first)) == encoder.length((ids, whole))


def test_a_tokenizer_that_reads_across_spaces_gets_the_whole_text(tiny: dict[str, Path]) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.Metaspace(split=False)
    core.train_from_iterator([" ".join(WORDS)], trainers.BpeTrainer(vocab_size=600))
    assert any("▁" in token[1:] for token in core.get_vocab()), "no token reaches across a space"
    encoder = encoder_of(tiny["bert"])
    encoder._fast = core
    text = words(" ", 25_000)
    [(_, first)] = encoder.rows([("q", text)])
    assert first.tolist() == core.encode(text, add_special_tokens=False).ids[: len(first)]
    assert len(first) == 61


def test_a_text_that_is_cut_at_its_beginning_is_read_to_its_end(tiny: dict[str, Path]) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny["bert"], truncation_side="left")
    encoder = PairEncoder(tokenizer, max_length=64)
    [(_, ids)] = encoder.rows([("q", TEXTS["words"])])
    assert ids.tolist() == encoder.tokenize([TEXTS["words"]])[0].tolist()


def test_prompts_with_long_documents_are_those_of_the_whole_text(tmp_path: Path) -> None:
    reranker = CrossEncoderRerankFunction(str(save_causal_model("qwen3", tmp_path)), device="cpu")
    encoder: Any = reranker.scorer.encoder
    for text in (TEXTS["words"], TEXTS["one word"], TEXTS["Chinese"]):
        first, whole = encoder.rows([("q", text)]), encoder.rows([("q", text)], whole=True)
        assert len(first[0].ids) < len(whole[0].ids)
        assert encoder.batch(first).input_ids.tolist() == encoder.batch(whole).input_ids.tolist()


def test_two_million_characters_take_the_memory_of_what_the_model_reads() -> None:
    reranker = CrossEncoderRerankFunction("builtin/rerank", device="cpu", threads=1)
    text = ("the quick brown fox jumps over the lazy dog " * 50_000)[:2_000_000]
    reranker.score("who proposed a test", [text[:1000]])
    tracemalloc.start()
    try:
        [score] = reranker.score("who proposed a test", [text])
        assert tracemalloc.get_traced_memory()[1] < 2_500_000  # of which the check of its characters takes 2 MB
    finally:
        tracemalloc.stop()
    assert score == reranker.score("who proposed a test", [text[:30_000]])[0]


def test_the_work_on_a_long_text_stops(tiny: dict[str, Path]) -> None:
    encoder, stop = encoder_of(tiny["bert"]), threading.Event()
    parts = 0

    class Stopping(PairEncoder):
        def tokenize(self, texts: Any) -> Any:
            nonlocal parts
            parts += 1
            stop.set()
            return super().tokenize(texts)

    encoder = Stopping(encoder._tokenizer, max_length=64)
    encoder._parts_are_as_the_whole()
    parts = 0
    stop.clear()
    with pytest.raises(StoppedError):
        encoder.rows([("q", TEXTS["words"])], stop, whole=True)
    assert parts <= 1
    stop.clear()
    with pytest.raises(StoppedError):
        encoder.rows([("q", "word " * (TOKENIZE_CHARACTERS // 10)) for _ in range(3)] + [("r", TEXTS["lines"])], stop)
    assert parts <= 3
