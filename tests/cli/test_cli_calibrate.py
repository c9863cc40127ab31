"""``milvus-rerank calibrate`` from the command line."""

import json
from pathlib import Path

import pytest
from commands import Cli
from tiny_embedder import PASSAGES, passage_texts, save_embedder, write_jsonl
from tiny_models import save_tiny_model

pytestmark = pytest.mark.needs("scipy", "torch")


@pytest.fixture
def options(cli: Cli, tmp_path: Path) -> list[object]:
    """Index five passages, write queries with judgments, and return the options that name them."""
    embedder = save_embedder(tmp_path / "embedder", passage_texts())
    passages = write_jsonl(tmp_path / "passages.jsonl", PASSAGES)
    code, _, error = cli("index", passages, "--uri", tmp_path / "m.db", "--embedder", embedder)
    assert code == 0, error
    return ["--uri", tmp_path / "m.db", "--embedder", embedder, "--candidates", 5]


def judged(folder: Path, count: int) -> Path:
    rows = [{"query": f"programming language {n}", "relevant": ["python", "c"]} for n in range(count)]
    return write_jsonl(folder / "judged.jsonl", rows)


def test_a_calibration_is_written_beside_the_model_and_used(cli: Cli, options: list[object], tmp_path: Path) -> None:
    model = save_tiny_model("bert", tmp_path / "model")
    code, out, error = cli(
        "calibrate", *options, "--judged", judged(tmp_path, 12), "--model", model, "--precision", 0.3, "--json"
    )
    if code:  # scores of random weights may fall with relevance, which is an error
        assert "scores do not rise with relevance" in error
        return
    written = json.loads((model / "calibration.json").read_text())
    assert written == json.loads(out)
    assert written["figures"]["pairs"] == 60
    code, out, _ = cli(
        "rerank", "programming language", "a language", "the moon", "--model", model,
        "--option", "activation_fct=calibrated", "--json",
    )  # fmt: skip
    assert code == 0
    assert all(0 < result["score"] < 1 for result in json.loads(out)["results"])


def test_a_built_in_model_needs_a_file_to_write(cli: Cli, options: list[object], tmp_path: Path) -> None:
    code, _, error = cli("calibrate", *options, "--judged", judged(tmp_path, 12))
    assert code == 2
    assert "the files of builtin/rerank are not yours" in " ".join(error.split())
    target = tmp_path / "c.json"
    code, out, error = cli("calibrate", *options, "--judged", judged(tmp_path, 12), "--output", target)
    assert code == 0, error
    assert "expected calibration error" in out
    assert json.loads(target.read_text())["model"] == "builtin/rerank"


def test_too_few_queries_are_an_error_of_one_line(cli: Cli, options: list[object], tmp_path: Path) -> None:
    code, _, error = cli("calibrate", *options, "--judged", judged(tmp_path, 3), "--output", tmp_path / "c.json")
    assert code == 1
    assert "calibration needs at least 10 queries" in error
    assert not (tmp_path / "c.json").exists()
