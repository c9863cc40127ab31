"""Models as they lie on disk: incomplete, interrupted, pointers, and of parts that do not fit together."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pair_texts import QUERIES, TEXTS
from safetensors.numpy import load_file, save_file
from tiny_models import save_tiny_model

from milvus_rerank import CrossEncoderRerankFunction
from milvus_rerank.engines.select import EngineName
from milvus_rerank.errors import InputError, ModelError

ENGINES: tuple[EngineName, ...] = ("torch", "onnx", "openvino")
POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:" + "0" * 64 + "\nsize 90888945\n"


@pytest.fixture
def folder(tiny: dict[str, Path], tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny["bert"], tmp_path / "m"))


def load(folder: Path, engine: EngineName, **options: Any) -> CrossEncoderRerankFunction:
    return CrossEncoderRerankFunction(str(folder), device="cpu", engine=engine, **options)


def change_config(folder: Path, **values: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def change_weights(folder: Path, change: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    weights = load_file(folder / "model.safetensors")
    save_file(change(weights), folder / "model.safetensors")


def cut(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1000])


def shard(folder: Path, **moved: str) -> None:
    """Write the weights as two shards with an index, in which weights may be moved to other files."""
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names = {name: f"model-0000{1 + index % 2}-of-00002.safetensors" for index, name in enumerate(weights)}
    for file in set(names.values()):
        save_file({name: weights[name] for name in names if names[name] == file}, folder / file)
    names |= {name.replace("__", "."): file for name, file in moved.items()}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": names}))


def lose_shard(folder: Path) -> None:
    shard(folder)
    (folder / "model-00002-of-00002.safetensors").unlink()


def adapt(folder: Path) -> None:
    (folder / "adapter_config.json").write_text('{"base_model_name_or_path": "base"}')
    (folder / "model.safetensors").rename(folder / "adapter_model.safetensors")


def adapt_alone(folder: Path) -> None:
    adapt(folder)
    (folder / "config.json").unlink()


def pickle_pointer(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_text(POINTER)


def pickle_index(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin.index.json").write_text('{"weight_map": {"a": "/dev/zero"}}')


def empty_index(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors.index.json").write_text("{}")


def link_to_zeros(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors").symlink_to("/dev/zero")


def to_int8(weights: dict[str, Any]) -> dict[str, Any]:
    name = "bert.encoder.layer.0.output.dense.weight"
    return weights | {name: weights[name].astype(np.int8)}


def quantised_fp8(weights: dict[str, Any]) -> dict[str, Any]:
    return weights | {"bert.encoder.layer.0.output.dense.weight_scale_inv": np.ones((1, 1), np.float32)}


def fewer_words(folder: Path) -> None:
    """Cut the table of tokens, and say so in the config: only the tokenizer has more."""
    change_config(folder, vocab_size=100)
    table = "bert.embeddings.word_embeddings.weight"
    change_weights(folder, lambda weights: weights | {table: weights[table][:100].copy()})


def fewer_positions(folder: Path) -> None:
    table = "bert.embeddings.position_embeddings.weight"
    change_weights(folder, lambda weights: weights | {table: weights[table][:10].copy()})


def more_layers(weights: dict[str, Any]) -> dict[str, Any]:
    more = {name.replace("layer.1.", "layer.2."): array for name, array in weights.items() if "layer.1." in name}
    return weights | {name: array.copy() for name, array in more.items()}


def with_prefix(prefix: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        change_weights(folder, lambda weights: {prefix + name: array for name, array in weights.items()})

    return change


FAULTS: dict[str, tuple[Callable[[Path], object], str]] = {
    "pointer weights": (
        lambda folder: (folder / "model.safetensors").write_text(POINTER),
        r"model\.safetensors is a Git LFS pointer, not the file itself; type in its folder: git lfs pull",
    ),
    "pointer tokenizer": (
        lambda folder: (folder / "tokenizer.json").write_text(POINTER),
        r"tokenizer\.json is a Git LFS pointer",
    ),
    "pointer config": (
        lambda folder: (folder / "config.json").write_text(POINTER),
        r"config\.json is a Git LFS pointer",
    ),
    "pointer pickle": (pickle_pointer, r"pytorch_model\.bin is a Git LFS pointer"),
    "empty weights": (lambda folder: (folder / "model.safetensors").write_bytes(b""), r"model\.safetensors is empty"),
    "cut weights": (cut, r"model\.safetensors is incomplete: it has \d+ of \d+ bytes; download the model again"),
    "no weights": (
        lambda folder: (folder / "model.safetensors").unlink(),
        r"has no weights: expected model\.safetensors",
    ),
    "no tokenizer": (
        lambda folder: (folder / "tokenizer.json").unlink(),
        r"has no tokenizer: expected tokenizer\.json",
    ),
    "lost shard": (lose_shard, r"model-00002-of-00002\.safetensors cannot be read \(No such file"),
    "shard outside": (
        lambda folder: shard(folder, classifier__bias="../x.safetensors"),
        r"index\.json names '\.\./x\.safetensors', expected a \.safetensors file in its own folder",
    ),
    "shard device": (lambda folder: shard(folder, classifier__bias="/dev/zero"), r"index\.json names '/dev/zero'"),
    "pickle device": (pickle_index, r"index\.json names '/dev/zero', expected a \.bin file in its own folder"),
    "weight not in its shard": (
        lambda folder: shard(folder, other__weight="model-00001-of-00002.safetensors"),
        r"model-00001-of-00002\.safetensors lacks the weight 'other\.weight'",
    ),
    "empty index": (
        empty_index,
        r"index\.json must hold a 'weight_map'",
    ),
    "endless link": (
        link_to_zeros,
        r"has no weights: expected model",
    ),
    "adapter": (adapt, r"holds a LoRA adapter, not a whole model; merge it .* with peft"),
    "adapter alone": (adapt_alone, r"holds a LoRA adapter, not a whole model"),
    "data parallel": (with_prefix("module."), r"begin with 'module\.': they were saved from a wrapped model"),
    "compiled": (with_prefix("_orig_mod."), r"begin with '_orig_mod\.'"),
    "int8": (lambda folder: change_weights(folder, to_int8), r"holds quantised weights \('bert.*' is I8\)"),
    "fp8 with scales": (
        lambda folder: change_weights(folder, quantised_fp8),
        r"holds quantised weights \('bert.*scale_inv'",
    ),
    "quantisation settings": (
        lambda folder: change_config(folder, quantization_config={"quant_method": "bitsandbytes"}),
        r"has quantised weights, which do not run here",
    ),
    "too few words": (fewer_words, r"its tokenizer makes tokens up to \d+, the model has 100"),
    "too few positions": (fewer_positions, r"position_embeddings"),
    "more layers": (
        lambda folder: change_weights(folder, more_layers),
        r"does not fit together: .*(3 layers|layer\.2)",
    ),
    "heads": (lambda folder: change_config(folder, num_attention_heads=5), r"5"),
    "byte order mark": (
        lambda folder: (folder / "config.json").write_text((folder / "config.json").read_text(), "utf-8-sig"),
        r"config\.json begins with a byte order mark; save it as UTF-8 without one",
    ),
    "deep config": (
        lambda folder: (folder / "config.json").write_text('{"a": ' + "[" * 100_000 + "]" * 100_000 + "}"),
        r"config\.json cannot be read",
    ),
    "list config": (lambda folder: (folder / "config.json").write_text("[]"), r"config\.json must hold a JSON object"),
}


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_named_with_its_mend(folder: Path, fault: str, engine: EngineName) -> None:
    change, words = FAULTS[fault]
    change(folder)
    with pytest.raises(ModelError, match=words) as caught:
        load(folder, engine)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("engine", ENGINES)
def test_whole_shards_load(folder: Path, engine: EngineName) -> None:
    expected = load(folder, engine).score(QUERIES[0], TEXTS)
    shard(folder)
    np.testing.assert_allclose(load(folder, engine).score(QUERIES[0], TEXTS), expected, atol=1e-6)


@pytest.mark.parametrize("engine", ["onnx", "openvino"])
def test_a_whole_graph_runs_where_the_weights_are_a_pointer(
    folder: Path, engine: EngineName, caplog: pytest.LogCaptureFixture
) -> None:
    expected = load(folder, engine).score(QUERIES[0], TEXTS)
    carry(folder)
    (folder / "model.safetensors").write_text(POINTER)
    np.testing.assert_allclose(load(folder, engine).score(QUERIES[0], TEXTS), expected, atol=1e-6)
    assert "model.safetensors is a Git LFS pointer and is not used; to get the file: git lfs pull" in caplog.messages


def carry(folder: Path, name: str = "onnx/model.onnx") -> Path:
    """Write a graph of the model's weights into its folder."""
    from milvus_rerank.models.files import read_config
    from milvus_rerank.models.weights import read_tensors
    from milvus_rerank.onnx_graphs.cache import write_built

    path = folder / name
    path.parent.mkdir(exist_ok=True)
    write_built(path, read_config(folder), read_tensors(folder), "m", with_types=True)
    return path


