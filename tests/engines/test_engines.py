"""Which engine runs a model, how, and what is said when it cannot."""

import logging
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pair_texts import QUERIES, TEXTS

from milvus_rerank import BGERerankFunction, CrossEncoderRerankFunction
from milvus_rerank.engines import Batch
from milvus_rerank.engines.base import pick_inputs
from milvus_rerank.engines.onnx_engine import OnnxEngine
from milvus_rerank.engines.openvino_engine import OpenVINOEngine
from milvus_rerank.engines.select import EngineName, choose_device, choose_dtype, cpu_limit
from milvus_rerank.engines.torch_engine import TorchEngine
from milvus_rerank.errors import InputError, ModelError
from milvus_rerank.loading.inspect import inspect_model
from milvus_rerank.loading.options import FlagOptions, LoadOptions
from milvus_rerank.loading.select import select_engine
from milvus_rerank.models import ModelSource
from milvus_rerank.models.files import read_config
from milvus_rerank.models.weights import read_tensors
from milvus_rerank.onnx_graphs.build import build, save

pytestmark = pytest.mark.compat

GRAPH_ENGINES = ("onnx", "openvino")
QUERY = QUERIES[0]
BUILTIN = inspect_model(ModelSource("builtin/rerank"))
V2_M3 = {
    "model_type": "xlm-roberta",
    "hidden_act": "gelu",
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "max_position_embeddings": 8194,
    "num_attention_heads": 16,
    "num_hidden_layers": 24,
    "vocab_size": 250_002,
}


def load(folder: Path, engine: EngineName, **options: Any) -> CrossEncoderRerankFunction:
    return CrossEncoderRerankFunction(str(folder), device="cpu", engine=engine, activation_fct="raw", **options)


def scores(folder: Path, engine: EngineName, **options: Any) -> np.ndarray:
    return np.array(load(folder, engine, **options).score(QUERY, TEXTS))


def write_graph(source: Path, path: Path) -> None:
    """Write a model's graph where a model carries it."""
    path.parent.mkdir(exist_ok=True, parents=True)
    save(build(read_config(source), read_tensors(source), with_types=True, embed=True), path)


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory, tiny: dict[str, Path]) -> Path:
    """A model like tiny["bert"], whose scores are all 3 more."""
    from safetensors.numpy import load_file, save_file

    folder = tmp_path_factory.mktemp("other") / "model"
    shutil.copytree(tiny["bert"], folder)
    weights = load_file(folder / "model.safetensors")
    save_file(weights | {"classifier.bias": weights["classifier.bias"] + 3}, folder / "model.safetensors")
    return folder


def copy_with_graph(source: Path, target: Path, graph: Path, name: str = "onnx/model.onnx") -> Path:
    """Copy a model to a folder that carries the graph of another, and no weights."""
    shutil.copytree(source, target, ignore=shutil.ignore_patterns("*.safetensors"))
    write_graph(graph, target / name)
    return target


# which engine

PROBE = """
import sys
sys.modules.update(dict.fromkeys(sys.argv[2].split()))
from milvus_rerank import CrossEncoderRerankFunction, errors
try:
    engine = CrossEncoderRerankFunction(sys.argv[1], device="cpu", local_files_only=True).scorer.engine
    print(engine.name, "torch" in sys.modules and sys.modules["torch"] is not None)
except errors.RerankError as error:
    print(f"{type(error).__name__}: {error}")
"""


def probe(model: object, missing: str) -> str:
    """Return which engine ``auto`` takes where packages are missing, and whether torch was imported."""
    command = [sys.executable, "-c", PROBE, str(model), missing]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


@pytest.mark.parametrize(
    ("missing", "expected"),
    [
        ("", "openvino False"),
        ("openvino", "onnx False"),
        ("openvino onnxruntime", "torch True"),
        ("torch transformers", "openvino False"),
    ],
)
def test_auto_takes_the_fastest_engine_that_is_installed(missing: str, expected: str) -> None:
    assert probe("builtin/rerank", missing) == expected


