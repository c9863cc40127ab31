"""Loading: names, folders, devices, dtypes, activations, and what is said when one of them is wrong."""

import json
import logging
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pair_texts import TEXTS
from tiny_models import save_embedding_model, save_tiny_model

from milvus_rerank import BatchOptions, BGERerankFunction, CrossEncoderRerankFunction, HubOptions
from milvus_rerank.engines.openvino_engine import has_bfloat16
from milvus_rerank.engines.select import EngineName
from milvus_rerank.engines.torch_engine import TorchEngine, is_out_of_memory, pick_device
from milvus_rerank.errors import DeviceError, InputError, ModelError, ScoreError
from milvus_rerank.models import builtin_names, model_folder
from milvus_rerank.scoring.pair_encoder import PairEncoder

QUERY = "who proposed a test of intelligence"
ENGINES = ("torch", "onnx", "openvino")


@pytest.fixture(scope="module")
def folder(tiny: dict[str, Path]) -> str:
    return str(tiny["bert"])


def logits(folder: str) -> np.ndarray:
    return np.array(CrossEncoderRerankFunction(folder, device="cpu", activation_fct="raw").score(QUERY, TEXTS))


@pytest.mark.parametrize("engine", ENGINES)
def test_repr_and_the_log_say_what_runs_where(
    folder: str, engine: EngineName, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.DEBUG, "milvus_rerank"):
        reranker = CrossEncoderRerankFunction(folder, device="cpu", engine=engine)
    assert repr(reranker) == (
        f"CrossEncoderRerankFunction({folder!r}, device='cpu', engine={engine!r}, dtype='float32', max_length=64)"
    )
    assert f"{folder} runs on cpu with engine {engine} in float32" in caplog.messages


@pytest.mark.parametrize("device", [None, "", "auto"])
def test_an_unnamed_device_is_picked(folder: str, device: str | None) -> None:
    expected = "cuda:0" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    assert CrossEncoderRerankFunction(folder, device=device).device == expected


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
@pytest.mark.parametrize("device", ["cuda", "cuda:0", "cuda:7"])
def test_an_absent_gpu_is_an_error_that_lists_the_devices(folder: str, device: str) -> None:
    with pytest.raises(DeviceError, match=f"device '{device}' is not available. This machine has: cpu"):
        CrossEncoderRerankFunction(folder, device=device)


@pytest.mark.parametrize("device", ["gpu", "cuda:x", "xpu:0", 7])
def test_an_unknown_device_is_an_error_that_lists_the_words(device: Any) -> None:
    with pytest.raises(InputError, match="device must be 'cpu', 'cuda', 'cuda:n', 'mps' or 'auto', got"):
        pick_device(device)


@pytest.mark.parametrize("engine", ENGINES)
def test_float16_on_a_cpu_becomes_float32_with_one_line(
    folder: str, engine: EngineName, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "milvus_rerank"):
        reranker = BGERerankFunction(folder, device="cpu", use_fp16=True, engine=engine)
    assert reranker.scorer.engine.dtype == "float32"
    assert caplog.messages.count("float16 is not used on a CPU; the model runs in float32") == 1


@pytest.mark.parametrize("engine", ["torch", "openvino"])
def test_bfloat16_scores_stay_near_and_are_not_rounded_to_it(folder: str, engine: EngineName) -> None:
    if engine == "openvino" and not has_bfloat16():
        pytest.skip("this CPU has no bfloat16 hardware")
    reranker = CrossEncoderRerankFunction(
        folder, device="cpu", dtype="bfloat16", activation_fct="sigmoid", engine=engine
    )
    exact = 1 / (1 + np.exp(-logits(folder)))
    scores = np.array(reranker.score(QUERY, TEXTS))
    assert 0 < np.abs(scores - exact).max() < 0.02
    rounded = torch.tensor(scores).to(torch.bfloat16).double().numpy()
    assert (scores != rounded).any(), "the sigmoid was taken in bfloat16"


