"""Token ids and scores remembered: bounded, shared by threads, and never those of another model or setting."""

import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pair_texts import QUERIES, TEXTS

from milvus_rerank import BatchOptions, CrossEncoderRerankFunction
from milvus_rerank.engines import Batch
from milvus_rerank.errors import InputError
from milvus_rerank.scoring import scorer as scorer_module
from milvus_rerank.scoring.caches import CachedScore, ScoreCache, TokenCache
from milvus_rerank.scoring.pair_encoder import PairEncoder
from milvus_rerank.scoring.prepared import split_pairs
from milvus_rerank.scoring.scorer import PairScorer


class Counting:
    """Score a pair by the sum of its token ids and count pairs."""

    name = "counting"
    device = "cpu"
    dtype = "float32"
    pad_to_multiple_of = 1

    def __init__(self) -> None:
        self.pairs = 0

    def logits(self, batch: Batch) -> np.ndarray:
        self.pairs += len(batch.input_ids)
        return np.asarray((batch.input_ids * batch.attention_mask).sum(axis=1), dtype=np.float32)


class CountingEncoder(PairEncoder):
    """Count the texts that are tokenised."""

    texts = 0

    def tokenize(self, texts: Any) -> Any:
        self.texts += len(texts)
        return super().tokenize(texts)


@pytest.fixture(scope="module")
def tokenizer(tiny: dict[str, Path]) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(tiny["bert"])


def test_documents_seen_before_are_not_tokenised_again(tokenizer: Any) -> None:
    encoder = CountingEncoder(tokenizer, max_length=64)
    scorer = PairScorer(encoder, Counting())
    first = scorer.score([("one query", TEXTS)])
    assert encoder.texts == 1 + len(TEXTS)
    second = scorer.score([("another query", TEXTS)])
    assert encoder.texts == 2 + len(TEXTS)
    assert second != first
    assert second == PairScorer(PairEncoder(tokenizer, max_length=64, token_cache=0), Counting()).score(
        [("another query", TEXTS)]
    )


def test_the_token_cache_keeps_to_its_size_and_forgets_the_oldest() -> None:
    cache = TokenCache(4000)
    ids = {
        text: np.arange(size) for text, size in {"four": 40, "five": 50, "empty": 0, "three": 60, "huge": 500}.items()
    }
    cache.put(["four", "five", "empty"], [ids["four"], ids["five"], ids["empty"]])
    assert set(cache.get(["four"])) == {"four"}, "now five is the oldest"
    cache.put(["three", "huge"], [ids["three"], ids["huge"]])
    assert set(cache.get(list(ids))) == {"four", "five", "empty", "three"}
    cache.put(["big"], [np.arange(200)])
    assert set(cache.get([*ids, "big"])) == {"empty", "three", "big"}


