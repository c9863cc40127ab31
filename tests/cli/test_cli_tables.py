"""Tables of the commands in narrow and in usual terminals."""

import pytest
from commands import Cli
from rich.cells import cell_len

TEXTS = (
    "Babbage designed an engine that was never built in his time.",
    "日本語の文章はここにあります。" * 4,
    "Ada Lovelace",
)


@pytest.mark.parametrize("width", [40, 59, 80, 120])
def test_no_line_of_a_table_is_wider_than_the_terminal(cli: Cli, monkeypatch: pytest.MonkeyPatch, width: int) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    for command in (("rerank", "Ada engine", *TEXTS, "--reranker", "lexical"), ("models", "--known"), ("models",)):
        code, out, _ = cli(*command)
        lines = [line for line in out.splitlines() if "milvus-rerank models" not in line and "work, too" not in line]
        assert code == 0
        assert max(map(cell_len, lines)) <= width


def test_a_narrow_terminal_gets_each_result_on_lines_of_its_own(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "36")
    code, out, _ = cli("rerank", "Ada engine", *TEXTS, "--reranker", "lexical")
    assert code == 0
    lines = [line.rstrip() for line in out.splitlines()]
    assert lines[:5] == [
        "1  score 0.5000  was 1",
        "   Babbage designed an engine that …",
        "2  score 0.5000  was 3",
        "   Ada Lovelace",
        "3  score 0.0000  was 2",
    ]
    assert lines[5].startswith("   日本語の文章")
    assert lines[5].endswith("…")


def test_a_table_that_fits_a_narrow_terminal_stays_a_table(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "45")
    lines = cli("rerank", "Ada engine", *TEXTS, "--reranker", "lexical")[1].splitlines()
    assert lines[0].split() == ["#", "score", "was", "text"]
    assert len(lines) == 4


@pytest.mark.needs("milvus_lite")
def test_a_search_in_a_narrow_terminal_shows_ids_whole(
    indexed: Cli, embedder: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    command = ("search", "programming language for unix", "--embedder", embedder, "--reranker", "lexical", "-k", 1)
    code, out, _ = indexed(*command)
    lines = [line.strip() for line in out.splitlines()]
    assert code == 0
    assert lines[0].startswith("1  c  score 1.0000  was ")
    assert lines[1].startswith("distance ")
    assert lines[2:] == ["C a programming language written for…", "year=1972"]


@pytest.mark.needs("milvus_lite", "ir_measures")
def test_the_demo_fits_a_narrow_terminal(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    code, out, _ = cli("demo", "--queries", 1, "--candidates", 5)
    assert code == 0
    assert max(map(cell_len, out.splitlines())) <= 40
    assert "reranked" in out
    assert "vector search  █" in out
