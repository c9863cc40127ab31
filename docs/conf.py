"""Configuration of the docs site, built by Sphinx: make docs."""

import re
import subprocess
import sys
from pathlib import Path

from sphinx.application import Sphinx

import milvus_rerank

FOLDER = Path(__file__).resolve().parent
REPOSITORY = "https://github.com/milvus-rerank/milvus-rerank/blob/main/"
OUTSIDE = re.compile(r"(\]\()\.\./")  # in a page: a link to a file of the repository outside docs/

project = "milvus-rerank"
author = "The milvus-rerank developers"
copyright = f"2026, {author}"  # Sphinx's name for it
version = release = milvus_rerank.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx_copybutton"]
exclude_patterns = ["_build", "*.in.md"]
myst_heading_anchors = 3
nitpicky = True
nitpick_ignore_regex = [
    ("py:.*", r"(?!milvus_rerank\.\w+RerankFunction$).*")
]  # types of other packages have no page here
suppress_warnings = ["myst.xref_missing"]

autodoc_typehints = "signature"
autodoc_member_order = "bysource"
autodoc_class_signature = "mixed"
maximum_signature_line_length = 80
copybutton_exclude = ".linenos, .gp, .go"

html_theme = "furo"
html_title = f"milvus-rerank {release}"
html_copy_source = False
html_show_sourcelink = False
html_static_path: list[str] = []


def write_command_line(app: Sphinx) -> None:
    """Write the reference of the command line, as typer makes it from the code."""
    command = [sys.executable, "-m", "typer", "milvus_rerank.cli", "utils", "docs", "--name", "milvus-rerank"]
    text = subprocess.run(command, check=True, capture_output=True, encoding="utf-8").stdout
    (FOLDER / "cli.md").write_text(text.replace("# `milvus-rerank`", "# Command line", 1), "utf-8")


def lead_outside(app: Sphinx, docname: str, source: list[str]) -> None:
    """Lead links to files outside docs/ to the repository; read there, they are relative."""
    source[0] = OUTSIDE.sub(rf"\g<1>{REPOSITORY}", source[0])


def escape_stars(app: Sphinx, what: str, name: str, thing: object, options: object, lines: list[str]) -> None:
    """Escape the stars of ``:param **options:``, which reStructuredText takes for strong text."""
    lines[:] = [line.replace(":param **", ":param \\**") for line in lines]


def setup(app: Sphinx) -> None:
    """Connect them to Sphinx' events."""
    app.connect("builder-inited", write_command_line)
    app.connect("source-read", lead_outside)
    app.connect("autodoc-process-docstring", escape_stars)
