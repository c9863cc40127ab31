"""The programs in examples/, run as a user would run them."""

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


def run(*arguments: str, cwd: Path) -> str:
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    ran = subprocess.run([sys.executable, *arguments], cwd=cwd, env=environment, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


def test_the_documented_example_puts_the_dartmouth_conference_first(tmp_path: Path) -> None:
    printed = run(str(ROOT / "examples" / "rerank_texts.py"), cwd=tmp_path)
    found = re.findall(r"Index: (\d)\nScore: (-?\d+\.\d{6})\nText: (.+)\n", printed)
    assert found[0][0] == "1"
    assert found[0][2].startswith("The Dartmouth Conference in 1956")
    scores = [float(score) for _, score, _ in found]
    assert len(scores) == 3
    assert scores == sorted(scores, reverse=True)
    assert scores[0] > scores[1]


@pytest.mark.needs("milvus_lite")
def test_two_stage_search_finds_what_each_query_asks_for(tmp_path: Path) -> None:
    printed = run(str(ROOT / "examples" / "two_stage_search.py"), cwd=tmp_path)
    assert re.search(r"One query.*:\n  isbn-5  ", printed), printed
    assert "  breaking ciphers in the war: isbn-3\n  counting with beads: isbn-0\n" in printed
    assert re.search(r"  isbn-2  was place \d at distance 0\.\d{3}: The first programmers\n$", printed), printed


@pytest.mark.needs("milvus_lite")
def test_hybrid_search_finds_the_lock_that_is_meant(tmp_path: Path) -> None:
    printed = run(str(ROOT / "examples" / "hybrid_search.py"), cwd=tmp_path)
    assert re.match(r"-?\d+\.\d{3}  Error E1042: ", printed), printed


def test_a_long_document_is_found_by_its_best_window(tmp_path: Path) -> None:
    printed = run(str(ROOT / "examples" / "long_document.py"), cwd=tmp_path)
    beginning, best = (float(score) for score in re.findall(r": (-?\d+\.\d\d)\n", printed))
    assert best > beginning + 1
    assert "so the first message on the ARPANET was LO" in printed.rpartition(f"{best:.2f}\n")[2]


def test_a_cascade_says_which_stage_scored_what(tmp_path: Path) -> None:
    printed = run(str(ROOT / "examples" / "cascade.py"), cwd=tmp_path)
    assert re.match(r"stage 1  +-?\d+\.\d\d  Grace Hopper's team taped a moth", printed), printed
    assert [line[:7] for line in printed.splitlines()] == ["stage 1", "stage 1", "stage 0", "stage 0"]


PROGRAMS = sorted((ROOT / "examples").glob("*.py"))


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda program: program.name)
def test_each_program_names_its_one_command_and_is_in_the_docs_and_the_tests(program: Path) -> None:
    docstring = ast.get_docstring(ast.parse(program.read_text("utf-8")))
    assert len(re.findall(r"^pip install .*milvus-rerank", docstring or "", re.MULTILINE)) == 1
    assert f"(../examples/{program.name})" in (ROOT / "docs" / "examples.md").read_text("utf-8")
    tests = [*(ROOT / "tests").glob("test_*.py"), *(ROOT / "tests" / "integrations").glob("test_*.py")]
    assert any(f'"{program.name}"' in test.read_text("utf-8") for test in tests)