def test_an_unknown_dtype_lists_the_known(folder: str) -> None:
    known = "'float32', 'bfloat16', 'float16', 'int8', 'auto'"
    for engine in ("auto", *ENGINES):
        with pytest.raises(InputError, match=f"dtype must be one of {known}, got 'int4'"):
            CrossEncoderRerankFunction(folder, device="cpu", dtype="int4", engine=engine)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("activation", "expected"),
    [
        ("raw", lambda x: x),
        ("sigmoid", lambda x: 1 / (1 + np.exp(-x))),
        ("model", lambda x: x),
        (None, lambda x: x),
        (torch.nn.Tanh(), np.tanh),
    ],
)
def test_activations(folder: str, activation: Any, expected: Any) -> None:
    scores = CrossEncoderRerankFunction(folder, device="cpu", activation_fct=activation).score(QUERY, TEXTS)
    np.testing.assert_allclose(scores, expected(logits(folder)), atol=1e-6)


@pytest.mark.parametrize(("name", "expected"), [("Sigmoid", "sigmoid"), ("Tanh", "tanh"), (None, "sigmoid")])
def test_the_models_own_activation_is_read_from_its_config(tmp_path: Path, name: str | None, expected: str) -> None:
    model = str(save_tiny_model("bert", tmp_path, activation=name))
    functions: dict[str, Any] = {"sigmoid": lambda x: 1 / (1 + np.exp(-x)), "tanh": np.tanh}
    scores = CrossEncoderRerankFunction(model, device="cpu").score(QUERY, TEXTS)
    np.testing.assert_allclose(scores, functions[expected](logits(model)), atol=1e-6)


def test_an_activation_from_elsewhere_is_not_run(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    model = save_tiny_model("bert", tmp_path)
    config = json.loads((model / "config.json").read_text())
    config["sentence_transformers"] = {"activation_fn": "os.system"}
    (model / "config.json").write_text(json.dumps(config))
    scores = CrossEncoderRerankFunction(str(model), device="cpu").score(QUERY, TEXTS)
    np.testing.assert_allclose(scores, 1 / (1 + np.exp(-logits(str(model)))), atol=1e-6)
    assert "os.system is not part of torch.nn and is not run" in caplog.text


def test_an_unknown_activation_lists_the_known(folder: str) -> None:
    known = "'model', 'raw', 'sigmoid', 'softmax', 'calibrated' or a function"
    with pytest.raises(InputError, match=f"activation_fct must be one of {known}"):
        CrossEncoderRerankFunction(folder, device="cpu", activation_fct="softplus")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="has one label, of which softmax is always 1: use sigmoid, or raw"):
        CrossEncoderRerankFunction(folder, device="cpu", activation_fct="softmax")


def test_normalize_is_the_sigmoid_of_the_logits(folder: str) -> None:
    raw = BGERerankFunction(folder, device="cpu", normalize=False).score(QUERY, TEXTS[:6])
    np.testing.assert_allclose(
        BGERerankFunction(folder, device="cpu").score(QUERY, TEXTS[:6]), 1 / (1 + np.exp(-np.array(raw))), atol=1e-9
    )


def test_the_defaults_of_bge_fit_a_model_with_fewer_positions(folder: str) -> None:
    reranker = BGERerankFunction(folder, device="cpu")
    encoder = reranker.scorer.encoder
    assert isinstance(encoder, PairEncoder)
    assert encoder.max_length == 64
    assert encoder.lengths(500, 500) == (48, 13)


@pytest.mark.parametrize("option", ["batch_size", "max_length", "query_max_length", "max_batch_tokens"])
@pytest.mark.parametrize("value", [0, -1, 1.5, "8"])
def test_limits_must_be_positive_integers(folder: str, option: str, value: Any) -> None:
    options: dict[str, Any] = {"batching": BatchOptions(value)} if option == "max_batch_tokens" else {option: value}
    with pytest.raises(InputError, match=f"{option} must be a positive integer"):
        CrossEncoderRerankFunction(folder, device="cpu", **options)


