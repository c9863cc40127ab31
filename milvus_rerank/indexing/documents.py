"""Read the texts of documents: plain text, Markdown, HTML and PDF."""

from pathlib import Path
from typing import Any

from milvus_rerank.errors import InputError
from milvus_rerank.requirements import require

SUFFIXES = (".txt", ".md", ".markdown", ".html", ".htm", ".pdf")
"""Endings of the files that can be read."""


def read_document(path: Path, root: Path) -> dict[str, Any]:
    """Read a document.

    :param path: its file.
    :param root: the folder that its id is relative to.
    :returns: ``_id``, ``title`` and ``text``.
    :raises InputError: if it cannot be read; the message names the file.
    :raises MissingDependencyError: if the package for its form is not installed.
    """
    suffix = path.suffix.lower()
    try:
        if suffix == ".pdf":
            title, text = _read_pdf(path)
        else:
            content = path.read_bytes().decode("utf-8-sig")
            title, text = _read_html(path, content) if suffix in (".html", ".htm") else ("", content)
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8 text: {error.reason} at byte {error.start}") from error
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}") from error
    if not text.strip():
        hint = "; it may hold only pictures of its pages" if suffix == ".pdf" else ""
        raise InputError(f"{path} holds no text{hint}; move it out of the folder")
    heading = next((line.lstrip("# ").strip() for line in text.splitlines() if line.startswith("# ")), "")
    title = " ".join((title or (heading if suffix in (".md", ".markdown") else "")).split())
    return {"_id": path.relative_to(root).as_posix(), "title": title or path.stem, "text": text.strip()}


def _read_html(path: Path, content: str) -> tuple[str, str]:
    require(f"reading {path}", "bs4")
    from bs4 import BeautifulSoup

    page = BeautifulSoup(content, "html.parser")
    title = page.title.get_text() if page.title else ""
    for part in page(["script", "style", "template", "noscript", "title"]):
        part.decompose()
    lines = (" ".join(line.split()) for line in page.get_text("\n").splitlines())
    return title, "\n".join(line for line in lines if line)


def _read_pdf(path: Path) -> tuple[str, str]:
    require(f"reading {path}", "pypdf")
    import pypdf

    try:
        reader = pypdf.PdfReader(path)
        if reader.is_encrypted and not reader.decrypt(""):
            raise InputError(f"{path} is encrypted; save it without a password")
        title = str(reader.metadata.title or "") if reader.metadata else ""
        return title, "\n".join(page.extract_text() for page in reader.pages)
    except (pypdf.errors.PyPdfError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise InputError(f"{path} cannot be read as a PDF document: {error}") from error
