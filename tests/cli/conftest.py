"""Commands run in this process, and what they are run on."""

import io
import logging
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from commands import Cli
from tiny_embedder import passage_texts, save_embedder, write_beir

from milvus_rerank.cli import main

LOGGERS = ("milvus_rerank", "pymilvus", "milvus_lite", "grpc", "model2vec")


@pytest.fixture
def cli(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Iterator[Cli]:
    """Runs a command in an empty folder; returns exit code, stdout and stderr."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "100")
    loggers = [logging.getLogger(name) for name in LOGGERS]
    kept = [(logger.level, logger.propagate, list(logger.handlers)) for logger in loggers]

    def run(*arguments: object, stdin: str | bytes = "") -> tuple[int, str, str]:
        data = stdin if isinstance(stdin, bytes) else stdin.encode()
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))
        monkeypatch.setattr(sys, "argv", ["milvus-rerank", *map(str, arguments)])
        code: str | int = 0
        try:
            main()
        except SystemExit as end:
            code = end.code or 0
        captured = capsys.readouterr()
        assert isinstance(code, int)
        return code, captured.out, captured.err

    yield run
    for logger, (level, propagate, handlers) in zip(loggers, kept, strict=True):
        logger.level, logger.propagate, logger.handlers = level, propagate, handlers


@pytest.fixture(scope="module")
def embedder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_embedder(tmp_path_factory.mktemp("embedder"), passage_texts())


@pytest.fixture(scope="module")
def beir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_beir(tmp_path_factory.mktemp("data") / "small")


@pytest.fixture
def indexed(cli: Cli, beir: Path, embedder: Path) -> Cli:
    """The command line after the small collection was indexed into ./milvus.db."""
    pytest.importorskip("milvus_lite")
    assert cli("index", beir, "--embedder", embedder)[0] == 0
    return cli
