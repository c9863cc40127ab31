"""Exports that fail or are refused: nothing is written."""

from pathlib import Path
from typing import Any

import pytest
from exporting import export, listing
from present import present
from tiny_models import save_tiny_model

from milvus_rerank.errors import InputError, ModelError
from milvus_rerank.export.run import ExportOptions, export_model
from milvus_rerank.models import ModelSource

pytestmark = pytest.mark.compat


def test_below_the_floor_nothing_is_written_unless_forced(fragile: Path, tmp_path: Path, close: Path) -> None:
    options: dict[str, Any] = {"dtype": "int8", "texts": str(close), "floor": 10.0}
    report = export(fragile, tmp_path / "deep" / "made", **options)
    assert present(report.fidelity).top_10 < 8
    assert (report.written, list(tmp_path.iterdir())) == (False, [])
    forced = export(fragile, tmp_path / "deep" / "made", **options, force=True)
    assert (forced.written, forced.fidelity) == (True, report.fidelity)
    assert (tmp_path / "deep/made/onnx/model_qint8.onnx").is_file()


def test_what_fails_in_the_middle_leaves_nothing(tiny: dict[str, Path], tmp_path: Path, texts: Path) -> None:
    def stop(stage: str, done: int, total: int) -> None:
        if stage == "exported":
            raise KeyboardInterrupt

    options = ExportOptions("onnx", dtype="int8", texts=str(texts))
    with pytest.raises(KeyboardInterrupt):
        export_model(ModelSource(str(tiny["bert"])), tmp_path / "made", options, stop)
    assert list(tmp_path.iterdir()) == []
    model = save_tiny_model("bert", tmp_path / "model")
    weights = model / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])
    with pytest.raises(ModelError, match=r"model\.safetensors is incomplete: it has \d+ of \d+ bytes"):
        export(model, tmp_path / "made")
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_a_folder_with_other_files_is_left_alone(tiny: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match="holds other files; give a new or an empty folder"):
        export(tiny["bert"], tmp_path)
    with pytest.raises(InputError, match="is a file; give a folder"):
        export(tiny["bert"], tmp_path / "notes.txt")
    assert listing(tmp_path) == ["notes.txt"]


def test_a_graph_cannot_have_other_files_copied(tiny: dict[str, Path], tmp_path: Path) -> None:
    import onnx

    export(tiny["bert"], tmp_path / "one")
    path = tmp_path / "one/onnx/model.onnx"
    graph = onnx.load(path, load_external_data=False)
    for tensor in graph.graph.initializer:
        for entry in tensor.external_data:
            if entry.key == "location":
                entry.value = "../config.json"
    path.write_bytes(graph.SerializeToString())
    with pytest.raises(
        ModelError, match=r"keeps weights in '\.\./config\.json', expected a file in the graph's folder"
    ):
        export(tmp_path / "one", tmp_path / "two")


def test_onnx_has_no_calibrated_int8(tiny: dict[str, Path], tmp_path: Path, texts: Path) -> None:
    with pytest.raises(InputError, match="'dynamic', got 'calibrated'; use that or engine 'openvino'"):
        export(tiny["bert"], tmp_path / "made", dtype="int8", method="calibrated", texts=str(texts))


def test_int8_without_texts_says_why_and_what_to_type(tiny: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(
        InputError, match=r"only written after a check on yours(.|\n)*--texts FILE(.|\n)*--texts builtin"
    ):
        export(tiny["bert"], tmp_path / "made", dtype="int8")
