"""Documents too long for the model, read in windows."""

import asyncio
import random
import re
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pair_texts import MAX_LENGTH
from present import present
from serving import serving
from tiny_decoders import save_causal_model
from tokenizers import Tokenizer

from milvus_rerank import BatchOptions, BGERerankFunction, CrossEncoderRerankFunction, FlagOptions
from milvus_rerank.engines.select import EngineName
from milvus_rerank.errors import InputError
from milvus_rerank.scoring.caches import ScoreCache
from milvus_rerank.scoring.encoder import Chunks, starts

QUERY = "who proposed a test"
WORDS = re.findall(
    r"\w+", "the quick brown fox jumps over the lazy dog and turing proposed a test of intelligence in 1950"
)
# Several: a tokenizer trained here is not the same in every run, and in one of them the first window may count.
LONGS = [" ".join(random.Random(seed).choices(WORDS, k=300)) for seed in range(6)]
LONG = LONGS[0]
DOCUMENTS = ["a short one", LONG, "", " ".join(WORDS[:5]), LONG[::-1]]


def long_reranker(folder: Path, **options: Any) -> CrossEncoderRerankFunction:
    return CrossEncoderRerankFunction(str(folder), device="cpu", **options)


def windows_of(reranker: Any) -> list[Any]:
    """Return the windows over LONG."""
    [row] = reranker.scorer.encoder.rows([(QUERY, LONG)], threading.Event())
    windows: list[Any] = reranker.scorer.encoder.windows(row, reranker.scorer.chunks)
    return windows


def by_hand(reranker: CrossEncoderRerankFunction, document: str, chunks: Chunks) -> list[float]:
    """The scores of all windows of a document, each scored as a document of its own."""
    encoder: Any = reranker.scorer.encoder
    [(query, ids)] = encoder.rows([(QUERY, document)])
    room = min(MAX_LENGTH - 3 - len(query), chunks.tokens or 10**9)
    windows = [ids[start : start + room] for start in starts(len(ids), room, chunks)]
    batches = [encoder.batch([(query, window)]) for window in windows]
    logits = np.concatenate([reranker.scorer.engine.logits(batch) for batch in batches])
    return [float(score) for score in reranker.scorer.activation(logits)]


@pytest.mark.parametrize(
    ("length", "room", "overlap", "expected"),
    [
        (10, 10, 2, [0]),
        (11, 10, 2, [0, 1]),
        (18, 10, 2, [0, 8]),
        (19, 10, 2, [0, 8, 9]),
        (30, 10, 0, [0, 10, 20]),
        (25, 10, 9, [0, 5, 10, 15]),  # at most half a window is shared
        (3, 1, 64, [0, 1, 2]),
    ],
)
def test_windows_cover_a_document(length: int, room: int, overlap: int, expected: list[int]) -> None:
    found = starts(length, room, Chunks(overlap=overlap))
    assert found == expected
    covered = {token for start in found for token in range(start, start + room)}
    assert set(range(length)) <= covered


@pytest.mark.parametrize("tokens", [None, 20])
@pytest.mark.parametrize("score", ["max", "mean", "first"])
def test_a_long_documents_score_is_that_of_its_windows(tiny: dict[str, Path], score: str, tokens: int | None) -> None:
    chunks = Chunks(score, tokens, overlap=8)  # type: ignore[arg-type]
    reranker = long_reranker(tiny["bert"], long=chunks)
    for document in [*DOCUMENTS, *LONGS]:
        windows = by_hand(reranker, document, Chunks("max", tokens, overlap=8))
        expected = {"max": max(windows), "mean": float(np.mean(windows)), "first": windows[0]}[score]
        assert reranker.score(QUERY, [document]) == pytest.approx([expected], abs=1e-5)
    every = [by_hand(reranker, document, Chunks("max", tokens, overlap=8)) for document in LONGS]
    assert min(map(len, every)) > 5
    kinds = [sorted([max(windows), float(np.mean(windows)), windows[0]]) for windows in every]
    assert max(np.diff(own).min() for own in kinds) > 1e-3, "the three ways do not differ"


def test_first_is_what_cutting_off_gives_and_short_documents_stay_as_they_are(tiny: dict[str, Path]) -> None:
    plain = long_reranker(tiny["bert"]).score(QUERY, DOCUMENTS)
    assert long_reranker(tiny["bert"], long=Chunks("first")).score(QUERY, DOCUMENTS) == pytest.approx(plain, abs=1e-5)
    best = long_reranker(tiny["bert"], long="chunk").score(QUERY, DOCUMENTS)
    assert [best[place] for place in (0, 2, 3)] == pytest.approx([plain[place] for place in (0, 2, 3)], abs=1e-5)
    cut, read = (long_reranker(tiny["bert"], long=long).score(QUERY, LONGS) for long in ("truncate", "chunk"))
    assert all(one >= other - 1e-5 for one, other in zip(read, cut, strict=True))
    assert max(np.subtract(read, cut)) > 1e-3


