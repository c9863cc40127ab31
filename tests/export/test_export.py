"""Exported folders: what is in them, and what they score."""

import json
import subprocess
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import openvino
import pytest
from exporting import export, listing
from pair_texts import QUERIES, TEXTS
from present import present
from tiny_models import save_tiny_model

from milvus_rerank import CrossEncoderRerankFunction
from milvus_rerank.engines.select import Dtype
from milvus_rerank.errors import InputError, MissingDependencyError, ModelError
from milvus_rerank.export.run import ExportOptions, export_model
from milvus_rerank.export.samples import read_samples
from milvus_rerank.models import ModelSource

pytestmark = pytest.mark.compat

SCORE = """
import json, sys
sys.modules["torch"] = sys.modules["transformers"] = None
from milvus_rerank import CrossEncoderRerankFunction
folder, dtype, engines = sys.argv[1], sys.argv[2], sys.argv[3:]
query, *texts = json.load(sys.stdin)
for engine in engines:
    reranker = CrossEncoderRerankFunction(folder, engine=engine, dtype=dtype)
    print(json.dumps([reranker.scorer.engine.name, reranker.score(query, texts)]))
"""


def score_without_torch(folder: Path, texts: Sequence[str], dtype: str, *engines: str) -> list[list[Any]]:
    command = [sys.executable, "-W", "error", "-c", SCORE, str(folder), dtype, *engines]
    done = subprocess.run(command, input=json.dumps(texts), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.mark.parametrize("architecture", ["bert", "xlm-roberta", "modernbert"])
def test_a_float32_folder_scores_the_same_without_torch(
    tiny: dict[str, Path], tmp_path: Path, architecture: str
) -> None:
    (tmp_path / "given").mkdir()
    model = save_tiny_model(architecture, tmp_path / "given" / "model")
    (model / "README.md").write_text("---\nlicense: mit\n---\n")
    (model / "LICENSE").write_text("MIT")
    report = export(model, tmp_path / "made" / "folder")
    folder = tmp_path / "made" / "folder"
    names = ["LICENSE", "README.md", "config.json", "fidelity.json", "onnx/model.onnx", "onnx/model.onnx_data"]
    assert listing(folder) == [*names, "tokenizer.json", "tokenizer_config.json"]
    assert {path.stat().st_mode for path in folder.rglob("*") if path.is_file()} == {
        (folder / "config.json").stat().st_mode
    }
    assert (folder / "README.md").read_text() == "---\nlicense: mit\n---\n"
    expected = CrossEncoderRerankFunction(str(model), engine="torch", device="cpu").score(QUERIES[0], TEXTS)
    assert np.ptp(expected) > 0.01
    made = score_without_torch(folder, [QUERIES[0], *TEXTS], "float32", "onnx", "openvino", "auto")
    assert [name for name, _ in made] == ["onnx", "openvino", "openvino"]
    for _, scores in made:
        np.testing.assert_allclose(scores, expected, atol=1e-5, rtol=0)
    assert (report.written, report.fidelity, report.size) == (
        True,
        None,
        sum((folder / "onnx" / name).stat().st_size for name in ("model.onnx", "model.onnx_data")),
    )


def test_a_traced_model_is_exported_with_its_weights_beside_it(tiny: dict[str, Path], tmp_path: Path) -> None:
    export(tiny["traced"], tmp_path / "made")
    assert [name for name in listing(tmp_path / "made") if name.startswith("onnx/")] == [
        "onnx/model.onnx",
        "onnx/model.onnx_data",
    ]
    expected = CrossEncoderRerankFunction(str(tiny["traced"]), engine="torch", device="cpu").score("中文", TEXTS)
    [(_, scores)] = score_without_torch(tmp_path / "made", ["中文", *TEXTS], "float32", "onnx")
    np.testing.assert_allclose(scores, expected, atol=1e-5, rtol=0)


def test_a_tokenizer_that_only_transformers_reads_right_is_written_so_that_all_do(
    tiny: dict[str, Path], tmp_path: Path
) -> None:
    model = save_tiny_model("bert", tmp_path / "model")
    settings = json.loads((model / "tokenizer_config.json").read_text())
    settings |= {"tokenizer_class": "BertTokenizer", "do_lower_case": False}
    (model / "tokenizer_config.json").write_text(json.dumps(settings))
    queries = ["WHO proposed a TEST", *TEXTS, "Turing PROPOSED It"]
    expected = CrossEncoderRerankFunction(str(model), engine="torch", device="cpu").score(queries[0], queries[1:])
    lower = CrossEncoderRerankFunction(str(tiny["bert"]), engine="torch", device="cpu").score(queries[0], queries[1:])
    assert np.abs(np.subtract(expected, lower)).max() > 0.01
    export(model, tmp_path / "made")
    [(_, scores)] = score_without_torch(tmp_path / "made", queries, "float32", "onnx")
    np.testing.assert_allclose(scores, expected, atol=1e-5, rtol=0)


def test_float32_is_checked_against_torch_where_texts_are_given(
    tiny: dict[str, Path], tmp_path: Path, close: Path
) -> None:
    told = []
    options = ExportOptions("openvino", texts=str(close), queries=3)
    report = export_model(ModelSource(str(tiny["bert"])), tmp_path / "made", options, lambda *step: told.append(step))
    fidelity = present(report.fidelity)
    assert (report.reference, fidelity.queries, fidelity.top_10) == ("torch float32", 3, 10)
    assert fidelity.difference < 1e-5
    assert told == [(stage, done, 3) for stage in ("float32", "exported") for done in (1, 2, 3)]


def test_an_exported_folder_can_be_exported_again(tiny: dict[str, Path], tmp_path: Path, texts: Path) -> None:
    export(tiny["bert"], tmp_path / "one")
    export(tmp_path / "one", tmp_path / "two")
    assert (tmp_path / "two/onnx/model.onnx_data").read_bytes() == (tmp_path / "one/onnx/model.onnx_data").read_bytes()
    assert listing(tmp_path / "two") == listing(tmp_path / "one")
    export(tmp_path / "one", tmp_path / "one", dtype="int8", texts=str(texts), force=True)
    assert {*listing(tmp_path / "one")} - {*listing(tmp_path / "two")} == {"onnx/model_qint8.onnx"}


def test_int8_of_the_built_in_model_is_smaller_and_keeps_the_order(tmp_path: Path, texts: Path) -> None:
    report = export("builtin/rerank", tmp_path / "made", dtype="int8", texts=str(texts), floor=8)
    fidelity = present(report.fidelity)
    assert (fidelity.queries, fidelity.pairs, fidelity.ndcg_change) == (6, 72, None)
    assert 8 <= fidelity.top_10 <= 10
    assert 0.8 < fidelity.spearman < 0.9999
    floats = 4 * 15_220_000  # the model's parameters
    assert floats / 4 < report.size < floats / 3.8, "not all weights are int8"
    assert 0.01 < fidelity.difference < 2
    assert [name for name in listing(tmp_path / "made") if "/" in name] == ["onnx/model_qint8.onnx"]
    samples = read_samples(str(texts), 10).samples
    folders: tuple[tuple[str, Dtype], ...] = (("builtin/rerank", "float32"), (str(tmp_path / "made"), "int8"))
    exact, made = (
        CrossEncoderRerankFunction(name, engine="onnx", device="cpu", dtype=dtype) for name, dtype in folders
    )
    assert made.scorer.engine.dtype == "int8"
    scores = [
        np.array([reranker.score(sample.query, sample.documents) for sample in samples]) for reranker in (exact, made)
    ]
    assert fidelity.difference == pytest.approx(np.abs(scores[0] - scores[1]).max(), abs=1e-4)
    record = json.loads((tmp_path / "made/fidelity.json").read_text())["exports"]["onnx/model_qint8.onnx"]
    assert record["fidelity"] == fidelity.to_dict()
    assert (record["texts"], record["method"], record["reference"]) == ("texts.jsonl", "dynamic", "onnx float32")
    assert {"milvus-rerank", "onnxruntime", "onnx"} <= record["versions"].keys()


def test_a_folder_takes_another_precision_of_the_same_model_and_no_other(
    tiny: dict[str, Path], tmp_path: Path, texts: Path
) -> None:
    made = tmp_path / "made"
    export(tiny["bert"], made)
    before = {name: (made / name).read_bytes() for name in listing(made) if name != "fidelity.json"}
    export(tiny["bert"], made, dtype="int8", texts=str(texts), force=True)
    after = {name: (made / name).read_bytes() for name in listing(made)}
    assert {**before, **after} == after
    assert json.loads(after["fidelity.json"])["exports"].keys() == {"onnx/model.onnx", "onnx/model_qint8.onnx"}
    with pytest.raises(InputError, match=r"holds onnx/model_qint8\.onnx already"):
        export(tiny["bert"], made, dtype="int8", texts=str(texts), force=True)
    with pytest.raises(InputError, match="with other weights; give another folder"):
        export(tiny["electra"], made)
    assert {name: (made / name).read_bytes() for name in listing(made)} == after
    assert [path.name for path in tmp_path.iterdir()] == ["made"]


@pytest.mark.parametrize("method", ["dynamic", "calibrated"])
def test_int8_for_openvino_is_calibrated_and_checked_on_different_queries(
    tiny: dict[str, Path], tmp_path: Path, close: Path, method: Any
) -> None:
    options: dict[str, Any] = {
        "engine": "openvino",
        "dtype": "int8",
        "method": method,
        "texts": str(close),
        "force": True,
    }
    report = export(tiny["bert"], tmp_path / "made", **options)
    assert (report.calibration_queries, present(report.fidelity).queries) == (1, 3)
    assert 0 < present(report.fidelity).difference < 0.2
    files = ["openvino/openvino_model_qint8.bin", "openvino/openvino_model_qint8.xml"]
    assert [name for name in listing(tmp_path / "made") if "/" in name] == files
    sample = read_samples(str(close), 1).samples[0]
    [(_, scores)] = score_without_torch(tmp_path / "made", [sample.query, *sample.documents], "int8", "openvino")
    exact = CrossEncoderRerankFunction(str(tiny["bert"]), engine="openvino").score(sample.query, sample.documents)
    assert 0 < np.abs(np.subtract(scores, exact)).max() < 0.2


@pytest.mark.parametrize("method", ["dynamic", "calibrated"])
def test_int8_of_modernbert_keeps_the_order_of_documents(
    tiny: dict[str, Path], tmp_path: Path, close: Path, method: Any
) -> None:
    options = ExportOptions("openvino", "int8", method=method, texts=str(close), force=True)
    report = export_model(ModelSource(str(tiny["modernbert"])), tmp_path / "made", options)
    assert present(report.fidelity).spearman > 0.9  # measured: 0.989 and 0.997


def test_int8_for_openvino_takes_traced_graphs_too_and_needs_nncf_for_calibrated_alone(
    tiny: dict[str, Path], tmp_path: Path, close: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "nncf" else find_spec(name))
    options: dict[str, Any] = {"engine": "openvino", "dtype": "int8", "texts": str(close), "force": True}
    report = export(tiny["traced"], tmp_path / "made", **options)
    assert 0 < present(report.fidelity).difference < 0.2
    graph = openvino.Core().read_model(tmp_path / "made/openvino/openvino_model_qint8.xml")
    kinds = [node.get_element_type().get_type_name() for node in graph.get_ops() if node.get_type_name() == "Constant"]
    assert kinds.count("i8") > 8
    with pytest.raises(MissingDependencyError, match=r"this export needs the package 'nncf'"):
        export(tiny["bert"], tmp_path / "other", method="calibrated", **options)


@pytest.mark.parametrize(("able", "count"), [(False, 1), (True, 0), (None, 0)])
def test_a_cpu_on_which_int8_is_slow_is_named_before_the_export(
    able: bool | None,
    count: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr("milvus_rerank.export.run.multiplies_bytes", lambda: able)
    options = ExportOptions("openvino", "int8", texts="builtin")
    with pytest.raises(ModelError):
        export_model(ModelSource(str(tmp_path / "missing")), tmp_path / "made", options)
    assert sum("neither VNNI nor AMX" in message for message in caplog.messages) == count
