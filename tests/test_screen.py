"""Early exit: the best k are those of the exact scores, and what is out of reach is scored roughly only."""

import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from milvus_rerank import CrossEncoderRerankFunction
from milvus_rerank.engines import Batch, ConstantEngine
from milvus_rerank.errors import InputError
from milvus_rerank.reranker.engine import EngineRerankFunction
from milvus_rerank.scoring.pairs import PairEncoder
from milvus_rerank.scoring.scorer import PairScorer

DOCUMENTS = [" ".join("abcdefghij"[int(digit)] for digit in f"{number:03}") for number in range(200)]


class Table:
    """Score each pair by a table over the number that its document spells, and note which were asked for."""

    def __init__(self, tokenizer: Any, values: np.ndarray) -> None:
        self.asked: list[int] = []
        self._values = values
        ids = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in DOCUMENTS]
        numbers = {tuple(own): number for number, own in enumerate(ids)}
        self._numbers, self._tokenizer = numbers, tokenizer
        self.scorer = PairScorer(PairEncoder(tokenizer, max_length=32), ConstantEngine(self._run))

    def _run(self, batch: Batch) -> np.ndarray:
        found = []
        for row, mask in zip(batch.input_ids.tolist(), batch.attention_mask.sum(axis=1).tolist(), strict=True):
            document = row[row.index(self._tokenizer.sep_token_id) + 1 : mask - 1]
            found.append(self._numbers[tuple(document)])
        self.asked += found
        return self._values[found].astype(np.float32)


@pytest.fixture(scope="module")
def tokenizer(tiny: dict[str, Path]) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(tiny["bert"])


def ranked(tokenizer: Any, noise: float, top_k: int | None) -> tuple[list[int], list[int], int]:
    generator = np.random.default_rng(3)
    exact = generator.normal(0, 3, len(DOCUMENTS))
    rough = exact + generator.uniform(-noise, noise, len(DOCUMENTS))
    slow, fast = Table(tokenizer, exact), Table(tokenizer, rough)
    function = EngineRerankFunction(slow.scorer, model_name="table", screen=fast.scorer)
    found = function("query", DOCUMENTS, top_k)
    best = np.argsort(-exact)[:top_k].tolist()
    assert [result.score for result in found] == [float(np.float32(exact[index])) for index in best]
    return [result.index for result in found], best, len(slow.asked)


def test_the_best_are_the_exact_ones_and_few_are_scored_exactly(tokenizer: Any) -> None:
    found, best, exact = ranked(tokenizer, noise=0.1, top_k=10)
    assert found == best
    assert 10 <= exact < 30


def test_noise_above_the_margin_is_noticed_and_more_documents_are_looked_at(tokenizer: Any) -> None:
    found, best, exact = ranked(tokenizer, noise=1.5, top_k=10)
    assert found == best
    assert 30 < exact < 200


def test_all_results_asked_for_means_all_are_exact(tokenizer: Any) -> None:
    for top_k in (None, 0, 200, 500):
        found, best, exact = ranked(tokenizer, noise=0.1, top_k=top_k or None)
        assert found == best
        assert exact == 200


def test_each_query_has_its_own_best(tokenizer: Any) -> None:
    values = np.arange(200.0)
    slow, fast = Table(tokenizer, values), Table(tokenizer, values + 0.01)
    function = EngineRerankFunction(slow.scorer, model_name="table", screen=fast.scorer)
    found = function.rerank_many(["one", "two", "three"], [DOCUMENTS[:50], DOCUMENTS[100:], []], top_k=3)
    assert [[result.score for result in own] for own in found] == [[49.0, 48.0, 47.0], [199.0, 198.0, 197.0], []]
    assert sorted(slow.asked) == [47, 48, 49, 197, 198, 199]


def test_scores_of_all_are_exact_whatever_the_screen(tokenizer: Any) -> None:
    values = np.arange(200.0)
    function = EngineRerankFunction(
        Table(tokenizer, values).scorer, model_name="table", screen=Table(tokenizer, -values).scorer
    )
    assert function.score("query", DOCUMENTS) == values.tolist()
    assert function.score_pairs([("query", DOCUMENTS[7]), ("other", DOCUMENTS[9])]) == [7.0, 9.0]


def test_hits_are_screened_too(tokenizer: Any) -> None:
    values = np.arange(200.0)
    slow = Table(tokenizer, values)
    function = EngineRerankFunction(slow.scorer, model_name="table", screen=Table(tokenizer, values).scorer)
    hits = [{"id": number, "distance": 0.0, "entity": {"text": text}} for number, text in enumerate(DOCUMENTS)]
    assert [result.id for result in function.rerank_hits("query", hits, top_k=2)] == [199, 198]
    assert sorted(slow.asked) == [198, 199]


def test_a_set_stop_ends_a_screen(tokenizer: Any) -> None:
    from milvus_rerank.errors import StoppedError

    values = np.arange(200.0)
    function = EngineRerankFunction(
        Table(tokenizer, values).scorer, model_name="table", screen=Table(tokenizer, values).scorer
    )
    stop = threading.Event()
    stop.set()
    with pytest.raises(StoppedError):
        function.judge([("query", DOCUMENTS)], 3, stop)


def test_a_real_model_gives_the_same_results_with_and_without(tiny: dict[str, Path]) -> None:
    folder = str(tiny["bert"])
    plain = CrossEncoderRerankFunction(folder, device="cpu", engine="torch")
    screened = CrossEncoderRerankFunction(folder, device="cpu", engine="torch", screen="bfloat16")
    assert "screen='bfloat16'" in repr(screened)
    texts = [f"{text} {number}" for number in range(8) for text in ("vector search", "the lazy dog", "1956", "a")]
    expected = plain("who would count them", texts, top_k=5)
    found = screened("who would count them", texts, top_k=5)
    assert [result.index for result in found] == [result.index for result in expected]
    np.testing.assert_allclose([r.score for r in found], [r.score for r in expected], atol=1e-5, rtol=0)


def test_a_screen_in_the_same_dtype_is_refused() -> None:
    with pytest.raises(InputError, match="is the dtype of the scores themselves"):
        CrossEncoderRerankFunction(screen="float32")


def test_a_screen_that_is_no_dtype_is_named_as_the_screen() -> None:
    with pytest.raises(InputError, match=r"screen must be one of .*'bfloat16'.* got 'bf16'"):
        CrossEncoderRerankFunction(screen="bf16")