@pytest.mark.parametrize(("characters", "tokens"), [(0, 0), (150, 40), (1000, 235), (50_000, 1), (60_000, 15_000)])
def test_the_token_cache_takes_the_bytes_that_it_says(characters: int, tokens: int) -> None:
    cache = TokenCache(2_000_000)
    tracemalloc.start()
    try:
        for number in range(2_000_000 // (characters + 8 * tokens + 200) + 100):
            cache.put([f"{number:08d}{'x' * characters}"], [np.arange(tokens)])
        assert tracemalloc.get_traced_memory()[0] == pytest.approx(2_000_000, rel=0.1)
    finally:
        tracemalloc.stop()


def test_a_token_cache_of_nothing_remembers_nothing() -> None:
    cache = TokenCache(0)
    cache.put(["a", ""], [np.arange(1), np.arange(0)])
    assert cache.get(["a", ""]) == {}


def test_known_pairs_are_not_scored_again(tokenizer: Any) -> None:
    engine, cache = Counting(), ScoreCache(100)
    scorer = PairScorer(PairEncoder(tokenizer, max_length=64), engine, score_cache=cache, settings="a")
    first = scorer.score([("query", TEXTS), ("other", TEXTS[:3])])
    assert engine.pairs == len(TEXTS) + 3 == len(cache)
    assert scorer.score([("query", TEXTS), ("other", TEXTS[:3])]) == first
    assert engine.pairs == len(TEXTS) + 3
    mixed = scorer.score([("query", ["new one", *TEXTS[:2]])])[0]
    assert engine.pairs == len(TEXTS) + 4
    assert mixed[1:] == first[0][:2]
    assert (cache.hits, cache.misses) == (len(TEXTS) + 3 + 2, len(TEXTS) + 3 + 1)


def test_query_and_document_are_not_taken_for_each_other() -> None:
    cache = ScoreCache(10)
    cache.put("model", [("ab", "c"), ("x", "y")], [CachedScore(1.0), CachedScore(2.0)])
    assert cache.get("model", [("a", "bc"), ("abc", ""), ("y", "x"), ("ab", "c")]) == [
        None,
        None,
        None,
        CachedScore(1.0),
    ]
    assert cache.get("other model", [("ab", "c")]) == [None]


def test_the_score_cache_keeps_to_its_size() -> None:
    cache = ScoreCache(3)
    cache.put("m", [("q", str(number)) for number in range(5)], [CachedScore(float(number)) for number in range(5)])
    assert len(cache) == 3
    assert cache.get("m", [("q", "1"), ("q", "2")]) == [None, CachedScore(2.0)]


def test_rerankers_that_share_a_cache_share_only_what_is_the_same(tiny: dict[str, Path]) -> None:
    cache = ScoreCache()

    def reranker(folder: str = "bert", **options: Any) -> CrossEncoderRerankFunction:
        return CrossEncoderRerankFunction(str(tiny[folder]), device="cpu", score_cache=cache, **options)

    def misses(function: CrossEncoderRerankFunction) -> int:
        before = cache.misses
        plain = function.score(QUERIES[0], TEXTS[:5])
        assert plain == function.score(QUERIES[0], TEXTS[:5])
        return cache.misses - before

    assert misses(reranker()) == 5
    assert misses(reranker()) == 0
    assert misses(reranker(activation_fct="sigmoid")) == 0, "logits are kept, whatever is made of them"
    assert misses(reranker("electra")) == 5
    assert misses(reranker(max_length=16)) == 5
    assert misses(reranker(query_max_length=4)) == 5
    assert misses(reranker(engine="torch")) == 5
    assert misses(reranker(engine="torch", dtype="bfloat16")) == 5


def test_caches_are_right_under_threads(tiny: dict[str, Path]) -> None:
    plain = CrossEncoderRerankFunction(str(tiny["bert"]), device="cpu", batching=BatchOptions(token_cache=0))
    cached = CrossEncoderRerankFunction(
        str(tiny["bert"]), device="cpu", batching=BatchOptions(token_cache=3000), score_cache=20
    )
    jobs = [(query, TEXTS[start:]) for query in QUERIES for start in range(4)] * 4
    expected = [plain.score(*job) for job in jobs]
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda job: cached.score(*job), jobs))
    np.testing.assert_allclose(np.concatenate(found), np.concatenate(expected), atol=1e-6, rtol=0)
    assert len(cached.scorer.score_cache or []) <= 20


@pytest.mark.parametrize(
    "options", [{"score_cache": -1}, {"batching": BatchOptions(token_cache=-5)}, {"score_cache": "big"}]
)
def test_a_size_that_is_none_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="must be an integer, 0 for none"):
        CrossEncoderRerankFunction(**options)


def test_pairs_are_split_by_their_number_and_by_their_length() -> None:
    pairs = [("q", "x" * length) for length in (3, 4, 2, 9, 1, 1, 1, 1)]
    lengths = [[len(text) for _, text in part] for part in split_pairs(pairs, 3, 8)]
    assert lengths == [[3], [4, 2], [9], [1, 1, 1], [1]]  # the first part is a quarter
    assert list(split_pairs([], 3, 8)) == []


def test_more_pairs_than_a_window_come_back_in_order(tokenizer: Any) -> None:
    encoder, engine = CountingEncoder(tokenizer, max_length=64, token_cache=0), Counting()
    count = 2 * scorer_module.AT_ONCE + 10
    documents = [f"{number} {'ab ' * (number % 7)}" for number in range(count)]
    found = PairScorer(encoder, engine, max_batch_tokens=4096).score([("a query", documents)])[0]
    assert engine.pairs == count
    some = range(0, count, 997)
    alone = PairScorer(encoder, Counting()).score([("a query", [documents[place] for place in some])])[0]
    assert [found[place] for place in some] == alone