@pytest.mark.parametrize("engine", ["auto", "onnx", "openvino"])
def test_a_graph_at_the_top_is_found(folder: Path, engine: EngineName) -> None:
    expected = load(folder, "torch").score(QUERIES[0], TEXTS)
    carry(folder, "model.onnx")
    (folder / "model.safetensors").unlink()
    np.testing.assert_allclose(load(folder, engine).score(QUERIES[0], TEXTS), expected, atol=1e-5)


@pytest.mark.parametrize("engine", ["auto", *ENGINES])
def test_a_folder_with_only_an_int8_graph_says_so(folder: Path, engine: EngineName) -> None:
    carry(folder, "onnx/model_quantized.onnx")
    (folder / "model.safetensors").unlink()
    words = r"has only an int8 graph, onnx/model_quantized\.onnx: load it with dtype='int8'"
    with pytest.raises(ModelError, match=words):
        load(folder, engine)
    assert load(folder, "onnx", dtype="int8").score(QUERIES[0], TEXTS[:1])


@pytest.mark.parametrize("engine", ["onnx", "openvino"])
@pytest.mark.parametrize("kind", ["onnx", "xml"])
@pytest.mark.parametrize("changed", ["classifier.bias", "bert.embeddings.LayerNorm.weight"])
def test_a_graph_of_other_weights_is_refused(tmp_path: Path, engine: EngineName, kind: str, changed: str) -> None:
    if kind == "xml" and engine == "onnx":
        pytest.skip("only OpenVINO reads .xml")
    folder = save_tiny_model("bert", tmp_path / "m", labels=2)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"hidden_act": "silu"}))  # no graph is built for it
    change_weights(folder, lambda weights: weights | {"classifier.bias": np.array([0.5, -0.25], np.float32)})
    write_two_labels(folder, kind)
    scores = load(folder, engine, label=1).score(QUERIES[0], TEXTS)
    np.testing.assert_allclose(scores, load(folder, "torch", label=1).score(QUERIES[0], TEXTS), atol=1e-3)
    change_weights(folder, lambda weights: weights | {changed: weights[changed] + 1})
    with pytest.raises(ModelError, match=rf"was made from other weights than those beside it \('.*{changed}' differs"):
        load(folder, engine, label=1)
    assert load(folder, "torch", label=1).score(QUERIES[0], TEXTS) != scores


