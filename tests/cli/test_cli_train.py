"""``milvus-rerank train`` from the command line."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tiny_embedder import PASSAGES, QUERIES, passage_texts, save_embedder, write_jsonl

Run = Callable[..., tuple[int, str, str]]

pytestmark = pytest.mark.needs("torch", "sentence_transformers", "accelerate", "datasets", "ir_measures", "scipy")


@pytest.fixture
def collection(cli: Run, tmp_path: Path) -> list[object]:
    """Index five passages, and return the options that name them."""
    passages = write_jsonl(tmp_path / "passages.jsonl", PASSAGES)
    embedder = save_embedder(tmp_path / "embedder", passage_texts())
    code, _, error = cli("index", passages, "--uri", tmp_path / "m.db", "--embedder", embedder)
    assert code == 0, error
    return ["--uri", tmp_path / "m.db", "--embedder", embedder]


def judged(folder: Path, count: int) -> Path:
    rows: list[dict[str, Any]] = [
        {"query": f"{QUERIES[0]['text']} {n}", "relevant": ["python", "c"]} for n in range(count)
    ]
    return write_jsonl(folder / "judged.jsonl", rows)


def test_too_few_judged_queries_are_an_error_of_one_line(cli: Run, collection: list[object], tmp_path: Path) -> None:
    code, out, error = cli("train", *collection, "--judged", judged(tmp_path, 3), "--output", tmp_path / "out")
    assert (code, out) == (1, "")
    assert "training needs at least 10 queries with a relevant document, got 3; judge more, better 50" in error
    assert not (tmp_path / "out").exists()


@pytest.mark.filterwarnings("ignore")
def test_a_training_without_a_gain_prints_its_figures_and_exits_with_1(
    cli: Run, collection: list[object], tmp_path: Path
) -> None:
    options = ["--folds", 2, "--epochs", 0.1, "--max-length", 32, "--candidates", 5, "--device", "cpu"]
    code, out, error = cli(
        "train", *collection, "--judged", judged(tmp_path, 10), "--output", tmp_path / "out", *options, "--json"
    )
    report = json.loads(out)
    assert (code, report["written"], report["queries"]) == (1, False, 10)
    assert report["first_stage"].keys() == report["before"].keys() == report["after"].keys()
    assert "not certainly better than the base model" in error
    assert not (tmp_path / "out").exists()