def test_batch_size_is_a_hint_for_the_budget(folder: str) -> None:
    assert CrossEncoderRerankFunction(folder, device="cpu", batch_size=2).scorer.max_batch_tokens == 128
    assert CrossEncoderRerankFunction(folder, device="cpu", batch_size=999).scorer.max_batch_tokens == 1024
    assert (
        CrossEncoderRerankFunction(
            folder, device="cpu", batching=BatchOptions(max_batch_tokens=77)
        ).scorer.max_batch_tokens
        == 77
    )
    assert BGERerankFunction(folder, device="cpu", batch_size=2).scorer.max_batch_tokens == 128
    assert (
        BGERerankFunction(folder, device="cpu", batching=BatchOptions(max_batch_tokens=77)).scorer.max_batch_tokens
        == 77
    )


@pytest.mark.parametrize("name", ["", "  ", None, 3])
def test_an_empty_model_name_gets_examples(name: Any) -> None:
    with pytest.raises(InputError, match=r"model_name must name a model, .* for example 'builtin/rerank'"):
        CrossEncoderRerankFunction(name)


def test_an_unknown_builtin_model_lists_the_known() -> None:
    with pytest.raises(ModelError, match=f"no built-in model 'builtin/x'; there are: {', '.join(builtin_names())}"):
        CrossEncoderRerankFunction("builtin/x")


@pytest.mark.parametrize("name", ["./no/such", "/no/such", "~/no-such-folder", "a/b/c"])
def test_a_path_that_is_no_folder_is_not_looked_up_on_the_hub(name: str) -> None:
    with pytest.raises(ModelError, match="looks like a path, but there is no such folder"):
        model_folder(name)


def test_a_file_or_an_impossible_name_is_no_model(tmp_path: Path) -> None:
    (tmp_path / "model.bin").write_text("")
    with pytest.raises(ModelError, match="is a file; expected the folder that holds the model"):
        model_folder(str(tmp_path / "model.bin"))
    for name in ("x" * 5000, "~no-such-user/model"):
        with pytest.raises(ModelError, match="can be neither a name nor a folder"):
            model_folder(name)


def test_a_folder_without_a_model_says_what_it_holds(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("")
    with pytest.raises(ModelError, match=r"holds no model: expected config\.json, .* found notes.txt"):
        CrossEncoderRerankFunction(str(tmp_path))


@pytest.mark.parametrize("engine", ENGINES)
def test_a_folder_without_weights_or_tokenizer_is_named(folder: str, tmp_path: Path, engine: EngineName) -> None:
    for missing, words in (("model.safetensors", "has no weights"), ("tokenizer.json", "has no tokenizer")):
        copy = tmp_path / missing
        shutil.copytree(folder, copy)
        (copy / missing).unlink()
        with pytest.raises(ModelError, match=f"{words}: expected {missing}.*, found config.json"):
            CrossEncoderRerankFunction(str(copy), device="cpu", engine=engine)


@pytest.mark.parametrize("engine", ENGINES)
def test_a_broken_weights_file_is_named(folder: str, tmp_path: Path, engine: EngineName) -> None:
    shutil.copytree(folder, tmp_path / "m")
    (tmp_path / "m" / "model.safetensors").write_bytes(b"not weights")
    with pytest.raises(ModelError, match=r"model.safetensors is not a whole safetensors file \(11 bytes\)"):
        CrossEncoderRerankFunction(str(tmp_path / "m"), device="cpu", engine=engine)


@pytest.mark.parametrize("engine", ENGINES)
def test_a_model_with_more_labels_asks_which(tmp_path: Path, engine: EngineName) -> None:
    message = "has 3 labels: 'LABEL_0', 'LABEL_1', 'LABEL_2'. Say which one is the score with label="
    with pytest.raises(InputError, match=message):
        CrossEncoderRerankFunction(str(save_tiny_model("bert", tmp_path, labels=3)), device="cpu", engine=engine)


@pytest.mark.parametrize("engine", ENGINES)
def test_an_embedding_model_is_refused(tmp_path: Path, engine: EngineName) -> None:
    with pytest.raises(ModelError, match="not a trained reranker: its weights lack classifier"):
        CrossEncoderRerankFunction(str(save_embedding_model(tmp_path)), device="cpu", engine=engine)


@pytest.mark.parametrize("engine", ENGINES)
def test_a_model_of_another_kind_is_refused(folder: str, tmp_path: Path, engine: EngineName) -> None:
    shutil.copytree(folder, tmp_path / "m")
    path = tmp_path / "m" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"architectures": ["GPT2LMHeadModel"]}))
    with pytest.raises(ModelError, match="is a GPT2LMHeadModel; expected a cross-encoder"):
        CrossEncoderRerankFunction(str(tmp_path / "m"), device="cpu", engine=engine)


