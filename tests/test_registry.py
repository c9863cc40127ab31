import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from milvus_rerank import LexicalRerankFunction, available, create
from milvus_rerank.errors import ModelError, OptionError, RegistryError
from milvus_rerank.registry import Entry, Registry, load
from milvus_rerank.reranker import custom

PLUGIN = Path(__file__).parent.parent / "examples" / "plugin"


def registry(*entries: Entry) -> Registry:
    return Registry(lambda: entries)


def test_the_shipped_names_are_entry_points_like_any_other() -> None:
    shipped = {entry.name for entry in available() if entry.origin.startswith("milvus-rerank ")}
    assert shipped == {
        "bge",
        "cascade",
        "cohere",
        "cross-encoder",
        "fallback",
        "http",
        "jina",
        "lexical",
        "tei",
        "voyage",
    }


def test_create_makes_a_reranker_by_name_or_by_path() -> None:
    assert isinstance(create("lexical"), LexicalRerankFunction)
    assert isinstance(create("milvus_rerank.reranker.lexical:LexicalRerankFunction"), LexicalRerankFunction)


def test_an_unknown_name_lists_the_known() -> None:
    with pytest.raises(
        RegistryError,
        match="no reranker is named 'bgee'; there are: bge, cascade, cohere, cross-encoder, fallback, http, ",
    ):
        create("bgee")


def test_an_option_that_is_misspelt_or_missing_is_a_type_error_that_names_the_reranker() -> None:
    with pytest.raises(
        OptionError, match=r"'cross-encoder' of milvus-rerank .*'model_nam'; did you mean 'model_name'\?"
    ):
        create("cross-encoder", model_nam="x")
    with pytest.raises(TypeError, match="reranker 'json:loads' of its own name: missing a required argument: 's'"):
        create("json:loads")


def test_a_name_alone_loads_a_registered_reranker_or_a_model(tiny: dict[str, Path], tmp_path: Path) -> None:
    bge = tmp_path / "bge-reranker-base"
    shutil.copytree(tiny["bert"], bge)
    made = [load(name) for name in ("lexical", "builtin/rerank", str(tiny["bert"]), bge)]
    assert [type(one).__name__ for one in made] == [
        "LexicalRerankFunction",
        "CrossEncoderRerankFunction",
        "CrossEncoderRerankFunction",
        "BGERerankFunction",
    ]
    assert [one.model_name for one in made[1:]] == ["builtin/rerank", str(tiny["bert"]), str(bge)]  # type: ignore[attr-defined]


def test_a_model_is_loaded_with_the_options_of_its_function(tiny: dict[str, Path], tmp_path: Path) -> None:
    bge = tmp_path / "bge-reranker-base"
    shutil.copytree(tiny["bert"], bge)
    for folder in (tiny["bert"], bge):
        reranker: Any = load(folder, device="cpu", engine="onnx", max_length=40)
        assert (reranker.scorer.engine.name, reranker.scorer.encoder.max_length) == ("onnx", 40)
    with pytest.raises(OptionError, match="normalise"):
        load(bge, normalise=False)
    with pytest.raises(OptionError, match="'lexical' of milvus-rerank"):
        load("lexical", device="cpu")


