"""What a user may do wrong, and what every reranker owes them, in each family."""

import asyncio
import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from serving import serving
from tiny_decoders import save_causal_model
from tiny_models import save_tiny_model

from milvus_rerank import (
    BaseRerankFunction,
    BGERerankFunction,
    CascadeRerankFunction,
    Chunks,
    CrossEncoderRerankFunction,
    FlagOptions,
    LexicalRerankFunction,
    TEIRerankFunction,
)
from milvus_rerank.errors import HitError, InputError

pytestmark = pytest.mark.compat

FLAG = Path(__file__).resolve().parents[1] / "flag_embedding"
QUERY = "who proposed a test"
DOCUMENTS = ["Turing proposed a test", "", "🙂 中文 العربية", "a" * 5000, "nul \0 and \ufffe", "Turing proposed a test"]
FAMILIES = (
    "cross-encoder",
    "label",
    "chunks",
    "bge-gemma",
    "bge-layerwise",
    "bge-lightweight",
    "causal",
    "causal-chunks",
    "cascade",
    "service",
)


@pytest.fixture(scope="module")
def families(
    tiny: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, BaseRerankFunction]]:
    root = tmp_path_factory.mktemp("families")
    causal = str(save_causal_model("qwen3", root / "causal", length=256))
    labels = str(save_tiny_model("bert", root / "labels", labels=3, activation=None))
    bert = str(tiny["bert"])
    makers: dict[str, Callable[[], BaseRerankFunction]] = {
        "cross-encoder": lambda: CrossEncoderRerankFunction(bert, device="cpu"),
        "label": lambda: CrossEncoderRerankFunction(labels, device="cpu", label=1),
        "chunks": lambda: CrossEncoderRerankFunction(bert, device="cpu", long="chunk"),
        "bge-gemma": lambda: BGERerankFunction(str(FLAG / "bge-reranker-v2-gemma"), device="cpu"),
        "bge-layerwise": lambda: BGERerankFunction(str(FLAG / "bge-reranker-v2-minicpm-layerwise"), device="cpu"),
        "bge-lightweight": lambda: BGERerankFunction(
            str(FLAG / "bge-reranker-v2.5-gemma2-lightweight"),
            device="cpu",
            flag=FlagOptions(compress_layers=[2], compress_ratio=2),
        ),
        "causal": lambda: CrossEncoderRerankFunction(causal, device="cpu"),
        "causal-chunks": lambda: CrossEncoderRerankFunction(causal, device="cpu", long=Chunks(overlap=8)),
        "cascade": lambda: CascadeRerankFunction([(LexicalRerankFunction(), 4), (bert, None)]),
    }
    made = {name: make() for name, make in makers.items()}
    with serving({"m": lambda: made["cross-encoder"]}) as server, TEIRerankFunction(server.address) as service:
        yield {**made, "service": service}


@pytest.fixture(params=FAMILIES)
def reranker(families: dict[str, BaseRerankFunction], request: pytest.FixtureRequest) -> BaseRerankFunction:
    return families[request.param]


def test_odd_texts_have_finite_scores_and_equal_ones_the_same(reranker: BaseRerankFunction) -> None:
    results = reranker(QUERY, DOCUMENTS, top_k=0)
    assert sorted(result.index for result in results) == list(range(len(DOCUMENTS)))
    assert all(type(result.score) is float and math.isfinite(result.score) for result in results)
    assert all(result.text == DOCUMENTS[result.index] for result in results)
    by_index = {result.index: result for result in results}
    assert (by_index[0].score, by_index[0].stage) == (by_index[5].score, by_index[5].stage)
    assert [one.index for one in results].index(0) + 1 == [one.index for one in results].index(5)  # ties by place
    assert len({one.score for one in results}) > 2
    json.dumps([result.to_dict() for result in results], allow_nan=False)


