"""Classifiers with several labels, models with code of their own, and what only sentence-transformers puts together."""

import itertools
import json
import shutil
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pair_texts import QUERIES, TEXTS
from present import present
from tiny_models import save_tiny_model

from milvus_rerank import BatchOptions, BGERerankFunction, CrossEncoderRerankFunction
from milvus_rerank.errors import InputError, ModelError
from milvus_rerank.scoring.activation import ActivationName

pytestmark = pytest.mark.compat

PAIRS = list(itertools.product(QUERIES, TEXTS))
NAMES = ("contradiction", "entailment", "neutral")


def save_labelled(architecture: str, folder: Path) -> Path:
    """Write a tiny classifier with three labels."""
    save_tiny_model(architecture, folder, labels=3, activation=None)
    path = folder / "config.json"
    names = {"id2label": dict(enumerate(NAMES)), "label2id": {name: number for number, name in enumerate(NAMES)}}
    path.write_text(json.dumps(json.loads(path.read_text()) | names))
    return folder


@pytest.fixture(scope="module")
def labelled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_labelled("bert", tmp_path_factory.mktemp("labels"))


@cache
def all_labels(folder: Path, *, softmax: bool) -> np.ndarray:
    from sentence_transformers import CrossEncoder

    model = CrossEncoder(str(folder), device="cpu")
    return np.asarray(model.predict(PAIRS, apply_softmax=softmax, show_progress_bar=False))


@pytest.mark.parametrize("label", [0, 1, 2, "contradiction", "Entailment", "neutral"])
def test_a_labels_logit_equals_sentence_transformers(labelled: Path, label: int | str) -> None:
    place = label if isinstance(label, int) else NAMES.index(label.lower())
    expected = all_labels(labelled, softmax=False)[:, place]
    reranker = CrossEncoderRerankFunction(str(labelled), device="cpu", label=label)
    assert np.ptp(expected) > 0.1
    np.testing.assert_allclose(reranker.score_pairs(PAIRS), expected, atol=1e-5)


@pytest.mark.parametrize("label", [0, 1, 2])
def test_a_labels_probability_equals_sentence_transformers(labelled: Path, label: int) -> None:
    expected = all_labels(labelled, softmax=True)[:, label]
    reranker = CrossEncoderRerankFunction(str(labelled), device="cpu", label=label, activation_fct="softmax")
    np.testing.assert_allclose(reranker.score_pairs(PAIRS), expected, atol=1e-6)


@pytest.mark.parametrize("label", ["opinion", 3, -1, True, 1.5])
def test_a_label_that_is_not_there_lists_those_that_are(labelled: Path, label: Any) -> None:
    message = rf"has no label {label!r}; it has 'contradiction', 'entailment', 'neutral', or 0 to 2"
    with pytest.raises(InputError, match=message):
        CrossEncoderRerankFunction(str(labelled), device="cpu", label=label)


@pytest.mark.parametrize("architecture", ["bert", "roberta", "distilbert", "modernbert", "deberta-v2"])
def test_every_engine_gives_the_same_label(architecture: str, tmp_path: Path) -> None:
    folder = save_labelled(architecture, tmp_path / "m")
    for softmax, tolerance in ((False, 1e-5), (True, 1e-6)):
        expected = all_labels(folder, softmax=softmax)
        for engine, label in itertools.product(("torch", "onnx", "openvino"), (0, 2)):
            options: dict[str, Any] = {
                "engine": engine,
                "label": label,
                "activation_fct": "softmax" if softmax else None,
            }
            reranker = CrossEncoderRerankFunction(str(folder), device="cpu", **options)
            assert np.ptp(expected[:, label]) > 1e-3
            np.testing.assert_allclose(reranker.score_pairs(PAIRS), expected[:, label], atol=tolerance, err_msg=engine)


def test_a_label_needs_no_torch(labelled: Path) -> None:
    assert CrossEncoderRerankFunction(str(labelled), device="cpu", label=1).scorer.engine.name == "openvino"


def test_a_label_keeps_its_place_under_a_score_cache(labelled: Path) -> None:
    from milvus_rerank.scoring.caches import ScoreCache

    shared = ScoreCache(1000)
    options: dict[str, Any] = {"device": "cpu", "score_cache": shared}
    activations: tuple[ActivationName, ...] = ("raw", "softmax")
    for label, activation in itertools.product((0, 1), activations):
        cached = CrossEncoderRerankFunction(str(labelled), label=label, activation_fct=activation, **options)
        plain = CrossEncoderRerankFunction(str(labelled), label=label, activation_fct=activation, device="cpu")
        for _ in range(2):
            np.testing.assert_allclose(cached.score_pairs(PAIRS[:20]), plain.score_pairs(PAIRS[:20]), atol=1e-6)
    assert shared.hits == shared.misses == 4 * 20


def test_a_prompt_stands_before_the_query(tiny: dict[str, Path]) -> None:
    from sentence_transformers import CrossEncoder

    expected = CrossEncoder(str(tiny["roberta"]), device="cpu").predict(PAIRS, prompt="find: ", show_progress_bar=False)
    for engine in ("torch", "openvino"):
        reranker = CrossEncoderRerankFunction(str(tiny["roberta"]), device="cpu", prompt="find: ", engine=engine)
        np.testing.assert_allclose(reranker.score_pairs(PAIRS), expected, atol=1e-5)