@pytest.mark.parametrize("engine", ENGINES)
def test_a_hub_model_that_is_not_cached_says_what_to_do(tmp_path: Path, engine: EngineName) -> None:
    options: dict[str, Any] = {"device": "cpu", "hub": HubOptions(cache_dir=tmp_path), "engine": engine}
    with pytest.raises(ModelError, match=r"cannot be loaded \(local_files_only=True and it is not in the cache"):
        CrossEncoderRerankFunction("no-one/no-model", local_files_only=True, **options)
    with pytest.raises(ModelError, match=r"cannot be loaded \(check the name and the network, or give a local folder"):
        CrossEncoderRerankFunction("no-one/no-model", **options)  # HF_HUB_OFFLINE is set: the network is not asked
    with pytest.raises(ModelError, match=r"cannot be loaded \(check the name and the network, or give a local folder"):
        CrossEncoderRerankFunction("no model's name", **options)


def cached(folder: str, cache: Path) -> str:
    """Put two revisions of a model into a hub cache, as a download would; the second has another activation."""
    home = cache / "models--someone--tiny"
    for revision, activation in (("1" * 40, "Identity"), ("2" * 40, "Tanh")):
        snapshot = home / "snapshots" / revision
        shutil.copytree(folder, snapshot)
        config = json.loads((snapshot / "config.json").read_text())
        config["sentence_transformers"] = {"activation_fn": f"torch.nn.modules.x.{activation}"}
        (snapshot / "config.json").write_text(json.dumps(config))
    (home / "refs").mkdir()
    (home / "refs" / "main").write_text("1" * 40)
    return "someone/tiny"


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("make", [CrossEncoderRerankFunction, BGERerankFunction])
def test_a_cached_model_loads_offline_from_its_cache_folder(
    make: Any, engine: EngineName, folder: str, tmp_path: Path
) -> None:
    name = cached(folder, tmp_path)
    options: dict[str, Any] = {"device": "cpu", "engine": engine}
    reranker = make(name, hub=HubOptions(cache_dir=tmp_path), local_files_only=True, **options)
    assert reranker.score(QUERY, TEXTS[:4]) == make(folder, **options).score(QUERY, TEXTS[:4])


@pytest.mark.parametrize("engine", ENGINES)
def test_a_revision_is_the_one_that_loads(folder: str, tmp_path: Path, engine: EngineName) -> None:
    name = cached(folder, tmp_path)
    options: dict[str, Any] = {"device": "cpu", "local_files_only": True, "engine": engine}
    first = CrossEncoderRerankFunction(name, hub=HubOptions(cache_dir=str(tmp_path)), **options).score(QUERY, TEXTS)
    hub = HubOptions("2" * 40, tmp_path)
    second = CrossEncoderRerankFunction(name, hub=hub, **options).score(QUERY, TEXTS)
    np.testing.assert_allclose(second, np.tanh(first), atol=1e-6)
    with pytest.raises(ModelError, match="cannot be loaded"):
        CrossEncoderRerankFunction(name, hub=HubOptions("3" * 40, tmp_path), **options)