@pytest.mark.parametrize(
    ("query", "documents", "options", "message"),
    [
        (None, ["a"], {}, "query must be a string, got NoneType"),
        (5, ["a"], {}, "query must be a string, got int"),
        (QUERY, "a text", {}, "documents must be a list of strings, got a single string"),
        (QUERY, ["a", None], {}, r"documents\[1\] must be a string, got NoneType"),
        (QUERY, ["a", b"b"], {}, r"documents\[1\] must be a string, got bytes"),
        (QUERY, ["half \ud800"], {}, r"documents\[0\] holds half of a surrogate pair"),
        (QUERY, {"a": 1}, {}, "documents must be a list of strings, got dict"),
        (QUERY, ["a"], {"top_k": -1}, "top_k must not be negative"),
        (QUERY, ["a"], {"top_k": 1.5}, "top_k must be an integer"),
        (QUERY, ["a"], {"threshold": float("nan")}, "threshold must be a number or None"),
    ],
)
def test_what_cannot_be_used_is_told_the_same_everywhere(
    reranker: BaseRerankFunction, query: Any, documents: Any, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        reranker(query, documents, **options)
    with pytest.raises(InputError, match=message):
        asyncio.run(reranker.arerank(query, documents, **options))


def test_no_documents_give_no_results(reranker: BaseRerankFunction) -> None:
    assert reranker(QUERY, []) == []
    assert reranker.rerank_many(["a", "b"], [[], ["x"]])[0] == []
    assert reranker.score_pairs([]) == []


def test_every_way_to_ask_gives_the_same_scores(reranker: BaseRerankFunction) -> None:
    scores = reranker.score(QUERY, DOCUMENTS)
    close = pytest.approx(scores, abs=1e-5)
    assert asyncio.run(reranker.ascore(QUERY, DOCUMENTS)) == close
    assert reranker.score_pairs([(QUERY, document) for document in DOCUMENTS]) == close
    hits = [{"id": place, "distance": 0.1, "entity": {"text": text}} for place, text in enumerate(DOCUMENTS)]
    found = reranker.rerank_hits(QUERY, hits)
    assert [one.id for one in found] == [one.index for one in reranker(QUERY, DOCUMENTS, top_k=0)]
    many = reranker.rerank_many([QUERY, "other"], [DOCUMENTS, DOCUMENTS[:2]], top_k=2)
    assert [one.index for one in many[0]] == [one.id for one in found[:2]]
    assert [one.score for one in many[0]] == pytest.approx([one.score for one in found[:2]], abs=1e-5)


def test_a_hit_without_text_is_told(reranker: BaseRerankFunction) -> None:
    with pytest.raises(HitError, match="field 'text' is missing; the hit has the fields"):
        reranker.rerank_hits(QUERY, [{"id": 1, "distance": 0.5, "entity": {"title": "x"}}])


def test_numpy_strings_are_taken(reranker: BaseRerankFunction) -> None:
    array: Any = np.array(["a", "b"])
    assert reranker.score(QUERY, array) == pytest.approx(reranker.score(QUERY, ["a", "b"]), abs=1e-6)


@pytest.mark.parametrize("family", ["label", "bge-layerwise", "bge-lightweight", "causal", "causal-chunks", "cascade"])
def test_the_server_answers_with_the_same_scores(families: dict[str, BaseRerankFunction], family: str) -> None:
    expected = families[family].score(QUERY, DOCUMENTS)
    with serving({"m": lambda: families[family]}) as server:
        answer = server.post("/v2/rerank", {"query": QUERY, "documents": DOCUMENTS}).json()["results"]
    assert [row["relevance_score"] for row in sorted(answer, key=lambda row: row["index"])] == pytest.approx(
        expected, abs=1e-5
    )


@pytest.mark.parametrize("family", ["bge-gemma", "bge-layerwise", "bge-lightweight", "causal"])
def test_batches_of_any_size_give_the_same_scores(families: dict[str, BaseRerankFunction], family: str) -> None:
    function: Any = families[family]
    expected = function.score(QUERY, DOCUMENTS)
    before = function.scorer.max_batch_tokens
    try:
        for budget in (1, 300, 100_000):
            function.scorer.max_batch_tokens = budget
            assert function.score(QUERY, DOCUMENTS) == pytest.approx(expected, abs=2e-6)
    finally:
        function.scorer.max_batch_tokens = before


@pytest.mark.parametrize("folder", ["bge-reranker-v2-gemma", "bge-reranker-v2.5-gemma2-lightweight"])
def test_bfloat16_stays_near(folder: str) -> None:
    exact = np.array(BGERerankFunction(str(FLAG / folder), device="cpu", normalize=False).score(QUERY, DOCUMENTS))
    rough = BGERerankFunction(str(FLAG / folder), device="cpu", normalize=False, dtype="bfloat16")
    assert rough.scorer.engine.dtype == "bfloat16"
    found = np.array(rough.score(QUERY, DOCUMENTS))
    assert 0 < np.abs(found - exact).max() < 0.1 * max(np.ptp(exact), 0.05)
