"""Steps on a framework's documents, without any framework."""

from typing import Any

import pytest

from milvus_rerank import Pipeline
from milvus_rerank.errors import InputError
from milvus_rerank.integrations.core import open_reranker, rerank_items
from milvus_rerank.integrations.steps import run_steps
from milvus_rerank.steps import Boost, Fuse, GroupBy

DOCUMENTS: list[dict[str, Any]] = [
    {"text": "a cat", "lang": "de", "score": 0.1},
    {"text": "a cat sleeps", "lang": "en", "score": 0.9},
    {"text": "a dog", "lang": "en", "score": 0.5},
]


def test_steps_read_metadata_and_the_retrievers_score() -> None:
    pairs = rerank_items(open_reranker("lexical"), "a cat", DOCUMENTS, lambda item: item["text"], None, None)
    boosted = run_steps(Pipeline([Boost("lang == 'en'", 3), GroupBy("lang")]), pairs, lambda item: item, 1)
    assert [(item, result.score) for item, result in boosted] == [(DOCUMENTS[1], 3.0)]
    assert boosted[0][1].extra == {"rerank_score": 1.0}
    fused = run_steps(Pipeline([Fuse("IP", (0, 1))]), pairs, lambda item: item, None, lambda item: item["score"])
    assert [item["score"] for item, _ in fused] == [0.9, 0.5, 0.1]


def test_a_document_without_the_field_is_named() -> None:
    pairs = rerank_items(open_reranker("lexical"), "a cat", DOCUMENTS, lambda item: item["text"], None, None)
    with pytest.raises(InputError, match=r"step 1 of 1 \(group_by\): results\[0\] has no field 'year'"):
        run_steps(Pipeline([GroupBy("year")]), pairs, lambda item: item, None)