def test_code_that_comes_with_a_model_runs_only_when_asked_for(folder: str, tmp_path: Path) -> None:
    model = tmp_path / "model"
    shutil.copytree(folder, model)
    config = json.loads((model / "config.json").read_text())
    config |= {
        "model_type": "own",
        "auto_map": {"AutoConfig": "own.Own", "AutoModelForSequenceClassification": "own.M"},
    }
    (model / "config.json").write_text(json.dumps(config))
    (model / "own.py").write_text(
        "from pathlib import Path\n"
        "from transformers import BertConfig, BertForSequenceClassification\n"
        f"Path({str(tmp_path / 'ran')!r}).touch()\n"
        "class Own(BertConfig):\n    model_type = 'own'\n"
        "class M(BertForSequenceClassification):\n    config_class = Own\n"
    )
    code = f"""
import sys, milvus_rerank, milvus_rerank.errors
trust = len(sys.argv) > 1
for make in (milvus_rerank.CrossEncoderRerankFunction, milvus_rerank.BGERerankFunction):
    try:
        print(make({str(model)!r}, device="cpu", trust_remote_code=trust).scorer.engine.name)
    except milvus_rerank.errors.ModelError as error:
        print(error)
"""
    environment = {**os.environ, "HF_HOME": str(tmp_path / "home")}

    def load(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", code, *arguments]
        return subprocess.run(command, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True)

    assert load().stdout.count("if you trust it, pass trust_remote_code=True\n") == 2
    assert not (tmp_path / "ran").exists()
    assert load("trust").stdout == "torch\ntorch\n"
    assert (tmp_path / "ran").exists()


@pytest.mark.parametrize("activation", [lambda x: 1.0, lambda x: x[:1], lambda x: x.reshape(-1, 1)])
def test_an_activation_must_keep_the_shape(folder: str, activation: Any) -> None:
    with pytest.raises(ScoreError, match="the activation must return a tensor of shape"):
        CrossEncoderRerankFunction(folder, device="cpu", activation_fct=activation).score(QUERY, TEXTS)


@pytest.mark.parametrize("max_length", [None, "512"])
def test_a_limit_of_bge_that_is_no_number_is_named(folder: str, max_length: Any) -> None:
    if max_length is None:
        assert BGERerankFunction(folder, device="cpu", max_length=None).scorer.encoder.max_length == 64
    else:
        with pytest.raises(InputError, match="max_length must be a positive integer"):
            BGERerankFunction(folder, device="cpu", max_length=max_length)


def test_torch_running_out_of_memory_is_recognised() -> None:
    assert is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory"))
    assert is_out_of_memory(RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried"))
    assert not is_out_of_memory(RuntimeError("shape mismatch"))


def test_a_failure_that_is_not_about_memory_is_raised_as_it_is(folder: str) -> None:
    class Broken(torch.nn.Module):
        def forward(self, **inputs: Any) -> Any:
            raise RuntimeError("shape mismatch")

    from milvus_rerank.engines import Batch

    ids = np.ones((1, 2), dtype=np.int64)
    with pytest.raises(RuntimeError, match="shape mismatch"):
        TorchEngine(Broken()).logits(Batch(ids, ids, None))


@pytest.mark.parametrize("engine", ENGINES)
def test_progress_bars_are_shown_only_when_asked_for(
    folder: str, engine: EngineName, capfd: pytest.CaptureFixture[str]
) -> None:
    quiet = CrossEncoderRerankFunction(folder, device="cpu", engine=engine)
    quiet(QUERY, TEXTS)
    assert capfd.readouterr() == ("", "")
    shown = CrossEncoderRerankFunction(folder, device="cpu", engine=engine, show_progress=True)
    loading = capfd.readouterr()
    assert ("Loading weights" in loading.err) == (engine == "torch")  # the others read no weights while loading
    shown(QUERY, TEXTS)
    scoring = capfd.readouterr()
    assert (loading.out, scoring.out) == ("", "")
    assert f"{len(TEXTS)}/{len(TEXTS)}" in scoring.err