def write_two_labels(folder: Path, kind: str) -> None:
    from milvus_rerank.models import ModelSource
    from milvus_rerank.onnx_graphs.cache import write_traced

    (folder / "onnx").mkdir()
    graph = folder / "onnx" / "model.onnx"
    write_traced(graph, ModelSource(str(folder)), folder, ["input_ids", "attention_mask", "token_type_ids"])
    if kind == "xml":
        import openvino

        (folder / "openvino").mkdir()
        model = openvino.Core().read_model(graph)
        openvino.save_model(model, folder / "openvino" / "openvino_model.xml", compress_to_fp16=True)
        shutil.rmtree(folder / "onnx")


@pytest.mark.parametrize("engine", ["onnx", "openvino"])
@pytest.mark.parametrize("part", ["tokens", "positions"])
def test_a_graph_with_smaller_tables_is_refused(folder: Path, engine: EngineName, part: str) -> None:
    whole = folder.with_name("whole")
    shutil.copytree(folder, whole)
    if part == "tokens":
        fewer_words(folder)
    else:
        fewer_positions(folder)
        change_config(folder, max_position_embeddings=10)
    carry(folder)
    (folder / "model.safetensors").unlink()
    shutil.copy(whole / "config.json", folder)
    words = {"tokens": r"tokens up to \d+, the model has 100", "positions": r"has 10 positions, config\.json says 64"}
    with pytest.raises(ModelError, match=words[part]):
        load(folder, engine)


