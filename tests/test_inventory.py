"""What is found on this machine: in a hub cache made here, and in the registry."""

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

from milvus_rerank.errors import ModelError
from milvus_rerank.inventory import Inventory, take_inventory
from milvus_rerank.models import builtin_names


@pytest.fixture
def cache(tmp_path: Path, tiny: dict[str, Path]) -> Path:
    """A hub cache: rerankers, one with two labels, one without its weights, and models that are none."""

    def add(name: str, change: dict[str, Any], weights: bool = True, owner: str = "org") -> None:
        repo = tmp_path / f"models--{owner}--{name}"
        snapshot = repo / "snapshots" / ("0" * 40)
        shutil.copytree(tiny["bert"], snapshot)
        (repo / "refs").mkdir()
        (repo / "refs" / "main").write_text("0" * 40)
        config = json.loads((snapshot / "config.json").read_text()) | change
        (snapshot / "config.json").write_text(json.dumps(config))
        if not weights:
            (snapshot / "model.safetensors").unlink()

    add("good", {})
    add("two", {"id2label": {"0": "no", "1": "yes"}, "label2id": {"no": 0, "yes": 1}})
    add("partial", {}, weights=False)
    add("embedding", {"architectures": ["BertModel"]})
    add("chat", {"architectures": ["Qwen3ForCausalLM"]})
    add("Qwen3-Reranker-0.6B", {"architectures": ["Qwen3ForCausalLM"]}, owner="Qwen")
    return tmp_path


def hub(inventory: Inventory) -> dict[str, str | None]:
    return {model.name: model.problem for model in inventory.models if model.origin == "hub cache"}


def test_cached_rerankers_are_listed_with_what_keeps_them_from_working(cache: Path) -> None:
    assert hub(take_inventory(cache_dir=cache)) == {
        "Qwen/Qwen3-Reranker-0.6B": None,
        "org/good": None,
        "org/two": "it has 2 labels; say which is the score with label=...",
        "org/partial": "its weights are not there; only a part was downloaded",
    }


def test_loading_is_tried_for_usable_models_only_and_its_error_is_told(cache: Path) -> None:
    tried = []

    def load(model: Any) -> None:
        tried.append(model.name)
        if model.origin == "hub cache":
            raise ModelError("cannot be read")

    assert hub(take_inventory(load, cache))["org/good"] == "cannot be read"
    assert tried == [*builtin_names(), "Qwen/Qwen3-Reranker-0.6B", "org/good"]


def test_no_cache_is_no_error(tmp_path: Path) -> None:
    assert hub(take_inventory(cache_dir=tmp_path / "none")) == {}


def test_a_file_in_the_caches_place_is_no_error(tmp_path: Path) -> None:
    (tmp_path / "hub").write_text("")
    assert hub(take_inventory(cache_dir=tmp_path / "hub")) == {}


@pytest.mark.needs("openvino")
def test_what_needs_a_missing_package_says_which_and_what_to_type(monkeypatch: pytest.MonkeyPatch) -> None:
    for package in ("torch", "onnxruntime"):  # one engine left
        monkeypatch.setitem(sys.modules, package, None)  # what Python does for a package that cannot be imported
    assert {one.problem for one in take_inventory().models if one.origin == "built-in"} == {None}
    monkeypatch.setitem(sys.modules, "openvino", None)
    told = "no engine installed; type: pip install milvus-rerank"
    found = take_inventory()
    all_of_them: tuple[Any, ...] = (*found.rerankers, *found.models)
    problems = {one.name: one.problem for one in all_of_them if one.origin != "hub cache"}
    expected = {"bge": told, "cross-encoder": told, "lexical": None, "builtin/embed": None, "builtin/rerank": told}
    assert {name: problems[name] for name in expected} == expected
    monkeypatch.setitem(sys.modules, "model2vec", None)
    monkeypatch.setitem(sys.modules, "httpx", None)
    found = take_inventory()
    all_of_them = (*found.rerankers, *found.models)
    problems = {one.name: one.problem for one in all_of_them}
    told = 'httpx not installed; type: pip install "milvus-rerank[services]"'
    assert [problems[name] for name in ("cohere", "http", "jina", "tei", "voyage")] == [told] * 5
    assert problems["builtin/embed"] == "model2vec not installed; type: pip install milvus-rerank"


def test_built_in_models_are_listed_by_their_kind(cache: Path) -> None:
    found = {model.name: (model.kind, model.problem) for model in take_inventory().models if model.origin == "built-in"}
    kinds = {"builtin/embed": ("embedder", None), "builtin/rerank": ("reranker", None)}
    assert found == {name: kinds[name] for name in builtin_names()}


def test_registered_rerankers_tell_who_registered_them() -> None:
    names = {one.name: one for one in take_inventory().rerankers}
    assert names["bge"].target == "milvus_rerank.reranker.bge:BGERerankFunction"
    assert names["bge"].origin.startswith("milvus-rerank ")
    assert names["bge"].problem is None