@pytest.mark.parametrize(
    ("missing", "expected"), [("torch transformers", "openvino False"), ("openvino", "onnx False")]
)
@pytest.mark.parametrize("architecture", ["modernbert", "deberta-v2", "mpnet", "albert"])
def test_auto_needs_no_torch_for_families_whose_graphs_are_built(
    tiny: dict[str, Path], missing: str, expected: str, architecture: str
) -> None:
    assert probe(tiny[architecture], missing) == expected


def test_auto_takes_torch_for_a_model_that_would_have_to_be_traced(
    tiny: dict[str, Path], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.DEBUG, "milvus_rerank"):
        reranker = CrossEncoderRerankFunction(str(tiny["traced"]), device="cpu")
    assert reranker.scorer.engine.name == "torch"
    [line] = [message for message in caplog.messages if message.startswith("engine torch runs model")]
    for engine in ("openvino", "onnx"):
        assert f"must be traced by torch first; ask for engine='{engine}' to do so" in line
    assert 'pip install "milvus-rerank[torch]"' in probe(tiny["traced"], "torch")


@pytest.mark.parametrize(
    ("engine", "device", "dtype", "missing", "expected"),
    [
        ("auto", "cpu", "float32", "", "openvino"),
        ("auto", "cpu", "auto", "", "openvino"),
        ("auto", "cpu", "float32", "openvino", "onnx"),
        ("auto", "cpu", "float32", "openvino onnxruntime", "torch"),
        ("auto", "cpu", "bfloat16", "openvino", "torch"),
        ("auto", "cuda:0", "float16", "", "torch"),
        ("onnx", "cpu", "float32", "", "onnx"),
        ("torch", "cpu", "float32", "", "torch"),
    ],
)
def test_the_engine_is_the_first_of_the_table_that_can(
    monkeypatch: pytest.MonkeyPatch, engine: Any, device: str, dtype: Any, missing: str, expected: str
) -> None:
    for package in missing.split():
        monkeypatch.setitem(sys.modules, package, None)
    assert select_engine(BUILTIN, LoadOptions(BUILTIN.source, engine=engine, dtype=dtype), device) == expected


@pytest.mark.parametrize(
    ("changes", "options", "expected"),
    [
        ({"model_type": "causal"}, {}, "torch"),
        ({"has_chat_template": True}, {}, "torch"),
        ({"has_chat_template": True}, {"flag": FlagOptions()}, "openvino"),
        ({"can_build": False}, {}, "torch"),
        ({"can_build": False}, {"engine": "onnx"}, "onnx"),
        ({"can_build": False, "files": ("onnx/model.onnx",)}, {}, "openvino"),
        ({"files": ("onnx/model_int8.onnx",)}, {"dtype": "int8"}, "onnx"),
        ({"config": V2_M3}, {}, "onnx"),
        ({"config": V2_M3}, {"dtype": "auto"}, "openvino"),
        ({"config": V2_M3 | {"num_hidden_layers": 1, "vocab_size": 1000}}, {}, "openvino"),
    ],
)
def test_the_engine_follows_what_the_model_is(changes: dict[str, Any], options: dict[str, Any], expected: str) -> None:
    info = replace(BUILTIN, **changes)
    assert select_engine(info, LoadOptions(info.source, **options), "cpu") == expected


@pytest.mark.parametrize(
    ("options", "device", "words"),
    [
        (
            {"engine": "onnx", "dtype": "bfloat16"},
            "cpu",
            "engine 'onnx' has no dtype 'bfloat16' on cpu; use 'openvino' or 'torch'",
        ),
        (
            {"engine": "torch", "dtype": "int8"},
            "cpu",
            "engine 'torch' has no dtype 'int8' on cpu; use 'openvino' or 'onnx'",
        ),
        ({"dtype": "int8"}, "cuda:0", "dtype 'int8' needs the CPU, got device 'cuda:0'"),
        (
            {"dtype": "int8"},
            "cpu",
            "openvino: .* no int8 files .*; onnx: .* no int8 files .*; torch: it has no dtype 'int8'",
        ),
    ],
)
def test_an_engine_that_cannot_run_a_model_says_which_can(options: dict[str, Any], device: str, words: str) -> None:
    with pytest.raises(InputError, match=words):
        select_engine(BUILTIN, LoadOptions(BUILTIN.source, **options), device)