def test_a_registered_name_goes_before_a_folder_of_that_name(
    tiny: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("lexical", "mine"):
        shutil.copytree(tiny["bert"], tmp_path / name)
    made = [load(name) for name in ("lexical", "./lexical", "mine")]
    assert [getattr(one, "model_name", None) for one in made] == [None, "./lexical", "mine"]


def test_a_name_alone_that_is_unknown_says_how_to_name_a_model() -> None:
    with pytest.raises(
        RegistryError, match=r"named 'lexcal'; there are: .*; a model is named as 'builtin/rerank', '\./"
    ):
        load("lexcal")
    with pytest.raises(ModelError, match="no built-in model 'builtin/rerunk'"):
        load("builtin/rerunk")


def test_nothing_is_imported_before_its_first_use() -> None:
    table = registry(Entry("later", "no_such_module:Thing", "dist 1"))
    table.register("also-later", "no_such_module:Other")
    assert [entry.name for entry in table.entries()] == ["also-later", "later"]


def test_a_taken_name_needs_replace() -> None:
    table = registry(Entry("bge", "a:B", "milvus-rerank 1"))
    with pytest.raises(RegistryError, match="'bge' is already registered by milvus-rerank 1; pass replace=True"):
        table.register("bge", LexicalRerankFunction)
    table.register("bge", LexicalRerankFunction, replace=True)
    assert table.find("bge").load() is LexicalRerankFunction
    with pytest.raises(RegistryError, match=r"already registered by register\(\)"):
        table.register("bge", LexicalRerankFunction)


def test_two_packages_with_one_name_are_both_named() -> None:
    table = registry(Entry("x", "a:A", "first 1.0"), Entry("x", "b:B", "second 2.0"), Entry("y", "c:C", "third 3.0"))
    with pytest.raises(RegistryError, match=r"'x' is claimed by first 1.0 and second 2.0; .*register\('x', 'a:A', rep"):
        table.find("x")
    assert table.find("y").origin == "third 3.0"


@pytest.mark.parametrize(
    ("target", "words"),
    [
        (
            "no_such_module:Thing",
            "'x' of dist 1 does not load: no_such_module:Thing: ModuleNotFoundError: No module named 'no_such_module'",
        ),
        ("milvus_rerank.results:Nothing", "has no attribute 'Nothing'"),
        ("raises_at_import:Thing", "does not load: raises_at_import:Thing: RuntimeError: no licence found"),
        ("milvus_rerank:__version__", "milvus_rerank:__version__ is no class or function"),
    ],
)
def test_a_target_that_does_not_load_is_named(
    target: str, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "raises_at_import.py").write_text("raise RuntimeError('no licence found')")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(RegistryError, match=words):
        registry(Entry("x", target, "dist 1")).find("x").load()


@pytest.mark.parametrize(
    ("name", "target", "words"),
    [
        ("", LexicalRerankFunction, "name is made of letters"),
        ("a b", LexicalRerankFunction, "name is made of letters"),
        ("x", "just_a_module", "must be 'module:attribute', got 'just_a_module'"),
        ("x", ":attribute", "must be 'module:attribute', got ':attribute'"),
        ("x", "..module:attribute", "must be 'module:attribute', got '..module:attribute'"),
        ("x", 3, "must be a class, a function or 'module:attribute', got 3"),
    ],
)
def test_what_cannot_be_registered_is_refused(name: str, target: object, words: str) -> None:
    with pytest.raises(RegistryError, match=words):
        registry().register(name, target)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", [":x", "..x:y", [], None])
def test_a_name_that_cannot_be_is_refused(name: object) -> None:
    with pytest.raises(RegistryError, match=r"must be 'module:attribute'|name is a string"):
        registry().find(name).load()  # type: ignore[arg-type]


def test_an_object_that_cannot_score_is_no_reranker() -> None:
    with pytest.raises(RegistryError, match=r"'x' made a dict, which has no method score\(query, texts\)"):
        custom.wrap({}, "x")


@pytest.mark.needs("hatchling")
def test_an_installed_plugin_is_found_and_reranks(tmp_path: Path) -> None:
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps", "--no-build-isolation"]
    subprocess.run([*install, "--disable-pip-version-check", "--target", tmp_path, PLUGIN], check=True)
    code = """
import sys, milvus_rerank
entry = next(entry for entry in milvus_rerank.available() if entry.name == "ngram")
assert "milvus_rerank_ngram" not in sys.modules
reranker = milvus_rerank.create("ngram", n=2)
found = reranker.rerank_hits("turing", [{"id": 7, "text": "chess"}, {"id": 9, "text": "Alan Turing"}], top_k=1)
print(entry.origin, found[0].id, found[0].score)
"""
    ran = subprocess.run(
        [sys.executable, "-c", code], env={"PYTHONPATH": str(tmp_path)}, capture_output=True, text=True, check=True
    )
    assert ran.stdout == "milvus-rerank-ngram 1.0 9 1.0\n"
