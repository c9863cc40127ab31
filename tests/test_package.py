"""The package as a whole: its names, its weight, what it imports."""

import json
import os
import statistics
import subprocess
import sys
from pathlib import Path

import pytest

import milvus_rerank
from milvus_rerank import CrossEncoderRerankFunction, reranker
from milvus_rerank.engines.select import EngineName
from milvus_rerank.errors import InputError

HEAVY = ("torch", "transformers", "onnxruntime", "openvino", "pymilvus", "numpy", "model2vec", "typer", "rich")
FRAMEWORKS = ("langchain_core", "llama_index", "haystack", "mcp", "pydantic")


def run(code: str, **environment: str) -> str:
    command = [sys.executable, "-c", code]
    return subprocess.run(command, env={**os.environ, **environment}, capture_output=True, text=True, check=True).stdout


def test_every_exported_name_exists_and_the_list_is_sorted() -> None:
    for module in (milvus_rerank, reranker):
        assert list(module.__all__) == sorted(module.__all__)
        assert all(getattr(module, name).__name__ == name for name in module.__all__)
    assert set(milvus_rerank.__all__) <= set(dir(milvus_rerank))


def test_the_classes_are_the_same_under_both_imports() -> None:
    assert milvus_rerank.BGERerankFunction is reranker.BGERerankFunction
    assert milvus_rerank.CrossEncoderRerankFunction is reranker.CrossEncoderRerankFunction


def test_importing_the_package_loads_nothing_heavy() -> None:
    code = (
        f"import milvus_rerank, sys, json; print(json.dumps([m for m in {HEAVY + FRAMEWORKS!r} if m in sys.modules]))"
    )
    assert json.loads(run(code)) == []


def test_importing_the_rerankers_loads_no_model_library() -> None:
    code = "import milvus_rerank.reranker, milvus_rerank.search, sys; print([m for m in "
    assert run(f"{code}{HEAVY[:5]!r} if m in sys.modules])") == "[]\n"


def test_importing_the_package_takes_under_100_ms() -> None:
    code = "import time; start = time.process_time(); import milvus_rerank; print(time.process_time() - start)"
    assert statistics.median(float(run(code)) for _ in range(5)) < 0.1


def test_words_that_options_do_not_know_fail_a_type_check(tmp_path: Path) -> None:
    pytest.importorskip("mypy")
    calls = {
        'CrossEncoderRerankFunction("m", engine="onnx", dtype="auto", activation_fct="raw", long="chunk")': 0,
        'BGERerankFunction("m", engine="auto", dtype=None, long="truncate")': 0,
        'load("m", device="cpu")("query", ["text"])': 0,
        'CrossEncoderRerankFunction("m", engine="onxx", dtype="fp16")': 2,
        'CrossEncoderRerankFunction("m", activation_fct="softmx", long="cut")': 2,
        'BGERerankFunction("m", engine="onxx", dtype="fp16", long="cut")': 3,
    }
    code = "\n".join(["from milvus_rerank import BGERerankFunction, CrossEncoderRerankFunction, load", *calls])
    (tmp_path / "calls.py").write_text(code)
    root = Path(milvus_rerank.__file__).parents[1]
    options = ["--config-file", "", "--strict", "--follow-imports", "silent", "--no-pretty"]
    done = subprocess.run(
        [sys.executable, "-m", "mypy", *options, "--cache-dir", str(tmp_path / "cache"), str(tmp_path / "calls.py")],
        env={**os.environ, "MYPYPATH": str(root)}, capture_output=True, text=True,
    )  # fmt: skip
    lines = [line for line in done.stdout.splitlines() if "calls.py:" in line]
    assert all("[arg-type]" in line for line in lines)
    assert [sum(f"calls.py:{number}:" in line for line in lines) for number in range(2, 8)] == list(calls.values())


def test_an_unknown_name_is_an_attribute_error() -> None:
    assert not hasattr(milvus_rerank, "NoSuchThing")