def test_an_unknown_engine_or_dtype_lists_the_known() -> None:
    options: dict[str, Any] = {"engine": "tensorrt"}
    with pytest.raises(InputError, match="engine must be one of 'auto', 'torch', 'onnx', 'openvino', got 'tensorrt'"):
        CrossEncoderRerankFunction(**options)
    options = {"dtype": "fp16"}
    with pytest.raises(InputError, match=r"dtype must be one of 'float32', .*, got 'fp16'"):
        CrossEncoderRerankFunction(**options)


@pytest.mark.parametrize("engine", GRAPH_ENGINES)
def test_the_cpu_engines_take_the_cpu_where_no_device_is_named(engine: EngineName) -> None:
    assert [choose_device(device, engine) for device in (None, "", "auto", "cpu")] == ["cpu"] * 4
    with pytest.raises(InputError, match="device must be 'cpu', 'cuda', 'cuda:n', 'mps' or 'auto', got 'gpu'"):
        choose_device("gpu", engine)


@pytest.mark.parametrize(
    ("dtype", "engine", "device", "hardware", "expected"),
    [
        ("auto", "openvino", "cpu", True, "bfloat16"),
        ("auto", "torch", "cpu", True, "bfloat16"),
        ("auto", "openvino", "cpu", False, "float32"),
        ("auto", "onnx", "cpu", True, "float32"),
        ("auto", "torch", "cuda:0", False, "float16"),
        ("auto", "torch", "mps", False, "float32"),
        ("float16", "torch", "cpu", True, "float32"),
        ("float16", "openvino", "cpu", True, "float32"),
        ("float16", "torch", "cuda:0", False, "float16"),
        ("bfloat16", "openvino", "cpu", False, "float32"),
        ("bfloat16", "openvino", "cpu", True, "bfloat16"),
        ("bfloat16", "torch", "cpu", False, "bfloat16"),
        ("int8", "onnx", "cpu", True, "int8"),
    ],
)
def test_the_precision_follows_the_hardware(
    dtype: str, engine: EngineName, device: str, hardware: bool, expected: str
) -> None:
    assert choose_dtype(dtype, engine, device, lambda: hardware) == expected


# threads


@pytest.mark.parametrize("threads", [1, 2])
def test_the_number_of_threads_is_the_engines(tiny: dict[str, Path], threads: int) -> None:
    openvino = load(tiny["bert"], "openvino", threads=threads).scorer.engine
    assert isinstance(openvino, OpenVINOEngine)
    assert openvino._compiled.get_property("INFERENCE_NUM_THREADS") == threads
    onnx = load(tiny["bert"], "onnx", threads=threads).scorer.engine
    assert isinstance(onnx, OnnxEngine)
    assert onnx._session.get_session_options().intra_op_num_threads == threads


def test_torch_gets_no_more_threads_than_asked_for() -> None:
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(4)
        TorchEngine(torch.nn.Identity(), threads=8)
        assert torch.get_num_threads() == 4
        TorchEngine(torch.nn.Identity(), threads=3)
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("threads", [0, -1, 1.5, "2"])
def test_the_number_of_threads_must_be_a_positive_integer(tiny: dict[str, Path], threads: Any) -> None:
    with pytest.raises(InputError, match="threads must be a positive integer"):
        load(tiny["bert"], "onnx", threads=threads)


def test_a_quota_of_cpus_is_a_positive_number_or_none() -> None:
    limit = cpu_limit()
    assert limit is None or 1 <= limit < (os.cpu_count() or 1)


# files that a model carries


@pytest.mark.parametrize("engine", ["auto", *GRAPH_ENGINES])
def test_a_graph_that_a_model_carries_is_the_one_that_runs(
    tiny: dict[str, Path], other: Path, tmp_path: Path, engine: EngineName
) -> None:
    folder = copy_with_graph(tiny["bert"], tmp_path / "m", other)
    np.testing.assert_allclose(scores(folder, engine), scores(tiny["bert"], "torch") + 3, atol=1e-5)
    assert sorted(path.name for path in folder.rglob("*.safetensors")) == []


