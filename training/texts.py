"""Extract (title, passage) pairs from Debian documentation packages and BEIR-layout corpora."""

from __future__ import annotations

import argparse
import gzip
import json
import random
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from lxml import etree, html

# Package -> (licence, most sections to keep). All are in Debian "main".
PACKAGES: dict[str, tuple[str, int]] = {
    "apache2-doc": ("Apache-2.0", 1000),
    "debian-faq": ("copying permission of the Debian FAQ, share-alike", 500),
    "debian-handbook": ("CC-BY-SA-3.0 or GPL-2+", 900),
    "debian-history": ("GPL-2+", 200),
    "debian-reference-en": ("GPL-2+", 700),
    "dict-foldoc": ("GFDL-1.1+", 7000),
    "dict-jargon": ("public domain", 1000),
    "dict-wn": ("WordNet licence", 3000),
    "git-doc": ("GPL-2", 700),
    "gnome-user-docs": ("CC-BY-SA-3.0", 800),
    "harden-doc": ("GPL-2", 400),
    "linux-doc-6.1": ("GPL-2", 2000),
    "perl-doc": ("Artistic or GPL-1+", 1500),
    "postgresql-doc-15": ("PostgreSQL", 1500),
    "python-django-doc": ("BSD-3-Clause", 800),
    "python-scipy-doc": ("BSD-3-Clause", 1000),
    "python-sklearn-doc": ("BSD-3-Clause", 1000),
    "python3.11-doc": ("PSF-2.0", 2000),
    "sqlite3-doc": ("public domain", 800),
}
HEADINGS = {"h1", "h2", "h3", "h4", "h5", "dt", "title"}
BLOCKS = {"p", "li", "dd"}
SKIPPED = {"script", "style", "pre", "table", "nav", "footer", "head", "form", "figure"}
STOPWORDS = frozenset(
    (
        "the",
        "of",
        "and",
        "to",
        "is",
        "in",
        "a",
        "for",
        "that",
        "with",
        "by",
        "are",
        "this",
        "be",
        "it",
        "as",
        "on",
        "or",
    )
)


def fetch(package: str, folder: Path) -> Path:
    """Download one Debian package and unpack it below `folder`, once."""
    target = folder / package
    if target.is_dir():
        return target
    debs = folder / "debs"
    debs.mkdir(parents=True, exist_ok=True)
    try:
        subprocess.run(["apt-get", "download", package], cwd=debs, check=True, capture_output=True, text=True)
    except (OSError, subprocess.CalledProcessError) as error:
        detail = getattr(error, "stderr", "") or str(error)
        sys.exit(
            f"cannot download the Debian package {package!r} (Debian 12 with `apt-get update` run is needed): {detail}"
        )
    deb = next(debs.glob(f"{package}_*.deb"))
    subprocess.run(["dpkg-deb", "-x", str(deb), str(target)], check=True)
    return target


def clean(text: str) -> str:
    """Collapse white space and drop the pilcrows and section numbers of rendered manuals."""
    text = re.sub(r"\s+", " ", text.replace("¶", " ").replace("\u2019", "'")).strip()
    return re.sub(r"^(Chapter|Appendix)?\s*([A-Z]\.)?[\d.]+\.?\s+", "", text)


def inner_text(element: etree._Element) -> str:
    """Return an element's text without its skipped or nested block children."""
    parts = [element.text or ""]
    for child in element:
        if isinstance(child.tag, str) and child.tag not in SKIPPED and child.tag not in BLOCKS:
            parts.append(inner_text(child))
        parts.append(child.tail or "")
    return " ".join(parts) if element.tag in BLOCKS else "".join(parts)


def html_sections(path: Path) -> Iterator[tuple[str, list[str]]]:
    """Yield (heading, paragraphs) of one HTML or Mallard page in document order."""
    data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    try:
        root = html.document_fromstring(data)
    except (etree.ParserError, ValueError):
        return
    heading, paragraphs = "", []

    def walk(element: etree._Element) -> Iterator[tuple[str, list[str]]]:
        nonlocal heading, paragraphs
        for child in element:
            if not isinstance(child.tag, str) or child.tag in SKIPPED:
                continue
            if child.tag in HEADINGS:
                yield heading, paragraphs
                heading, paragraphs = clean(child.text_content()), []
                continue
            if child.tag in BLOCKS:
                text = clean(inner_text(child))
                if text:
                    paragraphs.append(text)
            yield from walk(child)

    yield from walk(root)
    yield heading, paragraphs


def pod_sections(path: Path) -> Iterator[tuple[str, list[str]]]:
    """Yield (heading, paragraphs) of one Perl POD file."""
    heading, paragraphs = "", []
    for block in re.split(r"\n\s*\n", path.read_text("utf-8", "replace")):
        block = re.sub(r"[A-Z]<+\s?(?:[^<>|]*\|)?([^<>]*?)\s?>+", r"\1", block)
        if match := re.match(r"=(?:head\d|item)\s+(.+)", block, re.S):
            yield heading, paragraphs
            heading, paragraphs = clean(match[1]), []
        elif block.strip() and not block.startswith((" ", "\t", "=")):
            paragraphs.append(clean(block))
    yield heading, paragraphs