@pytest.mark.parametrize("engine", ["onnx", "openvino"])
@pytest.mark.parametrize("kind", ["weights", "graph", "graph and data"])
def test_links_of_the_hub_clients_cache_are_followed(folder: Path, engine: EngineName, kind: str) -> None:
    expected = load(folder, "torch").score(QUERIES[0], TEXTS)
    if kind != "weights":
        path = carry(folder)
        if kind == "graph":
            import onnx

            onnx.save_model(onnx.load(path), path)
            path.with_name("model.onnx_data").unlink()
        (folder / "model.safetensors").unlink()
    snapshot, blobs = folder.with_name("snapshot"), folder.with_name("blobs")
    blobs.mkdir()
    for number, path in enumerate(path for path in sorted(folder.rglob("*")) if path.is_file()):
        shutil.copy(path, blobs / f"{number:040x}")
        link = snapshot / path.relative_to(folder)
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(os.path.relpath(blobs / f"{number:040x}", link.parent))
    np.testing.assert_allclose(load(snapshot, engine).score(QUERIES[0], TEXTS), expected, atol=1e-5)


def test_openvinos_files_may_be_links_too(tmp_path: Path) -> None:
    folder = save_tiny_model("bert", tmp_path / "m", labels=2)
    write_two_labels(folder, "xml")
    expected = load(folder, "openvino", label=0).score(QUERIES[0], TEXTS)
    for path in sorted((folder / "openvino").iterdir()):
        path.rename(tmp_path / path.name[::-1])
        path.symlink_to(tmp_path / path.name[::-1])
    assert load(folder, "openvino", label=0).score(QUERIES[0], TEXTS) == expected


def test_default_names_of_labels_are_taken(tmp_path: Path) -> None:
    engine: EngineName = "torch"
    folder = save_tiny_model("bert", tmp_path / "m", labels=2)
    change_config(folder, id2label=None)
    by_number = load(folder, engine, label=1).score(QUERIES[0], TEXTS)
    assert load(folder, engine, label="LABEL_1").score(QUERIES[0], TEXTS) == by_number
    with pytest.raises(InputError, match="has no label 'LABEL_2'; it has 'LABEL_0', 'LABEL_1', or 0 to 1"):
        load(folder, engine, label="LABEL_2")


@pytest.mark.parametrize("template", ["{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"])
def test_a_template_that_loops_for_ever_is_an_error(
    tmp_path: Path, template: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tiny_decoders import save_causal_model

    from milvus_rerank.models import chat_template

    monkeypatch.setattr(chat_template, "_LONGEST_RENDERING", 0.2)
    folder = save_causal_model("qwen3", tmp_path / "m", template=template)
    with pytest.raises(ModelError, match=r"the model's chat template does not end within 0\.2 s"):
        load(folder, "torch")


@pytest.mark.parametrize("engine", ["auto", *ENGINES])
def test_without_a_network_the_error_is_one_line_and_names_what_works(engine: EngineName, tmp_path: Path) -> None:
    code = (
        "from milvus_rerank import CrossEncoderRerankFunction\n"
        f"CrossEncoderRerankFunction('cross-encoder/absent', device='cpu', engine={engine!r})"
    )
    environment = {**os.environ, "HF_ENDPOINT": "http://127.0.0.1:9", "HF_HUB_OFFLINE": "0", "HF_HOME": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, timeout=120)
    assert done.stderr.count("Traceback") == 1
    assert re.fullmatch(
        r"milvus_rerank\.errors\.ModelError: model 'cross-encoder/absent' cannot be loaded \(check the name and the "
        r"network, or give a local folder; models named 'builtin/...' need no network\): .+",
        done.stderr.strip().splitlines()[-1],
    )