@pytest.mark.parametrize("engine", ["torch", "openvino"])
@pytest.mark.parametrize("name", ["bert", "roberta", "xlm-roberta", "modernbert"])
def test_the_span_is_the_window_that_counted(tiny: dict[str, Path], name: str, engine: EngineName) -> None:
    reranker = long_reranker(tiny[name], long="chunk", engine=engine)
    results = {one.index: one for one in reranker(QUERY, DOCUMENTS, top_k=0)}
    assert [results[place].span is None for place in range(5)] == [True, False, True, True, False]
    assert results[1].span is not None
    start, end = results[1].span
    assert 0 < end - start < len(LONG)
    # The text of the window alone, which is short enough to be read whole, has the document's score.
    assert reranker.score(QUERY, [LONG[start:end]]) == pytest.approx([results[1].score], abs=1e-4)
    assert results[1].to_dict()["span"] == [start, end]
    assert results[1].text == LONG


def test_spans_of_language_models_and_of_instructions(tmp_path: Path, tiny: dict[str, Path]) -> None:
    folder = save_causal_model("qwen3", tmp_path, length=160)
    for reranker in (
        CrossEncoderRerankFunction(str(folder), device="cpu", long=Chunks(overlap=8)),
        BGERerankFunction(
            str(tiny["bert"]),
            device="cpu",
            max_length=64,
            flag=FlagOptions(passage_instruction_for_rerank="text: "),
            long="chunk",
        ),
    ):
        [result] = reranker(QUERY, [LONG])
        assert result.span is not None
        start, end = result.span
        assert 0 <= start < end <= len(LONG)
        assert any(LONG[start:end].startswith(word) or LONG[start - 1] != " " for word in WORDS)
        windows = reranker.scorer.encoder.windows(
            reranker.scorer.encoder.rows([(QUERY, LONG)], threading.Event())[0], present(reranker.scorer.chunks)
        )
        assert len(windows) > 3


def test_the_mean_is_of_no_window_and_has_no_span(tiny: dict[str, Path]) -> None:
    [result] = long_reranker(tiny["bert"], long=Chunks("mean"))(QUERY, [LONG])
    assert result.span is None


def test_hits_async_and_many_queries_have_spans_too(tiny: dict[str, Path]) -> None:
    reranker = long_reranker(tiny["bert"], long="chunk")
    [expected] = reranker(QUERY, [LONG])
    hits = [{"id": number, "distance": 0.5, "entity": {"text": text}} for number, text in enumerate(DOCUMENTS)]
    found = {hit.id: hit for hit in reranker.rerank_hits(QUERY, hits)}
    assert found[1].span == expected.span
    assert found[1].score == pytest.approx(expected.score, abs=1e-5)
    assert asyncio.run(reranker.arerank(QUERY, [LONG]))[0].span == expected.span
    assert reranker.rerank_many(["other", QUERY], [["x"], [LONG]])[1][0].span == expected.span


def test_a_score_cache_remembers_windows_as_well(tiny: dict[str, Path]) -> None:
    cache = ScoreCache(100)
    reranker = long_reranker(tiny["bert"], long="chunk", score_cache=cache)
    first = reranker(QUERY, DOCUMENTS, top_k=0)
    misses = cache.misses
    assert reranker(QUERY, DOCUMENTS, top_k=0) == first
    assert cache.misses == misses
    other = long_reranker(tiny["bert"], score_cache=cache)  # the same model, cutting off: other settings
    assert other.score(QUERY, LONGS) != reranker.score(QUERY, LONGS)


def test_the_server_reads_windows_too(tiny: dict[str, Path]) -> None:
    for cache in (0, 100):
        reranker = long_reranker(tiny["bert"], long="chunk", score_cache=cache)
        expected = reranker.score(QUERY, DOCUMENTS)
        with serving({"m": lambda reranker=reranker: reranker}) as server:  # type: ignore[misc]
            for _ in range(2):
                answer = server.post("/v2/rerank", {"query": QUERY, "documents": DOCUMENTS}).json()["results"]
                found = {row["index"]: row["relevance_score"] for row in answer}
                assert [found[place] for place in range(5)] == pytest.approx(expected, abs=1e-5)


