"""Graphs put together from weights, graphs traced by torch, and the cache that keeps both."""

import json
import logging
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from pair_texts import QUERIES, TEXTS
from safetensors.numpy import load_file, save_file

from milvus_rerank import CrossEncoderRerankFunction
from milvus_rerank.engines import Batch
from milvus_rerank.engines.base import LinkedGraph
from milvus_rerank.engines.onnx_engine import OnnxEngine
from milvus_rerank.engines.openvino_engine import OpenVINOEngine
from milvus_rerank.engines.select import EngineName
from milvus_rerank.engines.torch_engine import TorchEngine
from milvus_rerank.errors import ModelError
from milvus_rerank.models import ModelSource
from milvus_rerank.models.files import content_key, read_config
from milvus_rerank.models.weights import read_array, read_tensors, weight_files
from milvus_rerank.onnx_graphs.architectures import position_limit
from milvus_rerank.onnx_graphs.build import build, save
from milvus_rerank.onnx_graphs.cache import build_graph, keep, link_files, write_traced

FAMILY = ("bert", "roberta", "xlm-roberta", "camembert", "electra", "distilbert")
CLASSES = {
    "bert": "Bert",
    "roberta": "Roberta",
    "xlm-roberta": "XLMRoberta",
    "camembert": "Camembert",
    "electra": "Electra",
    "distilbert": "DistilBert",
}
SIZES = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 20}
DISTIL = {"dim": 24, "n_layers": 2, "n_heads": 3, "hidden_dim": 20}
VOCABULARY = 50


