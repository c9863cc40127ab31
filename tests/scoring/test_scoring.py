"""The scoring core: order, batches, memory, threads, stopping. Models are tiny or none at all."""

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pair_texts import QUERIES, TEXTS

from milvus_rerank import CrossEncoderRerankFunction
from milvus_rerank.engines import Batch, ConstantEngine
from milvus_rerank.errors import InputError, OutOfMemoryError, ScoreError, StoppedError
from milvus_rerank.reranker.local import EngineRerankFunction
from milvus_rerank.scoring.batching import cut
from milvus_rerank.scoring.pair_encoder import PairEncoder
from milvus_rerank.scoring.scorer import PairScorer


@pytest.fixture(scope="module")
def tokenizer(tiny: dict[str, Path]) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(tiny["bert"])


class Recorder:
    """Score a pair by the sum of its token ids, note every batch, and fail on batches above a size."""

    name = "recorder"
    device = "cpu"
    dtype = "float32"
    pad_to_multiple_of = 1

    def __init__(self, memory: int = 10**9) -> None:
        self.memory = memory
        self.shapes: list[tuple[int, int]] = []
        self.refused = 0

    def logits(self, batch: Batch) -> np.ndarray:
        if batch.input_ids.size > self.memory:
            self.refused += 1
            raise OutOfMemoryError("full")
        self.shapes.append(batch.input_ids.shape)
        return np.asarray((batch.input_ids * batch.attention_mask).sum(axis=1), dtype=np.float32)


def scorer(tokenizer: Any, engine: Any, **options: Any) -> PairScorer:
    return PairScorer(PairEncoder(tokenizer, max_length=64), engine, **options)


def documents(count: int) -> list[str]:
    generator = np.random.default_rng(0)
    return [
        " ".join(["ab"] * int(length)) + f" {index}" for index, length in enumerate(generator.integers(0, 70, count))
    ]


def test_batches_are_cut_by_tokens_padding_included() -> None:
    lengths = [3, 10, 4, 9, 1, 2]
    assert cut(lengths, 100) == [[1, 3, 2, 0, 5, 4]]
    assert cut(lengths, 12) == [[1], [3], [2, 0, 5], [4]]
    assert cut(lengths, 20) == [[1, 3], [2, 0, 5, 4]]
    assert cut(lengths, 5) == [[1], [3], [2], [0], [5, 4]]


def test_no_batch_passes_the_budget_and_padding_stays_small(tokenizer: Any) -> None:
    engine = Recorder()
    texts = documents(200)
    scorer(tokenizer, engine, max_batch_tokens=256).score([("a query", texts)])
    true = sum(len(tokenizer("a query", text, truncation=True, max_length=64)["input_ids"]) for text in texts)
    assert all(rows * width <= 256 for rows, width in engine.shapes)
    assert sum(rows * width for rows, width in engine.shapes) < 1.1 * true


