"""Steps on a framework's documents, without any framework."""

from typing import Any

import pytest

from milvus_rerank import LexicalRerankFunction, Pipeline, RerankResult
from milvus_rerank.errors import InputError
from milvus_rerank.integrations.steps import run_steps
from milvus_rerank.steps import Boost, Fuse, GroupBy

DOCUMENTS: list[dict[str, Any]] = [
    {"text": "a cat", "lang": "de", "score": 0.1},
    {"text": "a cat sleeps", "lang": "en", "score": 0.9},
    {"text": "a dog", "lang": "en", "score": 0.5},
]


def reranked() -> list[RerankResult]:
    return LexicalRerankFunction()("a cat", [document["text"] for document in DOCUMENTS], None)


def test_steps_read_metadata_and_the_retrievers_score() -> None:
    pipeline = Pipeline([Boost("lang == 'en'", 3), GroupBy("lang")])
    (boosted,) = run_steps(pipeline, DOCUMENTS, reranked(), lambda item: item, 1)
    assert (boosted.index, boosted.score, boosted.extra) == (1, 3.0, {"rerank_score": 1.0})
    fuse = Pipeline([Fuse("IP", (0, 1))])
    fused = run_steps(fuse, DOCUMENTS, reranked(), lambda item: item, None, lambda item: float(item["score"]))
    assert [(result.index, result.distance) for result in fused] == [(1, 0.9), (2, 0.5), (0, 0.1)]
    assert run_steps(Pipeline(), DOCUMENTS, reranked(), dict, 2)[0].entity == DOCUMENTS[0]


def test_a_document_without_the_field_is_named() -> None:
    with pytest.raises(InputError, match=r"step 1 of 1 \(group_by\): results\[0\] has no field 'year'"):
        run_steps(Pipeline([GroupBy("year")]), DOCUMENTS, reranked(), lambda item: item)
