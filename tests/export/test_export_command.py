"""`milvus-rerank export`: what it prints and how it ends."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from milvus_rerank.cli import app
from milvus_rerank.cli import export as command
from milvus_rerank.export.run import FLOOR
from milvus_rerank.export.samples import QUERIES as CHECKED

pytestmark = pytest.mark.compat


def test_the_command_prints_figures_and_ends_with_1_below_the_floor(fragile: Path, tmp_path: Path, close: Path) -> None:
    arguments = ["export", str(fragile), str(tmp_path / "made"), "--dtype", "int8", "--engine", "onnx"]
    arguments += ["--texts", str(close), "--floor", "10"]
    done = CliRunner().invoke(app, arguments)
    assert (done.exit_code, list(tmp_path.iterdir())) == (1, [])
    assert "close.jsonl: 4 queries, 144 pairs" in done.stdout
    assert "of 10, floor 10; least of a query" in done.stdout
    for words in ("--engine openvino, which is more exact", 'dtype="auto"', "--force"):
        assert words in done.stderr
    done = CliRunner().invoke(app, [*arguments, "--force", "--json"])
    printed = json.loads(done.stdout)
    assert (done.exit_code, printed["written"], printed["file"]) == (0, True, "onnx/model_qint8.onnx")
    assert printed["fidelity"]["top_10"] < 8


def test_the_help_states_the_defaults_of_the_code() -> None:
    assert (command.FLOOR, command.QUERIES) == (FLOOR, CHECKED)
    assert f"[default: {FLOOR}]" in " ".join(CliRunner().invoke(app, ["export", "--help"]).stdout.split())


def test_a_method_for_float32_is_wrong_usage(tiny: dict[str, Path], tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["export", str(tiny["bert"]), str(tmp_path / "made"), "--method", "dynamic"])
    assert done.exit_code == 2
    assert "float32 is exact" in done.stderr