def test_one_pass_over_all_windows_of_all_documents(tiny: dict[str, Path]) -> None:
    reranker = long_reranker(tiny["bert"], long="chunk", batching=BatchOptions(max_batch_tokens=1024), engine="torch")
    sizes: list[tuple[int, ...]] = []
    logits = reranker.scorer.engine.logits

    class Counting:
        name, device, dtype, pad_to_multiple_of = "counting", "cpu", "float32", 1

        def logits(self, batch: Any) -> Any:
            sizes.append(batch.input_ids.shape)
            return logits(batch)

    reranker.scorer.engine = Counting()
    reranker.score(QUERY, [LONG, *DOCUMENTS])
    windows = len(by_hand(reranker, LONG, Chunks())) + len(by_hand(reranker, LONG[::-1], Chunks())) + 3
    del sizes[-(windows - 3) :]
    assert sum(rows for rows, _ in sizes) == windows  # a text that comes twice is scored once
    assert all(rows * width <= 1024 for rows, width in sizes)
    assert len(sizes) < windows / 8


@pytest.mark.parametrize(
    ("long", "message"),
    [
        ("chunks", r"long must be 'truncate', 'chunk' or Chunks\(...\), got 'chunks'"),
        (None, "long must be 'truncate', 'chunk' or Chunks"),
        (True, "long must be 'truncate', 'chunk' or Chunks"),
    ],
)
def test_another_word_is_refused(long: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        CrossEncoderRerankFunction(device="cpu", long=long)


def test_windows_that_cannot_be_are_refused() -> None:
    with pytest.raises(InputError, match="score must be one of 'max', 'mean', 'first', got 'best'"):
        Chunks("best")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="windows of 64 tokens cannot share 64; use a smaller overlap"):
        Chunks(tokens=64)
    with pytest.raises(InputError, match="overlap must be an integer, 0 for none, got int: -1"):
        Chunks(overlap=-1)
    with pytest.raises(TypeError, match="stride"):
        Chunks(stride=5)  # type: ignore[call-arg]


def test_every_window_keeps_what_stands_around_a_document(tiny: dict[str, Path]) -> None:
    flag = FlagOptions(passage_instruction_for_rerank="text 1", passage_instruction_format="{} {} end")
    long = Chunks(tokens=20, overlap=4)
    reranker = BGERerankFunction(str(tiny["bert"]), device="cpu", max_length=64, flag=flag, long=long)
    encoder: Any = reranker.scorer.encoder
    windows = encoder.windows(
        reranker.scorer.encoder.rows([(QUERY, LONG)], threading.Event())[0], present(reranker.scorer.chunks)
    )
    tokenizer = Tokenizer.from_file(str(tiny["bert"] / "tokenizer.json"))
    texts = [tokenizer.decode(ids.tolist()) for _, ids in windows]
    assert len(texts) > 10
    assert all(text.startswith("text 1 ") and text.endswith(" end") for text in texts)
    before, after = encoder._around
    inner = [ids[before : len(ids) - after] for _, ids in windows]
    assert {len(own) for own in inner} == {20}
    start, end = encoder.span((QUERY, LONG), 1, reranker.scorer.chunks)
    assert LONG[start:end].lower() == tokenizer.decode(inner[1].tolist())


@pytest.mark.parametrize("max_length", [14, 15, 31, 32])
def test_a_window_is_never_cut_again(tiny: dict[str, Path], max_length: int) -> None:
    reranker = long_reranker(tiny["bert"], long=Chunks(overlap=0), max_length=max_length)
    encoder: Any = reranker.scorer.encoder
    for words in (1, 5, 8, 12, 40):
        [row] = reranker.scorer.encoder.rows([(" ".join(WORDS[:words] * 3), LONG)], threading.Event())
        read = [token for _, ids in encoder.windows(row, Chunks(overlap=0)) for token in ids.tolist()]
        kept = [
            encoder.lengths(len(row[0]), len(ids))[1] == len(ids) for _, ids in encoder.windows(row, Chunks(overlap=0))
        ]
        assert all(kept)
        assert set(read) == set(row[1].tolist())


def test_scores_alone_look_for_no_spans(tiny: dict[str, Path]) -> None:
    reranker = long_reranker(tiny["bert"], long="chunk", score_cache=100)
    reranker.score(QUERY, LONGS)
    spans: list[Any] = []
    span = reranker.scorer.encoder.span

    def note(*given: Any) -> Any:
        spans.append(given)
        return span(*given)

    reranker.scorer.encoder.span = note  # type: ignore[method-assign, assignment]
    reranker.score(QUERY, LONGS)
    reranker.score_pairs([(QUERY, LONG)])
    assert spans == []
    reranker(QUERY, LONGS, top_k=2)
    assert len(spans) == 2
