"""The documented scores of two hub models; run with ``pytest -m hub`` where they are cached."""

import runpy
from pathlib import Path

import pytest

from milvus_rerank import BGERerankFunction, CrossEncoderRerankFunction
from milvus_rerank.errors import ModelError

EXAMPLE = Path(__file__).parents[2] / "examples" / "rerank_texts.py"

pytestmark = pytest.mark.hub


@pytest.mark.parametrize(
    ("rerank_function", "name", "expected"),
    [
        (
            CrossEncoderRerankFunction,
            "cross-encoder/ms-marco-MiniLM-L-6-v2",
            [(1, 6.250533), (0, -2.954602), (3, -4.771512)],
        ),
        (BGERerankFunction, "BAAI/bge-reranker-v2-m3", [(1, 0.991162), (0, 0.032697), (3, 0.006515)]),
    ],
)
def test_the_documented_example_has_the_documented_scores(
    rerank_function: type, name: str, expected: list[tuple[int, float]]
) -> None:
    example = runpy.run_path(str(EXAMPLE))
    try:
        reranker = rerank_function(name, device="cpu", local_files_only=True)
    except ModelError as error:
        pytest.skip(f"{name} is not cached: {error}")
    found = reranker(query=example["query"], documents=example["documents"], top_k=3)
    assert [result.index for result in found] == [index for index, _ in expected]
    # The documentation's scores of bge-reranker-v2-m3 were made in float16, which is good to about 1e-3.
    tolerance = 1e-4 if rerank_function is CrossEncoderRerankFunction else 2e-3
    assert [result.score for result in found] == pytest.approx([score for _, score in expected], abs=tolerance)