def dict_sections(index: Path) -> Iterator[tuple[str, list[str]]]:
    """Yield (headword, paragraphs) of one dictd dictionary."""
    digits = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
    data = gzip.decompress(index.with_suffix(".dict.dz").read_bytes())
    seen: set[str] = set()
    for line in index.read_text("utf-8", "replace").splitlines():
        word, start, size = line.split("\t")[:3]
        if start in seen or word.startswith("00") or len(word) < 3:
            continue
        seen.add(start)
        first, length = (sum(digits.index(c) * 64**i for i, c in enumerate(reversed(n))) for n in (start, size))
        body = data[first : first + length].decode("utf-8", "replace").split("\n", 1)[-1]
        if index.stem == "wn":  # first sense only, without examples and synonyms
            sense = re.split(r"\[syn:|\n\s+(?:\w+ )?\d+:", re.sub(r"^\s*\w+ (?:1)?:\s*", "", body))[0]
            yield word, [clean(word + ": " + re.sub(r";?\s+\"[^\"]*\"", "", sense))]
            continue
        body = re.sub(r"\{([^}]*)\}", r"\1", body)
        body = re.sub(r"^\s*(/[^/\n]*/,?)?\s*(n|v|vi|vt|adj|adv|excl)\.?\n", " ", body)  # part of speech
        body = re.sub(r"<[^>]*>|\([^()]*https?:[^()]*\)|\[techspeak\]|\(\d{4}-\d\d-\d\d\)", " ", body)
        blocks = [clean(b) for b in re.split(r"\n\s*\n", body)]
        yield word, [b for b in blocks if b and not b.startswith("See")]


def package_sections(package: str, root: Path) -> Iterator[tuple[str, list[str]]]:
    """Yield the sections of every page of one unpacked package."""
    for path in sorted(root.rglob("*")):
        if path.is_symlink() or not path.is_file():
            continue
        name = path.name
        if name.endswith((".html", ".html.gz", ".html.en")) or (name.endswith(".page") and "/help/C/" in str(path)):
            if not re.search(r"genindex|search|changelog|whatsnew/changelog|release", str(path.relative_to(root))):
                yield from html_sections(path)
        elif name.endswith(".pod"):
            yield from pod_sections(path)
        elif name.endswith(".index") and package.startswith("dict-"):
            yield from dict_sections(path)


def is_english(text: str) -> bool:
    """Tell whether a text reads as English prose rather than another language, code or a list."""
    words = re.findall(r"[a-z]+", text.lower())
    if not words or sum(c.isascii() for c in text) < 0.97 * len(text):
        return False
    letters = sum(c.isalpha() or c.isspace() for c in text)
    return letters > 0.85 * len(text) and sum(w in STOPWORDS for w in words) >= 0.15 * len(words)


def passages(paragraphs: list[str], words: int) -> list[str]:
    """Join consecutive paragraphs into passages of at most about `words` words."""
    found, current = [], []
    for paragraph in paragraphs:
        pieces = paragraph.split()
        if current and len(current) + len(pieces) > words:
            found.append(" ".join(current))
            current = []
        current += pieces[: words + 40]
    return found + ([" ".join(current)] if current else [])


def documentation(package: str, root: Path, limit: int, rng: random.Random) -> list[dict[str, str]]:
    """Return at most `limit` de-duplicated English (title, text) pairs of one package."""
    pairs, seen = [], set()
    for heading, paragraphs in package_sections(package, root):
        if not 3 <= len(heading) <= 100 or sum(c.isalpha() or c == " " for c in heading) < 0.85 * len(heading):
            continue
        for text in passages(paragraphs, rng.choice((30, 60, 110, 160)))[:2]:
            floor = 5 if package == "dict-wn" else 12
            if len(text.split()) < floor or (package != "dict-wn" and not is_english(text)) or text[:80] in seen:
                continue
            seen.add(text[:80])
            pairs.append({"source": package, "title": heading, "text": text})
    rng.shuffle(pairs)
    return pairs[:limit]


def collection(path: Path) -> list[dict[str, str]]:
    """Return the (title, text) pairs of one BEIR-layout corpus, without its queries or judgments."""
    pairs = []
    for line in path.read_text("utf-8").splitlines():
        row = json.loads(line)
        title, text = clean(row["title"]).rstrip(" ."), clean(row["text"])
        if len(title) > 10 and len(text.split()) > 12:
            pairs.append({"source": path.parent.name, "title": title, "text": text})
    return pairs


def main() -> None:
    """Write all pairs to one JSON-lines file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--build", type=Path, default=Path("build"), help="folder of downloads and outputs")
    parser.add_argument("--corpora", type=Path, nargs="*", default=[], help="BEIR corpus.jsonl files")
    parser.add_argument("--seed", type=int, default=13)
    args = parser.parse_args()
    rng = random.Random(args.seed)
    rows: list[dict[str, str]] = []
    for package, (_, limit) in PACKAGES.items():
        found = documentation(package, fetch(package, args.build / "packages"), limit, rng)
        print(f"{package}: {len(found)}", flush=True)
        rows += found
    for path in args.corpora:
        rows += collection(path)
    rng.shuffle(rows)
    out = args.build / "pairs.jsonl"
    out.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), "utf-8")
    print(f"{out}: {len(rows)} pairs")


if __name__ == "__main__":
    main()