@pytest.mark.parametrize("side", ["right", "left"])
def test_widths_are_multiples_of_what_the_engine_likes_but_for_the_limit(tokenizer: Any, side: str) -> None:
    from transformers import AutoTokenizer

    padded = AutoTokenizer.from_pretrained(tokenizer.name_or_path, padding_side=side)
    encoder = PairEncoder(padded, max_length=61, pad_to_multiple_of=8)
    texts = documents(200)
    exact = scorer(tokenizer, Recorder()).encoder
    assert isinstance(exact, PairEncoder)
    ids = [(one, two) for one, two in zip(exact.tokenize(["a query"] * 200), exact.tokenize(texts), strict=True)]
    for pair in ids:
        length = encoder.length(pair)
        batch = encoder.batch([pair])
        width = batch.input_ids.shape[1]
        assert width == encoder.padded_length(length) == min(61, -(-length // 8) * 8)
        assert batch.attention_mask.sum() == length
        kept = batch.attention_mask[0].astype(bool)
        assert kept[-1 if side == "left" else 0]
        unpadded = PairEncoder(padded, max_length=61).batch([pair])
        assert batch.input_ids[0][kept].tolist() == unpadded.input_ids[0].tolist()
    engine = Recorder()
    made = PairScorer(encoder, engine, max_batch_tokens=256).score([("a query", texts)])
    assert all(rows * width <= 256 for rows, width in engine.shapes)
    assert {width % 8 for _, width in engine.shapes if width < 61} == {0}
    assert made == PairScorer(PairEncoder(padded, max_length=61), Recorder()).score([("a query", texts)])


def test_scores_come_back_in_the_callers_order(tokenizer: Any) -> None:
    texts = documents(100)
    together = scorer(tokenizer, Recorder()).score([("a query", texts)])[0]
    alone = [scorer(tokenizer, Recorder()).score([("a query", [text])])[0][0] for text in texts]
    assert together == alone
    assert len(set(together)) > 50


def test_the_same_pair_is_scored_once_and_the_same_text_tokenised_once(tokenizer: Any) -> None:
    class Counting(PairEncoder):
        tokenised: list[str] = []  # noqa: RUF012

        def tokenize(self, texts: Any) -> Any:
            self.tokenised.extend(texts)
            return super().tokenize(texts)

    engine = Recorder()
    counting = Counting(tokenizer, max_length=64)
    found = PairScorer(counting, engine).score([("q", ["a", "b", "a"]), ("q", ["b"]), ("r", ["a", "q"])])
    assert sum(rows for rows, _ in engine.shapes) == 4
    assert sorted(counting.tokenised) == ["a", "b", "q", "r"]
    assert found[0][0] == found[0][2]
    assert found[0][1] == found[1][0]


def test_out_of_memory_halves_the_batch_keeps_what_is_done_and_remembers(tokenizer: Any, caplog: Any) -> None:
    texts = documents(120)
    expected = scorer(tokenizer, Recorder()).score([("a query", texts)])
    engine = Recorder(memory=300)
    small = scorer(tokenizer, engine, max_batch_tokens=1024)
    assert small.score([("a query", texts)]) == expected
    assert sum(rows for rows, _ in engine.shapes) == 120, "no pair is run twice"
    assert engine.refused == 2, "1024 and 512 tokens are refused once each"
    assert small.max_batch_tokens <= 256
    small.score([("another query", texts)])
    assert engine.refused == 2
    assert "does not fit the memory of cpu" in caplog.text


def test_a_pair_that_never_fits_is_an_error(tokenizer: Any) -> None:
    with pytest.raises(OutOfMemoryError, match="full"):
        scorer(tokenizer, Recorder(memory=3)).score([("a query", ["a", "b"])])


def test_a_set_stop_ends_the_work_before_the_next_batch(tokenizer: Any) -> None:
    stop = threading.Event()

    def stop_at_third(batch: Batch) -> np.ndarray:
        calls.append(len(batch.input_ids))
        if len(calls) == 3:
            stop.set()
        return np.zeros(len(batch.input_ids), dtype=np.float32)

    calls: list[int] = []
    with pytest.raises(StoppedError):
        scorer(tokenizer, ConstantEngine(stop_at_third), max_batch_tokens=64).score([("q", documents(50))], stop)
    assert len(calls) == 3


def test_a_model_that_gives_nan_names_the_document(tokenizer: Any) -> None:
    def nan_for_long(batch: Batch) -> np.ndarray:
        return np.where(batch.attention_mask.sum(axis=1) > 20, np.nan, 1.0)

    reranker = EngineRerankFunction(scorer(tokenizer, ConstantEngine(nan_for_long)), model_name="constant")
    with pytest.raises(ScoreError, match="document 1 is nan"):
        reranker("q", ["short", " ".join("abcdefghijklmnopqrstuvwxyz"), "short too"])


def test_eight_threads_score_as_one(tiny: dict[str, Path]) -> None:
    reranker = CrossEncoderRerankFunction(str(tiny["bert"]), device="cpu")
    jobs = [(query, TEXTS[start:] + documents(20)) for query in QUERIES for start in range(6)]
    expected = [reranker.score(*job) for job in jobs]
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda job: reranker.score(*job), jobs * 4))
    np.testing.assert_allclose(np.concatenate(found), np.concatenate(expected * 4), atol=1e-6, rtol=0)


