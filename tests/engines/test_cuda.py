"""What only a GPU can show; skipped, with a reason, where there is none."""

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
from pair_texts import QUERIES, TEXTS

from milvus_rerank import BatchOptions, BGERerankFunction, CrossEncoderRerankFunction
from milvus_rerank.engines.select import Dtype
from milvus_rerank.errors import InputError

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device, and this machine has none")

PAIRS = list(itertools.product(QUERIES, TEXTS))


@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-3), ("float16", 0.05), ("bfloat16", 0.3)])
@pytest.mark.parametrize("architecture", ["bert", "xlm-roberta", "modernbert"])
def test_scores_equal_those_of_the_cpu(
    tiny: dict[str, Path], architecture: str, dtype: Dtype, tolerance: float
) -> None:
    expected = CrossEncoderRerankFunction(str(tiny[architecture]), device="cpu", engine="torch").score_pairs(PAIRS)
    reranker = CrossEncoderRerankFunction(str(tiny[architecture]), device="cuda", dtype=dtype)
    assert "device='cuda:0', engine='torch'" in repr(reranker)
    np.testing.assert_allclose(reranker.score_pairs(PAIRS), expected, atol=tolerance, rtol=0)


def test_a_gpu_is_taken_unless_told_otherwise(tiny: dict[str, Path]) -> None:
    folder = str(tiny["bert"])
    assert CrossEncoderRerankFunction(folder).device == "cuda:0"
    assert CrossEncoderRerankFunction(folder, device="cpu").device == "cpu"
    assert CrossEncoderRerankFunction(folder, dtype="auto").scorer.engine.dtype == "float16"
    assert BGERerankFunction(folder).scorer.engine.dtype == "float16"


def test_graph_engines_say_that_they_run_on_the_cpu(tiny: dict[str, Path]) -> None:
    with pytest.raises(InputError, match="runs on the CPU"):
        CrossEncoderRerankFunction(str(tiny["bert"]), device="cuda", engine="openvino")


def test_memory_that_runs_out_halves_the_batch(tiny: dict[str, Path]) -> None:
    reranker = CrossEncoderRerankFunction(
        str(tiny["bert"]), device="cuda", batching=BatchOptions(max_batch_tokens=2**40)
    )
    expected = CrossEncoderRerankFunction(str(tiny["bert"]), device="cpu").score_pairs(PAIRS)
    free, _ = torch.cuda.mem_get_info()
    held = torch.empty(max(0, free - 64 * 2**20), dtype=torch.uint8, device="cuda")
    try:
        np.testing.assert_allclose(reranker.score_pairs(PAIRS * 50), expected * 50, atol=1e-3, rtol=0)
    finally:
        del held
