"""A forward pass on packed pairs gives the logits of the padded one."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from numpy.typing import NDArray
from pair_texts import QUERIES, TEXTS
from tiny_models import save_tiny_model

from milvus_rerank import CrossEncoderRerankFunction
from milvus_rerank.engines.base import Batch
from milvus_rerank.engines.packed import MODEL_TYPES, PackedClassifier, can_pack
from milvus_rerank.engines.select import Dtype
from milvus_rerank.engines.torch_engine import TorchEngine, classify

ROWS = [[5, 6, 7], [8], [9, 10, 11, 12, 13, 14, 15, 16, 17, 18], [5, 5, 5, 5], list(range(5, 29))]


def padded(rows: list[list[int]], pad: int, with_types: bool) -> Batch:
    """Return rows of token ids as a batch."""
    width = max(map(len, rows))
    ids = np.array([row + [pad] * (width - len(row)) for row in rows])
    mask = np.array([[1] * len(row) + [0] * (width - len(row)) for row in rows])
    types = np.array([[int(place >= len(row) // 2) for place in range(width)] for row in rows]) * mask
    return Batch(ids, mask, types if with_types else None)


def load(folder: Path, **changes: object) -> transformers.PreTrainedModel:
    """Return the model of a folder with changes of its configuration."""
    return transformers.AutoModelForSequenceClassification.from_pretrained(folder, **changes).eval()


@pytest.mark.parametrize("architecture", MODEL_TYPES)
def test_packed_logits_equal_padded_ones(tiny: dict[str, Path], architecture: str) -> None:
    model = load(tiny[architecture])
    batch = padded(ROWS, model.config.pad_token_id, architecture == "bert")
    expected = TorchEngine(model).logits(batch)
    assert np.ptp(expected) > 0.01
    np.testing.assert_allclose(TorchEngine(model, forward=PackedClassifier(model)).logits(batch), expected, atol=1e-5)


def test_the_window_of_local_attention_is_kept(tmp_path: Path) -> None:
    folder = save_tiny_model("modernbert", tmp_path / "model")
    narrow = {"local_attention": 4, "layer_types": ["sliding_attention", "full_attention"]}
    batch = padded(ROWS, 1, False)
    wide, model = TorchEngine(load(folder)).logits(batch), load(folder, **narrow)
    expected = TorchEngine(model).logits(batch)
    assert np.abs(wide - expected).max() > 1e-4
    np.testing.assert_allclose(TorchEngine(model, forward=PackedClassifier(model)).logits(batch), expected, atol=1e-5)


@pytest.mark.parametrize(("architecture", "option"), [("bert", "hidden_act"), ("modernbert", "hidden_activation")])
def test_other_activations_are_kept(tmp_path: Path, architecture: str, option: str) -> None:
    folder = save_tiny_model(architecture, tmp_path / "model")
    batch = padded(ROWS, 1, architecture == "bert")
    model = load(folder, **{option: "relu"})
    expected = TorchEngine(model).logits(batch)
    assert np.abs(TorchEngine(load(folder)).logits(batch) - expected).max() > 1e-4
    np.testing.assert_allclose(TorchEngine(model, forward=PackedClassifier(model)).logits(batch), expected, atol=1e-5)


def test_rotary_frequencies_stay_exact_in_half_precision(tiny: dict[str, Path]) -> None:
    model = load(tiny["modernbert"])
    expected = {name: buffer.clone() for name, buffer in model.named_buffers() if "inv_freq" in name}
    assert len(expected) == 4
    TorchEngine(model, dtype="bfloat16")
    assert model.classifier.get_parameter("weight").dtype == torch.bfloat16
    for name, buffer in model.named_buffers():
        torch.testing.assert_close(buffer, expected[name], atol=0, rtol=0)


def test_the_mean_of_a_pair_is_its_own(tmp_path: Path) -> None:
    folder = save_tiny_model("modernbert", tmp_path / "model")
    batch = padded(ROWS, 1, False)
    model = load(folder, classifier_pooling="mean")
    expected = TorchEngine(model).logits(batch)
    assert np.abs(TorchEngine(load(folder)).logits(batch) - expected).max() > 1e-4
    np.testing.assert_allclose(TorchEngine(model, forward=PackedClassifier(model)).logits(batch), expected, atol=1e-5)


def test_one_pair_alone_and_several_labels(tmp_path: Path) -> None:
    model = load(save_tiny_model("bert", tmp_path / "model", labels=3))

    def to_device(array: NDArray[np.int64]) -> torch.Tensor:
        return torch.from_numpy(array)

    batch = padded(ROWS[:1], 0, True)
    with torch.inference_mode():
        expected = classify(model, batch, to_device)
        torch.testing.assert_close(PackedClassifier(model)(model, batch, to_device), expected, atol=1e-5, rtol=0)


def test_threads_share_a_packed_model(tiny: dict[str, Path]) -> None:
    model = load(tiny["xlm-roberta"])
    batches = [padded(ROWS[:count], model.config.pad_token_id, False) for count in range(1, 6)]
    expected = [TorchEngine(model).logits(batch) for batch in batches]
    forward = PackedClassifier(model)

    def run(index: int) -> NDArray[np.float32]:
        with torch.inference_mode():
            return forward(model, batches[index], torch.from_numpy).numpy().ravel()

    with ThreadPoolExecutor(5) as pool:
        for index, logits in zip([0, 1, 2, 3, 4] * 20, pool.map(run, [0, 1, 2, 3, 4] * 20), strict=True):
            np.testing.assert_allclose(logits, expected[index], atol=1e-5)


def test_only_half_precision_on_cuda_is_packed(tiny: dict[str, Path]) -> None:
    bert, deberta = load(tiny["bert"]), load(tiny["deberta-v2"])
    assert can_pack(bert, "cuda:0", "float16")
    assert can_pack(bert, "cuda:1", "bfloat16")
    assert not can_pack(bert, "cuda:0", "float32")
    assert not can_pack(bert, "cpu", "bfloat16")
    assert not can_pack(deberta, "cuda:0", "float16")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device, and this machine has none")
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("architecture", MODEL_TYPES)
def test_the_kernel_gives_the_scores_of_the_cpu(tiny: dict[str, Path], architecture: str, dtype: Dtype) -> None:
    pairs = [(query, text) for query in QUERIES for text in TEXTS]
    expected = CrossEncoderRerankFunction(str(tiny[architecture]), device="cpu", engine="torch").score_pairs(pairs)
    reranker = CrossEncoderRerankFunction(str(tiny[architecture]), device="cuda", dtype=dtype)
    engine = reranker.scorer.engine
    assert isinstance(engine, TorchEngine)
    assert engine.packed
    tolerance = {"float16": 0.05, "bfloat16": 0.3}[dtype]
    np.testing.assert_allclose(reranker.score_pairs(pairs), expected, atol=tolerance, rtol=0)