@pytest.mark.parametrize(
    ("options", "missing", "purpose", "extra"),
    [
        ("", ["torch", "openvino", "onnxruntime"], "running a cross-encoder", ""),
        ("engine='torch'", ["torch", "transformers"], "engine 'torch'", "torch"),
        ("engine='onnx'", ["onnxruntime"], "engine 'onnx'", ""),
        ("engine='openvino'", ["openvino"], "engine 'openvino'", "openvino"),
        ("device='cuda'", ["torch", "transformers"], "engine 'torch'", "torch"),
    ],
)
def test_a_missing_package_says_what_to_type(options: str, missing: list[str], purpose: str, extra: str) -> None:
    code = f"""
import sys
sys.modules.update(dict.fromkeys({missing!r}))
from milvus_rerank import CrossEncoderRerankFunction, errors
try:
    CrossEncoderRerankFunction({options})
except errors.MissingDependencyError as error:
    print(error)
"""
    command = f'pip install "milvus-rerank[{extra}]"' if extra else "pip install milvus-rerank"
    packages = {
        "": "package 'onnxruntime', which is",
        "openvino": "package 'openvino', which is",
        "torch": "packages 'torch' and 'transformers', which are",
    }
    assert run(code) == f"{purpose} needs the {packages[extra]} not installed. Type: {command}\n"


@pytest.mark.parametrize("engine", [pytest.param("openvino", marks=pytest.mark.needs("openvino")), "onnx"])
def test_the_quick_engines_run_without_torch_and_transformers_even_the_first_time(
    engine: EngineName, tmp_path: Path
) -> None:
    code = f"""
import sys
from milvus_rerank import BGERerankFunction, CrossEncoderRerankFunction
for make in (CrossEncoderRerankFunction, BGERerankFunction):
    make("builtin/rerank", device="cpu", engine={engine!r})("a query", ["a text"])
print([name for name in ("torch", "transformers", "onnxscript", "pymilvus") if name in sys.modules])
"""
    assert run(code, MILVUS_RERANK_CACHE=str(tmp_path)) == "[]\n"
    assert len(list(tmp_path.glob("*/model.onnx"))) == 1


@pytest.mark.needs("openvino")
def test_an_activation_on_tensors_without_torch_says_what_to_type() -> None:
    code = """
import sys
sys.modules["torch"] = None
from milvus_rerank import CrossEncoderRerankFunction, errors
try:
    CrossEncoderRerankFunction(device="cpu", engine="openvino", activation_fct=abs)
except errors.MissingDependencyError as error:
    print(error)
"""
    assert run(code) == (
        "an activation_fct that is a function on tensors needs the package 'torch', which is not installed. "
        'Type: pip install "milvus-rerank[torch]"\n'
    )


def test_int8_that_is_not_there_is_an_error_of_the_public_tree() -> None:
    with pytest.raises(InputError, match="carries no int8 files") as caught:
        CrossEncoderRerankFunction(dtype="int8")
    assert type(caught.value) is InputError


def test_openvino_and_nncf_send_no_telemetry(tiny: dict[str, Path], tmp_path: Path) -> None:
    pytest.importorskip("openvino_telemetry")
    code = f"""
import sys
from milvus_rerank import CrossEncoderRerankFunction
from milvus_rerank.cli import main
CrossEncoderRerankFunction(engine="openvino")("q", ["d"])
sys.argv[1:] = ["export", {str(tiny["bert"])!r}, {str(tmp_path / "made")!r}, "--engine", "openvino", "--dtype", "int8",
                "--method", "calibrated", "--texts", "builtin", "--queries", "2", "--max-length", "32", "--force"]
try:
    main()
except SystemExit:
    pass
assert "nncf" in sys.modules
print("openvino_telemetry" in sys.modules)
"""
    home = tmp_path / "home"
    home.mkdir()
    # It sends nothing in what it takes for a CI job; without these variables it would.
    ci = dict.fromkeys(("CI", "TF_BUILD", "JENKINS_URL"), "")
    assert run(code, HOME=str(home), **ci).splitlines()[-1] == "False"
    assert not list(home.rglob("*openvino*"))  # it keeps an id of the client
