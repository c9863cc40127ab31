"""Texts, rerankers and programs for the tests of the adapters."""

import os
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

from milvus_rerank import BaseRerankFunction, CrossEncoderRerankFunction
from milvus_rerank.scoring.encoder import Chunks

QUERY = "who wrote the first program"
TEXTS = [
    "Charles Babbage designed a mechanical computer.",
    "Ada Lovelace wrote the first program, for the analytical engine.",
    "",
    "Bread is baked in an oven.",
    "Grace Hopper wrote the first compiler.",
]
LONG_TEXT = "Bread is baked in an oven. " * 60 + TEXTS[1] + " Rivers flow to the sea." * 60
ROOT = Path(__file__).parent.parent


def framework(*names: str) -> None:
    """Skip a file of tests if a framework is not installed; make test-frameworks names those that must be."""
    for name in names:
        if any(name.startswith(required) for required in os.environ.get("MILVUS_RERANK_FRAMEWORKS", "").split()):
            import_module(name)
        pytest.importorskip(name, reason=f"needs {name}; make test-frameworks installs it")


def direct() -> list[tuple[int, float]]:
    """Return positions and scores of the texts, best first, as the reranker itself gives them."""
    results = CrossEncoderRerankFunction("builtin/rerank", device="cpu")(QUERY, TEXTS, None)
    return [(result.index, result.score) for result in results]


def by_parts() -> BaseRerankFunction:
    """Return a reranker that reads a long text in parts."""
    return CrossEncoderRerankFunction("builtin/rerank", device="cpu", max_length=64, long=Chunks(overlap=16))


def check_span(span: list[int], text: str = LONG_TEXT, title: str = "") -> None:
    """Check that a span is that of a direct call, where the text has a title before it."""
    [result] = by_parts()(QUERY, [title + text])
    assert result.span is not None
    assert span == [position - len(title) for position in result.span]
    start, end = span
    assert TEXTS[1][:12] in text[start:end]
    assert end - start < len(text) / 2


def run_example(name: str, folder: Path) -> str:
    """Run a program of examples/ and return what it prints; warnings on stderr are allowed."""
    command = [sys.executable, str(ROOT / "examples" / name)]
    ran = subprocess.run(
        command, cwd=folder, env={**os.environ, "HF_HUB_OFFLINE": "1"}, capture_output=True, text=True, timeout=120
    )
    assert ran.returncode == 0, ran.stderr
    return ran.stdout