def test_what_sentence_transformers_saved_beside_a_classifier_is_read(tiny: dict[str, Path], tmp_path: Path) -> None:
    from sentence_transformers import CrossEncoder
    from torch import nn

    model = CrossEncoder(
        str(tiny["bert"]), device="cpu", prompts={"web": "find: "}, default_prompt_name="web", activation_fn=nn.Tanh()
    )
    model.save_pretrained(str(tmp_path / "saved"))
    expected = model.predict(PAIRS, show_progress_bar=False)
    reranker = CrossEncoderRerankFunction(str(tmp_path / "saved"), device="cpu")
    np.testing.assert_allclose(reranker.score_pairs(PAIRS), expected, atol=1e-5)


def test_the_only_label_may_be_named_as_it_likes(tiny: dict[str, Path]) -> None:
    plain = CrossEncoderRerankFunction(str(tiny["bert"]), device="cpu").score_pairs(PAIRS[:5])
    for label in (0, "LABEL_0", "label_0"):
        assert CrossEncoderRerankFunction(str(tiny["bert"]), device="cpu", label=label).score_pairs(PAIRS[:5]) == plain
    with pytest.raises(InputError, match="has one label, 'LABEL_0': leave label=1 out"):
        CrossEncoderRerankFunction(str(tiny["bert"]), device="cpu", label=1)


CODE = """
import torch
from transformers import BertForSequenceClassification
from pathlib import Path

class OwnForSequenceClassification(BertForSequenceClassification):
    def forward(self, *args, **kwargs):
        Path({mark!r}).touch()
        out = super().forward(*args, **kwargs)
        out.logits = -out.logits
        return out
"""


@pytest.fixture
def own_code(tiny: dict[str, Path], tmp_path: Path) -> tuple[Path, Path]:
    """A model that comes with Python code, as jina's rerankers do, and the file that the code makes when it is run."""
    folder, mark = tmp_path / "own", tmp_path / "was-run"
    shutil.copytree(tiny["bert"], folder)
    (folder / "own.py").write_text(CODE.format(mark=str(mark)))
    path = folder / "config.json"
    auto = {"AutoModelForSequenceClassification": "own.OwnForSequenceClassification"}
    values = json.loads(path.read_text())
    path.write_text(json.dumps(values | {"auto_map": auto, "architectures": ["OwnForSequenceClassification"]}))
    return folder, mark


def test_code_that_comes_with_a_model_runs_only_where_it_is_trusted(
    tiny: dict[str, Path], own_code: tuple[Path, Path]
) -> None:
    folder, mark = own_code
    plain = CrossEncoderRerankFunction(str(tiny["bert"]), device="cpu").score_pairs(PAIRS)
    safe = CrossEncoderRerankFunction(str(folder), device="cpu", engine="torch")
    np.testing.assert_allclose(safe.score_pairs(PAIRS), plain, atol=1e-5)  # transformers' own class for its model_type
    assert not mark.exists()
    trusted = CrossEncoderRerankFunction(str(folder), device="cpu", engine="torch", trust_remote_code=True)
    np.testing.assert_allclose(trusted.score_pairs(PAIRS), -np.array(plain), atol=1e-5)
    assert mark.exists()


def save_modules(tiny: dict[str, Path], folder: Path) -> Any:
    """Write a model that is no plain transformer: means of states, and a layer that scores them."""
    import torch
    from sentence_transformers import CrossEncoder
    from sentence_transformers.base.modules import Dense, Transformer
    from sentence_transformers.sentence_transformer.modules import Pooling

    torch.manual_seed(0)
    body = Transformer(str(tiny["bert"]), transformer_task="feature-extraction")
    score = Dense(32, 1, module_input_name="sentence_embedding", module_output_name="scores")
    with torch.no_grad():
        score.linear.weight.mul_(20)
    model = CrossEncoder(modules=[body, Pooling(32), score], device="cpu")
    model.save_pretrained(str(folder))
    return model


def test_what_sentence_transformers_alone_puts_together_goes_through_its_own_call(
    tiny: dict[str, Path], tmp_path: Path
) -> None:
    expected = save_modules(tiny, tmp_path / "m").predict(PAIRS, show_progress_bar=False)
    reranker = CrossEncoderRerankFunction(
        str(tmp_path / "m"), device="cpu", batching=BatchOptions(max_batch_tokens=200)
    )
    assert reranker.scorer.engine.name == "sentence-transformers"
    assert np.ptp(expected) > 0.1
    np.testing.assert_allclose(reranker.score_pairs(PAIRS), expected, atol=1e-5)
    best = reranker("who proposed a test", TEXTS, top_k=3)
    assert [one.score for one in best] == sorted((present(one.score) for one in best), reverse=True)
    assert "engine='sentence-transformers'" in repr(reranker)


@pytest.mark.parametrize("options", [{"long": "chunk"}, {"label": 0}, {"engine": "onnx"}])
def test_options_that_its_library_does_not_know_say_so(
    tiny: dict[str, Path], tmp_path: Path, options: dict[str, Any]
) -> None:
    save_modules(tiny, tmp_path / "m")
    with pytest.raises(
        InputError, match=r"put together by sentence-transformers|label is for|not a sequence classifier"
    ):
        CrossEncoderRerankFunction(str(tmp_path / "m"), device="cpu", **options)
    with pytest.raises(InputError, match=r"is not a BGE reranker; load it with CrossEncoderRerankFunction\("):
        BGERerankFunction(str(tmp_path / "m"), device="cpu")


def test_an_embedding_model_of_modules_is_refused(tiny: dict[str, Path], tmp_path: Path) -> None:
    save_modules(tiny, tmp_path / "m")
    path = tmp_path / "m" / "config_sentence_transformers.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"model_type": "SentenceTransformer"}))
    with pytest.raises(ModelError, match="expected a cross-encoder"):
        CrossEncoderRerankFunction(str(tmp_path / "m"), device="cpu")