@pytest.mark.parametrize("engine", ["auto", *GRAPH_ENGINES])
def test_weights_come_before_a_graph_beside_them(
    tiny: dict[str, Path], other: Path, tmp_path: Path, engine: EngineName, caplog: pytest.LogCaptureFixture
) -> None:
    folder = copy_with_graph(tiny["bert"], tmp_path / "m", other)
    shutil.copy(tiny["bert"] / "model.safetensors", folder)
    with caplog.at_level(logging.INFO, "milvus_rerank"):
        np.testing.assert_allclose(scores(folder, engine), scores(tiny["bert"], "torch"), atol=1e-5)
    assert f"model {folder} runs from its weights; its onnx/model.onnx is not used" in caplog.messages


@pytest.mark.parametrize("engine", GRAPH_ENGINES)
def test_a_carried_graph_needs_no_weights_beside_it(
    tiny: dict[str, Path], tmp_path: Path, engine: EngineName, graphs: Path
) -> None:
    folder = copy_with_graph(tiny["bert"], tmp_path / "m", tiny["bert"])
    before = set(graphs.iterdir())
    np.testing.assert_allclose(scores(folder, engine), scores(tiny["bert"], "torch"), atol=1e-5)
    assert set(graphs.iterdir()) == before, "a graph was made although there is one"


def test_openvinos_own_files_come_before_onnx(tiny: dict[str, Path], other: Path, tmp_path: Path) -> None:
    import openvino

    folder = copy_with_graph(tiny["bert"], tmp_path / "m", tiny["bert"])
    write_graph(other, tmp_path / "other.onnx")
    (folder / "openvino").mkdir()
    model = openvino.Core().read_model(tmp_path / "other.onnx")
    openvino.save_model(model, folder / "openvino" / "openvino_model.xml", compress_to_fp16=False)
    np.testing.assert_allclose(scores(folder, "openvino"), scores(tiny["bert"], "torch") + 3, atol=1e-5)
    np.testing.assert_allclose(scores(folder, "onnx"), scores(tiny["bert"], "torch"), atol=1e-5)


@pytest.mark.parametrize("name", ["model_qint8_avx512_vnni.onnx", "model_int8.onnx", "model_quantized.onnx"])
def test_int8_takes_the_files_that_others_write(tiny: dict[str, Path], other: Path, tmp_path: Path, name: str) -> None:
    folder = copy_with_graph(tiny["bert"], tmp_path / "m", other, f"onnx/{name}")
    reranker = load(folder, "auto", dtype="int8")
    assert (reranker.scorer.engine.name, reranker.scorer.engine.dtype) == ("onnx", "int8")
    np.testing.assert_allclose(reranker.score(QUERY, TEXTS), scores(tiny["bert"], "torch") + 3, atol=1e-5)


@pytest.mark.parametrize("engine", ["auto", *GRAPH_ENGINES])
def test_int8_without_such_files_says_how_to_make_them(tiny: dict[str, Path], engine: EngineName) -> None:
    last = "onnx" if engine == "auto" else engine
    words = rf"carries no int8 files for engine '{last}'.*milvus-rerank export .* --dtype int8 --engine {last}"
    with pytest.raises(InputError, match=words):
        load(tiny["bert"], engine, dtype="int8")


# what is wrong with a graph