def save_model(kind: str, folder: Path, **options: Any) -> Any:
    """Write a seeded tiny model, without a tokenizer, and return it."""
    sizes = DISTIL if kind == "distilbert" else SIZES
    common = {"vocab_size": VOCABULARY, "max_position_embeddings": 40, "num_labels": 1, "pad_token_id": 1}
    config = getattr(transformers, f"{CLASSES[kind]}Config")(**{**common, **sizes, **options})
    torch.manual_seed(0)
    model = getattr(transformers, f"{CLASSES[kind]}ForSequenceClassification")(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():  # biases too, which start at zero
            parameter.copy_(torch.randn_like(parameter) * 0.5 + (0.5 if parameter.dim() == 1 else 0))
    model.save_pretrained(folder)
    return model


def batch(*, types: int, padding: int, seed: int = 0) -> Batch:
    """Rows of 30, 17 and 1 tokens, padded on the right."""
    random = np.random.default_rng(seed)
    lengths = np.array([30, 17, 1])
    mask = (np.arange(30) < lengths[:, None]).astype(np.int64)
    ids = random.integers(5, VOCABULARY, (3, 30))
    kinds = (np.arange(30) > lengths[:, None] // 2).astype(np.int64) * mask if types else None
    return Batch(np.where(mask, ids, padding), mask, kinds)


def assert_equal(model: torch.nn.Module, folder: Path, work: Path, *, with_types: bool, padding: int = 1) -> None:
    """Compare the graph of a folder's files with the model itself, in both graph engines."""
    save(build(read_config(folder), read_tensors(folder), with_types=with_types, embed=True), work / "model.onnx")
    given = batch(types=with_types, padding=padding)
    expected = TorchEngine(model).logits(given)
    assert np.ptp(expected) > 0.01
    for engine in (OnnxEngine(work / "model.onnx"), OpenVINOEngine(work / "model.onnx")):
        np.testing.assert_allclose(engine.logits(given), expected, atol=1e-5 * max(1, np.abs(expected).max()), rtol=0)


@pytest.mark.parametrize("kind", FAMILY)
def test_the_graph_of_every_member_of_berts_family_gives_torchs_logits(kind: str, tmp_path: Path) -> None:
    model = save_model(kind, tmp_path)
    assert position_limit(read_config(tmp_path)) is not None
    assert_equal(model, tmp_path, tmp_path, with_types=kind in ("bert", "electra"))


@pytest.mark.parametrize(
    ("kind", "options", "with_types"),
    [
        ("bert", {"type_vocab_size": 2}, False),
        ("bert", {"type_vocab_size": 1}, False),
        ("bert", {"type_vocab_size": 5}, True),
        ("xlm-roberta", {"type_vocab_size": 2}, True),
        ("xlm-roberta", {"type_vocab_size": 1}, False),
        ("electra", {"embedding_size": 10}, True),
        ("electra", {"embedding_size": 10}, False),
        ("bert", {"hidden_act": "relu"}, True),
        ("bert", {"hidden_act": "gelu_new"}, True),
        ("distilbert", {"activation": "relu"}, False),
        ("distilbert", {"sinusoidal_pos_embds": False}, False),
        ("distilbert", {}, True),
        ("bert", {"layer_norm_eps": 0.1}, True),
        ("roberta", {"layer_norm_eps": 0.1}, False),
        ("bert", {"num_hidden_layers": 1}, True),
        ("bert", {"num_attention_heads": 1}, True),
        ("bert", {"num_attention_heads": 24}, True),
    ],
)
def test_unusual_settings_give_torchs_logits_too(
    kind: str, options: dict[str, Any], with_types: bool, tmp_path: Path
) -> None:
    model = save_model(kind, tmp_path, **options)
    assert position_limit(read_config(tmp_path)) is not None
    assert_equal(model, tmp_path, tmp_path, with_types=with_types)


@pytest.mark.parametrize("kind", ["roberta", "bert"])
@pytest.mark.parametrize("padding", [0, 1, 4])
def test_positions_follow_the_id_of_padding(kind: str, padding: int, tmp_path: Path) -> None:
    model = save_model(kind, tmp_path, pad_token_id=padding)
    reserved = padding + 1 if kind == "roberta" else 0
    assert position_limit(read_config(tmp_path)) == 40 - reserved
    assert_equal(model, tmp_path, tmp_path, with_types=False, padding=padding)


def test_a_text_that_spells_the_padding_token_scores_as_in_torch(tiny: dict[str, Path]) -> None:
    texts = ["a <pad> b", "<pad><pad> vector search", "search <pad>"]
    for architecture in ("roberta", "xlm-roberta", "bert"):
        found = [
            CrossEncoderRerankFunction(str(tiny[architecture]), device="cpu", engine=engine).score(
                "q <pad> [PAD]", texts
            )
            for engine in ("torch", "onnx", "openvino")
        ]
        np.testing.assert_allclose(found[1:], [found[0]] * 2, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_weights_in_half_precision_are_computed_in_float32(dtype: torch.dtype, tmp_path: Path) -> None:
    model = save_model("bert", tmp_path).to(dtype)
    model.save_pretrained(tmp_path)
    assert read_config(tmp_path)["dtype"] == str(dtype).removeprefix("torch.")
    assert_equal(model.float(), tmp_path, tmp_path, with_types=True)


def test_weights_in_several_files_are_all_read(tmp_path: Path) -> None:
    model = save_model("bert", tmp_path / "whole")
    model.save_pretrained(tmp_path, max_shard_size="10KB")
    assert len(weight_files(tmp_path)) > 3
    assert not (tmp_path / "model.safetensors").exists()
    assert_equal(model, tmp_path, tmp_path, with_types=True)
    weight_files(tmp_path)[1].unlink()
    with pytest.raises(ModelError, match="cannot be read"):
        read_tensors(tmp_path)


def test_tensorflows_names_of_norms_are_understood(tmp_path: Path) -> None:
    model = save_model("bert", tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    old = {
        name.replace("Norm.weight", "Norm.gamma").replace("Norm.bias", "Norm.beta"): weights[name] for name in weights
    }
    assert old.keys() != weights.keys()
    save_file(old, tmp_path / "model.safetensors")
    assert_equal(model, tmp_path, tmp_path, with_types=True)


def test_a_missing_weight_is_named(tmp_path: Path) -> None:
    save_model("bert", tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    del weights["bert.encoder.layer.1.output.dense.bias"]
    save_file(weights, tmp_path / "model.safetensors")
    with pytest.raises(ModelError, match=r"its weights lack bert\.encoder\.layer\.1\.output\.dense\.bias"):
        build_graph(tmp_path, read_tensors(tmp_path), read_config(tmp_path), "m", with_types=True)


BERT = {"model_type": "bert", "hidden_act": "gelu", "max_position_embeddings": 40, **SIZES}


def test_the_config_of_a_plain_model_is_known() -> None:
    assert position_limit(BERT) == 40
    assert position_limit(BERT | {"position_embedding_type": "absolute", "is_decoder": False, "pruned_heads": {}}) == 40


@pytest.mark.parametrize(
    "change",
    [
        {"model_type": "deberta-v2"},
        {"model_type": None},
        {"hidden_act": "silu"},
        {"hidden_act": None},
        {"position_embedding_type": "relative_key"},
        {"position_embedding_type": "relative_key_query"},
        {"is_decoder": True},
        {"auto_map": {"AutoModelForSequenceClassification": "own.Model"}},
        {"pruned_heads": {"0": [1]}},
        {"num_hidden_layers": None},
        {"num_attention_heads": None},
        {"hidden_size": None},
        {"max_position_embeddings": None},
    ],
)
def test_what_the_graph_would_get_wrong_is_not_known(change: Mapping[str, Any]) -> None:
    assert position_limit({**BERT, **change}) is None


def test_a_built_graph_and_a_traced_one_give_the_same(tiny: dict[str, Path], tmp_path: Path) -> None:
    folder = tiny["bert"]
    write_traced(
        tmp_path / "model.onnx", ModelSource(str(folder)), folder, ["input_ids", "attention_mask", "token_type_ids"]
    )
    built = build_graph(folder, read_tensors(folder), read_config(folder), "m", with_types=True)
    assert isinstance(built, LinkedGraph)
    given = batch(types=True, padding=0)
    engines = OnnxEngine(built), OpenVINOEngine(link_files(built))
    for engine in engines:
        traced = type(engine)(tmp_path / "model.onnx").logits(given)
        np.testing.assert_allclose(traced, engine.logits(given), atol=1e-5)


# the cache


def test_the_environment_names_the_cache_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("MILVUS_RERANK_CACHE", str(tmp_path))
    assert keep("key", Path.touch) == tmp_path / "key"
    monkeypatch.delenv("MILVUS_RERANK_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    if sys.platform == "linux":
        assert keep("key", Path.touch) == tmp_path / "home" / "milvus-rerank" / "key"


def test_a_key_follows_contents_and_options_and_not_names(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    one.write_bytes(b"abc")
    two.write_bytes(b"de")
    key = content_key([one, two], 1, "x")
    assert len(key) == 32
    assert key == content_key([one, two], 1, "x")
    assert key not in {content_key([two, one], 1, "x"), content_key([one, two], 2, "x"), content_key([one], 1, "x")}
    moved = one.rename(tmp_path / "moved")
    assert content_key([moved, two], 1, "x") == key
    moved.write_bytes(b"abcd")
    two.write_bytes(b"e")
    assert content_key([moved, two], 1, "x") != key, "the bound between two files does not count"


@pytest.mark.parametrize("changed", ["config.json", "model.safetensors"])
def test_changed_files_give_another_graph(tiny: dict[str, Path], tmp_path: Path, changed: str) -> None:
    folder = tmp_path / "m"
    shutil.copytree(tiny["bert"], folder)

    def scores() -> np.ndarray:
        return np.array(CrossEncoderRerankFunction(str(folder), device="cpu", engine="onnx").score(QUERIES[0], TEXTS))

    before = scores()
    if changed == "config.json":
        config = read_config(folder)
        (folder / changed).write_text(json.dumps(config | {"layer_norm_eps": 0.5}))
    else:
        weights = load_file(folder / changed)
        save_file(weights | {"classifier.bias": weights["classifier.bias"] + 3}, folder / changed)
    after = scores()
    assert np.abs(after - before).max() > 0.01
    torchs = CrossEncoderRerankFunction(str(folder), device="cpu", engine="torch").score(QUERIES[0], TEXTS)
    np.testing.assert_allclose(after, torchs, atol=1e-5)


def test_a_cached_graph_is_not_written_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MILVUS_RERANK_CACHE", str(tmp_path))
    written = []

    def write(folder: Path) -> None:
        written.append(folder)
        (folder / "a").write_text("whole")

    first = keep("key", write)
    assert (first, (first / "a").read_text()) == (tmp_path / "key", "whole")
    assert keep("key", write) == first
    assert len(written) == 1
    keep("other", write)
    assert len(written) == 2


WRITER = """
import os, sys, time
from pathlib import Path
from milvus_rerank.onnx_graphs.cache import keep

def write(folder):
    with open(sys.argv[1], "a") as log:
        log.write("wrote\\n")
    (folder / "first").write_text("half")
    print("writing", flush=True)
    time.sleep(float(sys.argv[2]))
    (folder / "second").write_text("half")

print(*sorted(path.name for path in keep("key", write).iterdir()), flush=True)
"""


def writer(log: Path, seconds: float) -> "subprocess.Popen[str]":
    """Start a process that asks for a key and takes its time to write it."""
    return subprocess.Popen([sys.executable, "-c", WRITER, str(log), str(seconds)], stdout=subprocess.PIPE, text=True)


def test_of_two_processes_at_once_one_writes_and_both_find_it_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MILVUS_RERANK_CACHE", str(tmp_path / "cache"))
    processes = [writer(tmp_path / "log", 0.5) for _ in range(3)]
    told = [process.communicate(timeout=60)[0].splitlines() for process in processes]
    assert [lines[-1] for lines in told] == ["checksums.json first second"] * 3
    assert (tmp_path / "log").read_text() == "wrote\n"


def test_what_a_killed_process_left_is_not_taken_for_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = tmp_path / "cache"
    monkeypatch.setenv("MILVUS_RERANK_CACHE", str(cache))
    process = writer(tmp_path / "log", 60)
    assert process.stdout is not None
    assert process.stdout.readline() == "writing\n"
    os.kill(process.pid, signal.SIGKILL)
    process.wait(timeout=10)
    process.stdout.close()
    assert not (cache / "key").exists()
    assert [path.name for path in cache.glob(".key.*/*")] == ["first"]
    second = writer(tmp_path / "log", 0)
    assert second.communicate(timeout=60)[0].splitlines()[-1] == "checksums.json first second"
    assert sorted(path.name for path in cache.iterdir() if path.is_dir()) == ["key"], "the remains are still there"


def test_a_failure_while_writing_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MILVUS_RERANK_CACHE", str(tmp_path))

    def fail(folder: Path) -> None:
        (folder / "first").write_text("half")
        raise RuntimeError("no more space")

    with pytest.raises(RuntimeError, match="no more space"):
        keep("key", fail)
    assert [path for path in tmp_path.iterdir() if path.is_dir()] == []
    assert keep("key", lambda folder: (folder / "first").touch()).is_dir()


def test_a_cache_that_cannot_be_written_is_a_warning_and_no_more(
    tiny: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("MILVUS_RERANK_CACHE", str(tmp_path / "file"))
    scores = CrossEncoderRerankFunction(str(tiny["bert"]), device="cpu", engine="onnx").score(QUERIES[0], TEXTS)
    assert caplog.records == []  # ONNX Runtime takes the weights from the model's own files: nothing is written
    same = CrossEncoderRerankFunction(str(tiny["bert"]), device="cpu", engine="openvino").score(QUERIES[0], TEXTS)
    np.testing.assert_allclose(scores, same, atol=1e-5)
    assert [record.levelno for record in caplog.records if "cannot be written" in record.message] == [logging.WARNING]
    assert "set MILVUS_RERANK_CACHE to one that can" in caplog.text


@pytest.mark.parametrize("engine", ["onnx", "openvino"])
def test_quantised_weights_are_refused_and_not_read_as_numbers(
    engine: EngineName, tiny: dict[str, Path], tmp_path: Path
) -> None:
    shutil.copytree(tiny["bert"], tmp_path / "m")
    path = tmp_path / "m" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"quantization_config": {"quant_method": "fp8"}}))
    with pytest.raises(ModelError, match="has quantised weights, which do not run here"):
        CrossEncoderRerankFunction(str(tmp_path / "m"), device="cpu", engine=engine)


def test_weights_in_8_bit_floats_are_read_exactly(tmp_path: Path) -> None:
    values = torch.tensor([[0.0, 1.0, -1.875, 448.0], [2**-9, 0.015625, -0.06, 3.0]])
    from safetensors.torch import save_file

    for dtype in (torch.float8_e4m3fn, torch.float8_e5m2):
        stored = values.to(dtype)
        save_file({"a": stored, "b": values}, tmp_path / "model.safetensors")
        weights = read_tensors(tmp_path)
        np.testing.assert_array_equal(read_array(weights["a"]).astype(np.float32), stored.float().numpy())
        np.testing.assert_array_equal(read_array(weights["b"]), values.numpy())