@pytest.mark.parametrize("max_length", [5, 6, 11, 64])
def test_pairs_are_cut_as_the_tokenizers_library_cuts_them(tokenizer: Any, max_length: int) -> None:
    encoder = PairEncoder(tokenizer, max_length=max_length)
    for query in range(0, 40, 3):
        for text in range(0, 80, 7):
            pair = (" ".join("a" * query), " ".join("b" * text))
            expected = tokenizer([pair[0]], [pair[1]], truncation="longest_first", max_length=max_length)
            ids = encoder.tokenize(pair)
            batch = encoder.batch([(ids[0], ids[1])])
            assert batch.input_ids[0].tolist() == expected["input_ids"][0]
            assert batch.token_type_ids is not None
            assert batch.token_type_ids[0].tolist() == expected["token_type_ids"][0]
            assert encoder.length((ids[0], ids[1])) == len(expected["input_ids"][0])


def test_a_query_longer_than_the_limit_leaves_the_document_room(tokenizer: Any) -> None:
    long_query, document = " ".join("a" * 500), " ".join("b" * 500)
    first = PairEncoder(tokenizer, max_length=64)
    assert first.lengths(500, 500) == (30, 31)
    second = PairEncoder(tokenizer, max_length=64, query_max_length=48, truncation="only_second")
    assert second.lengths(500, 500) == (48, 13)
    query, text = second.tokenize([long_query, document])
    assert second.batch([(query, text)]).input_ids.shape == (1, 64)


def test_left_truncation_and_left_padding_are_kept(tiny: dict[str, Path]) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny["bert"], truncation_side="left", padding_side="left")
    encoder = PairEncoder(tokenizer, max_length=12)
    pairs = [("a", "b c d e f g h i j k l m"), ("a", "b")]
    ids = [tuple(encoder.tokenize(pair)) for pair in pairs]
    expected = tokenizer(*zip(*pairs, strict=True), truncation=True, max_length=12, padding=True)
    batch = encoder.batch(ids)  # type: ignore[arg-type]
    assert batch.input_ids.tolist() == expected["input_ids"]
    assert batch.attention_mask.tolist() == expected["attention_mask"]


def test_a_tokenizer_written_in_python_works_too() -> None:
    from transformers import CanineTokenizer

    tokenizer = CanineTokenizer(model_max_length=32)
    encoder = PairEncoder(tokenizer, max_length=32)
    query, text = encoder.tokenize(["who", "Turing 中"])
    assert encoder.batch([(query, text)]).input_ids[0].tolist() == tokenizer("who", "Turing 中")["input_ids"]


def test_limits_without_room_say_what_to_use(tokenizer: Any) -> None:
    with pytest.raises(InputError, match="max_length=4 leaves no room beside 3 special tokens; use at least 5"):
        PairEncoder(tokenizer, max_length=4)


@pytest.mark.parametrize(
    ("limit", "truncation", "expected"),
    [
        (60, "only_second", (60, 1)),
        (61, "only_second", (48, 13)),
        (256, "only_second", (48, 13)),
        (None, "only_second", (48, 13)),
        (None, "longest_first", (30, 31)),
        (61, "longest_first", (30, 31)),
        (7, "longest_first", (7, 54)),
    ],
)
def test_the_querys_limit_always_leaves_the_document_room(
    tokenizer: Any, limit: int | None, truncation: Any, expected: tuple[int, int]
) -> None:
    encoder = PairEncoder(tokenizer, max_length=64, query_max_length=limit, truncation=truncation)
    assert encoder.lengths(500, 500) == expected


def test_a_query_alone_in_a_small_limit_keeps_one_token(tokenizer: Any) -> None:
    assert PairEncoder(tokenizer, max_length=5, truncation="only_second").lengths(500, 500) == (1, 1)
