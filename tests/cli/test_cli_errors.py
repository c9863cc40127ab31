"""Commands that end with an error: which exit code and which message."""

import sys
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from typing import Any

import pytest
from commands import Cli
from tiny_embedder import PASSAGES, write_jsonl

pytestmark = pytest.mark.compat

DEMO = pytest.mark.needs("ir_measures", "milvus_lite")

SERVER = pytest.mark.needs("fastapi", "prometheus_client", "uvicorn", "milvus_lite")


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (("rerank",), 2, "Missing argument"),
        (("rerank", "q", "a", "--file", "x"), 2, "not both"),
        (("rerank", "q", "a", "--json", "--jsonl"), 2, "choose one of --json and --jsonl"),
        (("rerank", "q", "a", "--top-k", "-1"), 2, "--top-k"),
        (("rerank", "q", "a", "--reranker", "lexical", "--model", "m"), 2, "'lexical' does not take this option"),
        (("rerank", "q", "\udcff"), 2, "this is not UTF-8 text"),
        (("nonsense",), 2, "No such command 'nonsense'"),
        (("index",), 2, "Missing argument"),
        (("index", "x", "--timeout", "inf"), 2, "--timeout"),
        (("index", "x", "--timeout", "86401"), 2, "86400"),
        (("search", "q", "--timeout", "nan"), 2, "--timeout"),
        pytest.param(
            ("demo", "--embedder", "builtin/rerank"), 1, "error: embedder 'builtin/rerank' cannot be read", marks=DEMO
        ),
        (("rerank", "q", "--file", "none.txt"), 1, "error: none.txt cannot be read: No such file or directory"),
        (("rerank", "q", "a", "--reranker", "lexica"), 1, "error: no reranker is named 'lexica'; there are: "),
        (("rerank", "q", "a", "--model", "builtin/none"), 1, "error: no built-in model 'builtin/none'; there are: "),
        (("rerank", "q", "a", "--model", "./none"), 1, "error: model_name './none' looks like a path"),
        (("rerank", "q", "a", "--device", "tpu"), 1, "error: "),
        (("index", "none.jsonl"), 1, "error: none.jsonl does not exist; give a file"),
        (
            ("search", "q"),
            1,
            "error: the Milvus Lite file ./milvus.db does not exist; create it with: milvus-rerank index",
        ),
        (("search", "q", "--uri", "x"), 1, "error: uri must be a Milvus Lite path that ends in .db, or a server"),
        (("search", "q", "--uri", "http://127.0.0.1:9", "--timeout", "0.5"), 1, "Is the server running"),
        pytest.param(("demo", "--model", "builtin/none"), 1, "error: no built-in model 'builtin/none'", marks=DEMO),
        pytest.param(
            ("demo", "--embedder", "org/none"),
            1,
            "error: model 'org/none' cannot be loaded (check the name and the network",
            marks=DEMO,
        ),
    ],
)
def test_a_mistake_ends_with_its_code_and_one_message_and_no_traceback(
    cli: Cli, arguments: Any, code: int, told: str
) -> None:
    ended, out, err = cli(*arguments)
    assert (ended, out) == (code, "")
    assert told in " ".join(err.replace("│", " ").split())
    assert "Traceback" not in err


@pytest.mark.parametrize(
    ("package", "extra", "command"),
    [
        pytest.param("model2vec", "", ("index", "corpus.jsonl"), marks=pytest.mark.needs("milvus_lite")),
        ("milvus_lite", "lite", ("index", "corpus.jsonl")),
        ("pymilvus", "", ("index", "corpus.jsonl", "--uri", "http://127.0.0.1:9")),
        pytest.param("ir_measures", "eval", ("demo",), marks=DEMO),
        pytest.param("milvus_lite", "lite", ("serve", "--milvus-uri", "milvus.db"), marks=SERVER),
        pytest.param("structlog", "server", ("serve",), marks=SERVER),
    ],
)
def test_a_missing_package_is_an_error_with_what_to_type(
    cli: Cli, embedder: Path, tmp_path: Path, package: str, extra: str, command: Any
) -> None:
    write_jsonl(tmp_path / "corpus.jsonl", PASSAGES)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, package, None)  # what Python itself does for a package that cannot be imported
        code, out, err = cli(*command, "--embedder", embedder)
    assert (code, out) == (1, "")
    assert len(err.splitlines()) == 1
    assert f"needs the package '{package.replace('_', '-')}', which is not installed." in err
    command = f'pip install "milvus-rerank[{extra}]"' if extra else "pip install milvus-rerank"
    assert err.endswith(f"Type: {command}\n")


@pytest.mark.parametrize("more", [(), ("--http",), ("--milvus-uri", "milvus.db", "--collection", "docs")])
def test_mcp_without_its_package_is_one_line_with_what_to_type(cli: Cli, more: Any) -> None:
    def absent(package: str) -> str:
        raise PackageNotFoundError(package)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("milvus_rerank.integrations.core.version", absent)
        patch.delitem(sys.modules, "milvus_rerank.integrations.mcp", raising=False)
        ended = cli("mcp", *more)
    command = 'pip install "milvus-rerank[mcp]"'
    message = f"milvus-rerank mcp needs the package 'mcp', which is not installed. Type: {command}"
    assert ended == (1, "", f"error: {message}\n")
