"""Read the documents of a folder: text, Markdown, HTML and PDF files."""

import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from milvus_rerank.errors import InputError
from milvus_rerank.jsonl import open_input
from milvus_rerank.records import decode_text
from milvus_rerank.requirements import require

PLAIN = (".txt", ".md", ".markdown")
HTML = (".html", ".htm", ".xhtml")
PDF = (".pdf",)
SUFFIXES = (*PLAIN, *HTML, *PDF)
_HEADING = re.compile(r"#{1,6}\s+(.+?)\s*#*")
_NO_TEXT = ("script", "style", "noscript", "template", "svg", "head")
_BLOCKS = (
    "address", "article", "aside", "blockquote", "br", "caption", "dd", "div", "dl", "dt", "fieldset", "figcaption",
    "figure", "footer", "form", "h1", "h2", "h3", "h4", "h5", "h6", "header", "hr", "li", "main", "nav", "ol", "p",
    "pre", "section", "table", "td", "th", "title", "tr", "ul",
)  # fmt: skip
"""Elements that begin and end a line."""


def read_documents(source: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield a file, or all files of a folder, as records.

    :param source: a text, Markdown, HTML or PDF file, or a folder; its other files and hidden ones are not read.
    :yields: the path of a file, and its ``id`` (the path in the folder), ``title`` and ``text``, sorted by path.
    :raises InputError: for a folder without such files, or a file that cannot be read; it names the file.
    :raises MissingDependencyError: if the reader of HTML or PDF is not installed.
    """
    paths = list(_files(source)) if source.is_dir() else [source]
    suffixes = {path.suffix.lower() for path in paths}
    if not suffixes & {*SUFFIXES}:
        others = ", ".join(f"{count} {suffix or 'without a suffix'}" for suffix, count in _kinds(paths).items())
        raise InputError(
            f"folder {source} holds no corpus.jsonl and no {', '.join(SUFFIXES)} files; it holds {others or 'no files'}"
        )
    require(f"reading {source}", *(["bs4"] if suffixes & {*HTML} else []), *(["pypdf"] if suffixes & {*PDF} else []))
    for path in paths:
        suffix = path.suffix.lower()
        if suffix not in SUFFIXES:
            continue
        with open_input(path) as file:
            content = file.read()
        name = path.relative_to(source).as_posix() if path != source else path.name
        read = _read_html if suffix in HTML else _read_pdf if suffix in PDF else _read_plain
        title, text = read(content, path)
        yield str(path), {"id": name, "title": title, "text": text}


def unread(source: Path) -> str:
    """Return a note on the files of a folder that are not read; "" if all are."""
    others = _kinds([path for path in _files(source) if path.suffix.lower() not in SUFFIXES])
    listed = ", ".join(f"{count} {suffix or 'without a suffix'}" for suffix, count in others.items())
    return f"{source}: not read: {listed}" if listed else ""


def _files(folder: Path) -> Iterator[Path]:
    for path in sorted(folder.rglob("*")):
        hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
        if path.is_file() and not hidden:
            yield path


def _kinds(paths: list[Path]) -> dict[str, int]:
    return dict(Counter(path.suffix.lower() for path in paths).most_common())


def _read_plain(content: bytes, path: Path) -> tuple[str, str]:
    """Return the title and the text of a text or Markdown file; a first heading is the title."""
    text = decode_text(content, str(path)).strip()
    first, _, rest = text.partition("\n")
    heading = _HEADING.fullmatch(first.strip()) if path.suffix.lower() != ".txt" else None
    return (heading[1], rest.strip()) if heading and rest.strip() else ("", text)


def _read_html(content: bytes, path: Path) -> tuple[str, str]:
    from bs4 import BeautifulSoup, Comment, NavigableString

    page = BeautifulSoup(content, "html.parser")
    encoding = (page.original_encoding or "").lower()
    declared = (page.declared_html_encoding or "").lower()
    if encoding not in ("", "ascii", "utf-8", declared) and not content.startswith((b"\xff\xfe", b"\xfe\xff")):
        decode_text(content, str(path))  # the encoding was guessed: refuse it, with the line that is not UTF-8
    title = " ".join(page.title.get_text().split()) if page.title else ""
    for element in page.find_all(_NO_TEXT):
        element.decompose()
    for string in list(page.find_all(string=True)):
        if isinstance(string, Comment) or type(string) is not NavigableString:
            string.extract()
        elif string.find_parent("pre") is None:
            string.replace_with(re.sub(r"\s+", " ", string))
    for element in page.find_all(_BLOCKS):
        element.insert_before("\n")
        element.insert_after("\n")
    lines = (line.strip() for line in page.get_text().split("\n"))
    return title, re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).strip()


def _read_pdf(content: bytes, path: Path) -> tuple[str, str]:
    import io

    from pypdf import PdfReader
    from pypdf.errors import PyPdfError

    try:
        reader = PdfReader(io.BytesIO(content))
        if reader.is_encrypted and not reader.decrypt(""):
            raise InputError(f"{path} needs a password; save it without one, or move it out of the folder")
        pages = [page.extract_text() for page in reader.pages]
        title = reader.metadata.title if reader.metadata else None
    except InputError:
        raise
    except (PyPdfError, ValueError, KeyError, TypeError, IndexError, AttributeError, RecursionError) as error:
        raise InputError(f"{path} cannot be read as PDF ({error}); mend it, or move it out of the folder") from error
    return " ".join((title or "").split()), "\n\n".join(page.strip() for page in pages).strip()