@pytest.mark.parametrize("engine", GRAPH_ENGINES)
@pytest.mark.parametrize("damage", ["cut", "empty", "garbage", "no weights"])
def test_a_damaged_graph_is_named(tiny: dict[str, Path], tmp_path: Path, engine: EngineName, damage: str) -> None:
    folder = copy_with_graph(tiny["bert"], tmp_path / "m", tiny["bert"])
    path = folder / "onnx" / "model.onnx"
    if damage == "no weights":
        path.with_name("model.onnx_data").unlink()
    else:
        whole = path.read_bytes()
        path.write_bytes({"cut": whole[: len(whole) // 2], "empty": b"", "garbage": b"not a graph"}[damage])
    words = {
        "empty": r"onnx.model\.onnx is empty",
        "no weights": r"onnx.model\.onnx_data cannot be read \(No such file",
    }
    with pytest.raises(ModelError, match=words.get(damage, r"model\.onnx cannot be read: .*export it again")):
        scores(folder, engine)


def with_input(source: Path, path: Path, *, rename: str | None = None, outputs: int = 1) -> None:
    """Change a graph: another name for its mask, or more than one logit."""
    import onnx

    model = onnx.load(source)
    if rename is not None:
        for node in model.graph.node:
            node.input[:] = [rename if name == "attention_mask" else name for name in node.input]
        next(given for given in model.graph.input if given.name == "attention_mask").name = rename
    if outputs > 1:
        model.graph.node[-1].output[0] = "one"
        model.graph.node.append(onnx.helper.make_node("Concat", ["one"] * outputs, ["logits"], axis=1))
        model.graph.output[0].type.tensor_type.shape.dim[1].dim_value = outputs
    onnx.save_model(model, path)


@pytest.mark.parametrize("engine", GRAPH_ENGINES)
def test_a_graph_with_an_input_that_no_one_makes_is_named(
    tiny: dict[str, Path], tmp_path: Path, engine: EngineName
) -> None:
    folder = copy_with_graph(tiny["bert"], tmp_path / "m", tiny["bert"])
    with_input(folder / "onnx" / "model.onnx", folder / "onnx" / "model.onnx", rename="pixel_values")
    with pytest.raises(ModelError, match=r"model\.onnx takes .*'pixel_values'"):
        scores(folder, engine)


@pytest.mark.parametrize("engine", GRAPH_ENGINES)
def test_a_graph_with_more_logits_than_one_is_named(tiny: dict[str, Path], tmp_path: Path, engine: EngineName) -> None:
    folder = copy_with_graph(tiny["bert"], tmp_path / "m", tiny["bert"])
    with_input(folder / "onnx" / "model.onnx", folder / "onnx" / "model.onnx", outputs=3)
    with pytest.raises(ModelError, match=r"gives shape \(\d+, 3\)"):
        scores(folder, engine)


def test_inputs_are_those_that_a_graph_takes() -> None:
    ids = np.array([[5, 6]])
    batch = Batch(ids, np.ones_like(ids), None)
    assert set(pick_inputs(batch, frozenset({"input_ids", "attention_mask"}))) == {"input_ids", "attention_mask"}
    assert set(pick_inputs(batch, frozenset({"input_ids"}))) == {"input_ids"}
    made = pick_inputs(batch, frozenset({"input_ids", "attention_mask", "token_type_ids"}))
    np.testing.assert_array_equal(made["token_type_ids"], [[0, 0]])
    given = pick_inputs(Batch(ids, ids, np.array([[0, 1]])), frozenset({"token_type_ids"}))
    np.testing.assert_array_equal(given["token_type_ids"], [[0, 1]])


# many at once


@pytest.mark.parametrize("engine", GRAPH_ENGINES)
def test_threads_share_one_object(tiny: dict[str, Path], engine: EngineName) -> None:
    from concurrent.futures import ThreadPoolExecutor

    reranker = load(tiny["bert"], engine)
    expected = {query: reranker.score(query, TEXTS) for query in QUERIES}
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda query: (query, reranker.score(query, TEXTS)), QUERIES * 6))
    for query, made in found:
        np.testing.assert_allclose(made, expected[query], atol=1e-6)


@pytest.mark.parametrize("engine", GRAPH_ENGINES)
def test_bge_takes_an_engine_too(tiny: dict[str, Path], engine: EngineName) -> None:
    reranker = BGERerankFunction(str(tiny["xlm-roberta"]), device="cpu", engine=engine)
    assert f"engine={engine!r}" in repr(reranker)
    expected = BGERerankFunction(str(tiny["xlm-roberta"]), device="cpu", engine="torch").score(QUERY, TEXTS)
    np.testing.assert_allclose(reranker.score(QUERY, TEXTS), expected, atol=1e-6)
