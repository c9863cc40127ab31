"""The README and the docs: code prints what the page says, and the site builds without warnings."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from milvus_rerank import CrossEncoderRerankFunction

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
NOT_RUN = re.compile(r"<!-- not run: [^>]+ -->\n```python\n.*?```", re.DOTALL)
BLOCKS = re.compile(r"```python\n(.*?)```(?:\n+```text\n(.*?)```)?", re.DOTALL)
MARK = "---- end of block ----"
LONGER = {"services.md", "server.md", "models.md"}  # their code needs a server, a key or a model of the hub


def blocks(page: Path) -> list[tuple[str, str]]:
    """Return the code blocks of a page that run, each with what it must print."""
    return BLOCKS.findall(NOT_RUN.sub("", page.read_text("utf-8")))


@pytest.mark.needs("milvus_lite")
@pytest.mark.parametrize(
    "page", [page for page in PAGES if page.name not in LONGER and blocks(page)], ids=lambda page: page.name
)
def test_the_code_of_a_page_prints_what_stands_below_it(page: Path, tmp_path: Path) -> None:
    program = "".join(code + f"print({MARK!r})\n" for code, _ in blocks(page))
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    for _ in range(2 if page.name == "README.md" else 1):  # a second run finds the collection of the first
        ran = subprocess.run(
            [sys.executable, "-c", program], cwd=tmp_path, env=environment, capture_output=True, text=True
        )
        assert ran.returncode == 0, ran.stderr
        assert ran.stdout.split(MARK + "\n")[:-1] == [text for _, text in blocks(page)]


@pytest.mark.parametrize("page", ["README.md", "docs/quickstart.md", "docs/results.md"])
def test_the_code_of_a_page_passes_a_strict_type_check(page: str, tmp_path: Path) -> None:
    pytest.importorskip("mypy")
    (tmp_path / "page.py").write_text("".join(code for code, _ in blocks(ROOT / page)), "utf-8")
    command = [sys.executable, "-m", "mypy", "--config-file", "", "--strict", "--follow-imports", "silent"]
    ran = subprocess.run(
        [*command, "--ignore-missing-imports", "--cache-dir", str(tmp_path / "cache"), str(tmp_path / "page.py")],
        env={**os.environ, "MYPYPATH": str(ROOT)}, capture_output=True, text=True,
    )  # fmt: skip
    assert [line for line in ran.stdout.splitlines() if "page.py:" in line] == []
    assert ran.returncode in (0, 1), ran.stderr


def test_the_readme_is_short() -> None:
    lines = (ROOT / "README.md").read_text("utf-8").splitlines()
    assert len(lines) <= 130
    code, _ = blocks(ROOT / "README.md")[1]
    assert len(code.strip().splitlines()) <= 12


@pytest.mark.needs("sphinx")
def test_the_site_builds_without_warnings_and_without_requests_to_other_hosts(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", str(ROOT / "docs"), str(tmp_path)]
    ran = subprocess.run(command, capture_output=True, text=True)
    assert (ran.returncode, ran.stderr) == (0, "")
    pages = sorted(tmp_path.glob("*.html"))
    assert {"index.html", "api.html", "cli.html", "quickstart.html"} <= {page.name for page in pages}
    for page in pages:
        loaded = re.findall(
            r'<(?:script|link|img|iframe)\b[^>]*\b(?:src|href)="(https?://[^"]+)', page.read_text("utf-8")
        )
        assert loaded == [], page.name
    assert 'id="milvus_rerank.CrossEncoderRerankFunction.rerank_hits"' in (tmp_path / "api.html").read_text("utf-8")
    assert 'id="milvus-rerank-search"' in (tmp_path / "cli.html").read_text("utf-8")


def test_every_page_is_linked_from_the_index() -> None:
    index = (ROOT / "docs" / "index.md").read_text("utf-8")
    listed = {line for part in re.findall(r"```{toctree}(.*?)```", index, re.DOTALL) for line in part.splitlines()}
    pages = {page.stem for page in PAGES if not page.name.endswith(".in.md")} - {"README", "index"}
    assert pages | {"cli", "api"} == {line for line in listed if line and not line.startswith(":")}


def test_the_servers_example_puts_the_right_document_first() -> None:
    page = (ROOT / "docs" / "server.md").read_text("utf-8")
    body = json.loads(re.search(r"curl \S+ \S+ -d '(\{.*?\})'", page)[1])  # type: ignore[index]
    best, _ = CrossEncoderRerankFunction("builtin/rerank", device="cpu")(body["query"], body["documents"])
    assert best.text == "Ada Lovelace wrote a program."


@pytest.mark.needs("milvus_lite")
def test_the_playgrounds_picture_shows_a_search_that_reranking_wins(tmp_path: Path) -> None:
    script = (ROOT / "docs" / "screenshot.py").read_text("utf-8")
    query = re.search(r'^QUERY = "(.*)"$', script, re.MULTILINE)[1]  # type: ignore[index]
    uri, program = str(tmp_path / "history.db"), [sys.executable, "-m", "milvus_rerank"]
    subprocess.run([*program, "index", str(ROOT / "milvus_rerank/data/history"), "--uri", uri], check=True)
    search = [*program, "search", query, "--uri", uri, "--candidates", "20", "--json"]
    ran = subprocess.run(search, capture_output=True, check=True)
    best = json.loads(ran.stdout)["results"][0]
    assert (best["entity"]["title"], best["index"]) == ("The Lighthill report", 4), "the fifth of the first stage"
