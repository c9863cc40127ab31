"""Inspection: the small files of a model say what it is, whatever it is called."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from milvus_rerank.errors import ModelError
from milvus_rerank.loading.inspect import ModelInfo, inspect_model
from milvus_rerank.models import ModelSource, files
from milvus_rerank.models.source import model_folder
from milvus_rerank.onnx_graphs.files import find_carried, graph_files

BUILTIN = model_folder("builtin/rerank")


def write(folder: Path, config: dict[str, Any], **others: Any) -> ModelInfo:
    """Write the small files of a model and inspect it."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    for name, values in others.items():
        (folder / f"{name}.json").write_text(json.dumps(values))
    return inspect_model(ModelSource(str(folder)))


def test_the_built_in_model_is_a_classifier_whose_graph_can_be_built() -> None:
    info = inspect_model(ModelSource("builtin/rerank"))
    assert (info.model_type, info.labels, info.is_local) == ("classifier", ("LABEL_0",), True)
    assert (info.can_build, info.has_chat_template) == (True, False)
    assert (info.position_limit, info.is_bge, info.reranks) == (512, False, True)


@pytest.mark.parametrize(
    ("architecture", "model_type", "is_bge", "reranks"),
    [
        ("XLMRobertaForSequenceClassification", "classifier", False, True),
        ("Qwen3ForCausalLM", "causal", False, False),
        ("LayerWiseMiniCPMForCausalLM", "layerwise", True, True),
        ("CostWiseGemmaForCausalLM", "lightweight", True, True),
        ("BertModel", "none", False, False),
    ],
)
def test_the_type_is_in_the_files(
    tmp_path: Path, architecture: str, model_type: str, is_bge: bool, reranks: bool
) -> None:
    info = write(tmp_path / "my-bge-reranker-mxbai-rerank", {"architectures": [architecture]})
    assert (info.model_type, info.is_bge, info.reranks) == (model_type, is_bge, reranks)


@pytest.mark.parametrize(
    ("name", "is_bge"), [("bge-reranker-base", True), ("models--BAAI--bge-reranker-v2-m3", True), ("mine", False)]
)
def test_the_catalogue_says_which_classifiers_are_bges(tmp_path: Path, name: str, is_bge: bool) -> None:
    assert write(tmp_path / name, {"architectures": ["XLMRobertaForSequenceClassification"]}).is_bge == is_bge


@pytest.mark.parametrize(
    ("config", "labels"),
    [
        ({"id2label": {"0": "no", "1": "yes"}}, ("no", "yes")),
        ({"num_labels": 1}, ("LABEL_0",)),
        ({}, ("LABEL_0", "LABEL_1")),  # transformers leaves out that there are two
    ],
)
def test_labels_have_the_names_that_transformers_gives_them(
    tmp_path: Path, config: dict[str, Any], labels: tuple[str, ...]
) -> None:
    assert write(tmp_path, {"architectures": ["BertForSequenceClassification"], **config}).labels == labels


def test_a_config_of_another_form_is_an_error_that_names_it(tmp_path: Path) -> None:
    with pytest.raises(
        ModelError, match=r"config\.json: 'id2label' must be an object from numbers to names, got \['no', 'yes'\]"
    ):
        write(tmp_path, {"id2label": ["no", "yes"]})


def test_a_tokenizer_that_pads_on_the_left_needs_another_graph(tmp_path: Path) -> None:
    assert BUILTIN is not None
    shutil.copytree(BUILTIN, tmp_path / "m")
    assert inspect_model(ModelSource(str(tmp_path / "m"))).can_build
    config = json.loads((BUILTIN / "config.json").read_text("utf-8"))
    tokenizer = json.loads((BUILTIN / "tokenizer_config.json").read_text("utf-8"))
    assert not write(tmp_path / "m", config, tokenizer_config={**tokenizer, "padding_side": "left"}).can_build


def test_the_files_on_the_hub_count_before_they_are_downloaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert BUILTIN is not None
    names = ["config.json", "onnx/model.onnx", "onnx/model.onnx_data"]
    (tmp_path / "config.json").write_text((BUILTIN / "config.json").read_text("utf-8"))
    fetched = []

    def fetch(source: ModelSource, patterns: tuple[str, ...], **_: Any) -> Path:
        fetched.append(patterns)
        return tmp_path

    def model_info(self: object, name: str, *, revision: str | None, timeout: float) -> SimpleNamespace:
        return SimpleNamespace(siblings=[SimpleNamespace(rfilename=file) for file in names])

    monkeypatch.setattr("milvus_rerank.loading.inspect.fetch_folder", fetch)
    monkeypatch.setattr("huggingface_hub.HfApi.model_info", model_info)
    info = inspect_model(ModelSource("org/model"))
    assert (info.files, info.is_local, info.can_build) == (tuple(names), False, False)
    assert fetched == [files.CONFIGS]
    graph = find_carried(info.files, "openvino", "float32")
    assert graph == "onnx/model.onnx"
    assert info.fetch(*graph_files(graph)) == tmp_path
    assert fetched[1:] == [(*files.CONFIGS, "onnx/model.onnx", "onnx/model.onnx_data", "onnx/model.onnx.data")]
    assert inspect_model(ModelSource("org/model", local_files_only=True)).files == ("config.json",)


def test_a_hub_that_does_not_answer_leaves_what_is_cached(tmp_path: Path) -> None:
    assert files.list_hub_files(ModelSource("org/model")) is None  # HF_HUB_OFFLINE is set
    (tmp_path / "openvino").mkdir()
    for name in ("config.json", "openvino/openvino_model.xml", "openvino/openvino_model.bin"):
        (tmp_path / name).touch()
    listed = files.list_files(tmp_path)
    assert listed == ("config.json", "openvino/openvino_model.bin", "openvino/openvino_model.xml")
    assert find_carried(listed, "openvino", "float32") == "openvino/openvino_model.xml"
    assert find_carried(listed, "onnx", "float32") is None
