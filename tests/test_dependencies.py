"""What this package imports is what its metadata declares, and what is missing is said in one line."""

import ast
import os
import pickle
import re
import subprocess
import sys
from importlib.metadata import requires
from pathlib import Path

import pytest

import milvus_rerank
from milvus_rerank import CrossEncoderRerankFunction, requirements
from milvus_rerank.errors import InputError, MissingDependencyError, install_command
from milvus_rerank.loading import load_sentence_transformers

PACKAGE = Path(milvus_rerank.__file__).parent
DISTRIBUTIONS = {
    "bs4": "beautifulsoup4",
    "grpc": "grpcio",
    "haystack": "haystack-ai",
    "llama_index": "llama-index-core",
}
"""Distributions that are not called as what they are imported by."""


def declared() -> dict[str, set[str]]:
    """Return the distributions of each extra; those of "" are always installed."""
    found: dict[str, set[str]] = {"": set()}
    for line in requires("milvus-rerank") or []:
        name, extra = re.match(r"[\w.-]+", line), re.search(r"extra == ['\"]([\w-]+)['\"]", line)
        assert name is not None
        found.setdefault(extra[1] if extra else "", set()).add(name[0].lower().replace("_", "-"))
    return found


def distribution(imported: str) -> str:
    return DISTRIBUTIONS.get(imported, imported.replace("_", "-").replace(".", "-"))


def imports() -> set[str]:
    """Return the packages that the package's files import, wherever they do."""
    names = set()
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Import):
                names |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                names.add((node.module or "").partition(".")[0])
    return names - set(sys.stdlib_module_names) - {"milvus_rerank", "triton"}  # torch for CUDA brings triton


def test_every_import_is_declared() -> None:
    names = {
        name.partition("-")[0] if name.startswith("opentelemetry") else name for name in set.union(*declared().values())
    }
    undeclared = {name for name in imports() if distribution(name) not in names and name not in names}
    assert undeclared == set()


def test_every_import_has_the_extra_that_installs_it() -> None:
    known = {name.partition(".")[0] for name in requirements.PACKAGES}
    assert imports() - known == set()


def test_the_extras_are_those_of_the_metadata() -> None:
    extras = declared()
    assert set(extras) == {"", "all", *requirements.EXTRAS}
    assert len(extras) - 1 <= 15
    for name, extra in requirements.PACKAGES.items():
        wanted = "pymilvus" if name == "milvus_lite" else distribution(name)  # pymilvus[milvus-lite]
        assert any(one.startswith(wanted) for one in extras[extra]), (name, extra)


@pytest.mark.parametrize(
    ("extras", "command"),
    [
        ((), "pip install milvus-rerank"),
        (("",), "pip install milvus-rerank"),
        (("lite", "", "eval", "lite"), 'pip install "milvus-rerank[eval,lite]"'),
    ],
)
def test_one_command_installs_all_that_is_missing(extras: tuple[str, ...], command: str) -> None:
    assert install_command(*extras) == command


def test_the_error_names_every_missing_package_once() -> None:
    error = MissingDependencyError(["milvus_lite", "ir_measures"], ["lite", "eval"], "the demo")
    assert str(error) == (
        "the demo needs the packages 'milvus-lite' and 'ir-measures', which are not installed. "
        'Type: pip install "milvus-rerank[eval,lite]"'
    )
    copy = pickle.loads(pickle.dumps(error))
    assert (str(copy), copy.packages, copy.extras) == (str(error), ("milvus_lite", "ir_measures"), ("lite", "eval"))


def test_half_an_install_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text("import sys\nsys.modules['tokenizers'] = None\n")
    done = subprocess.run(
        [sys.executable, "-m", "milvus_rerank", "rerank", "who barks", "a dog", "a cat"],
        capture_output=True, text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), str(PACKAGE.parent)])},
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (1, "")
    [line] = done.stderr.splitlines()
    assert line.endswith("the package 'tokenizers', which is not installed. Type: pip install milvus-rerank")


def test_the_module_is_the_command() -> None:
    done = subprocess.run([sys.executable, "-m", "milvus_rerank", "--version"], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, f"milvus-rerank {milvus_rerank.__version__}\n")


def test_an_old_python_is_told_which_one_it_takes() -> None:
    source = (PACKAGE / "__init__.py").read_text("utf-8")
    code = f"import sys\nsys.version_info = (3, 9, 18)\nexec({source!r}, {{'__name__': 'milvus_rerank'}})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stderr.splitlines()[-1] == "ImportError: milvus-rerank needs Python 3.10 or newer; this is Python 3.9"


@pytest.mark.needs("torch", "sentence_transformers")
def test_a_sentence_transformers_that_would_run_a_folders_code_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "bert", "architectures": ["BertModel"]}')
    modules = '[{"idx": 0, "name": "0", "path": "", "type": "code.Model"}]'
    (tmp_path / "modules.json").write_text(modules)
    (tmp_path / "config_sentence_transformers.json").write_text('{"model_type": "CrossEncoder"}')
    (tmp_path / "code.py").write_text("raise SystemExit('ran')")
    monkeypatch.setattr(load_sentence_transformers, "version", lambda name: "5.7.0")
    with pytest.raises(InputError, match=r"needs sentence-transformers 6 or newer, got 5\.7\.0"):
        CrossEncoderRerankFunction(str(tmp_path), device="cpu")


@pytest.mark.needs("torch")
def test_a_model_that_needs_torch_says_so_where_it_is_missing(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "qwen3", "architectures": ["Qwen3ForCausalLM"]}')
    for name in ("model.safetensors", "tokenizer.json"):
        (tmp_path / name).write_text("{}")
    code = f"""
import sys
sys.modules.update(torch=None, transformers=None)
from milvus_rerank import CrossEncoderRerankFunction, errors
try:
    CrossEncoderRerankFunction({str(tmp_path)!r})
except errors.MissingDependencyError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == (
        f"model {str(tmp_path)!r} needs the packages 'torch' and 'transformers', which are not installed. "
        'Type: pip install "milvus-rerank[torch]"\n'
    )
