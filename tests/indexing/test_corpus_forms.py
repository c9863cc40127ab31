"""What `index` reads: tables, arrays, Parquet, documents, stdin; and what it refuses."""

import io
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from milvus_rerank.errors import InputError
from milvus_rerank.indexing import Corpus, CorpusOptions, Passage

ROWS = [
    {"_id": "1", "title": "Cats", "text": "Cats purr, é.", "year": "1950"},
    {"_id": "2", "title": "", "text": "Dogs\nbark.", "year": "1960"},
]
EXPECTED = [
    Passage("1", "Cats", "Cats purr, é.", {"year": "1950"}),
    Passage("2", "", "Dogs\nbark.", {"year": "1960"}),
]


def csv(delimiter: str) -> str:
    lines = [delimiter.join(ROWS[0]), *(delimiter.join(f'"{value}"' for value in row.values()) for row in ROWS)]
    return "\n".join(lines) + "\n"


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.csv", csv(",").encode()),
        ("a.csv", csv(",").encode("utf-16")),
        ("a.tsv", csv("\t").encode("utf-8-sig")),
        ("a.json", json.dumps(ROWS).encode()),
        ("a.jsonl", "\n".join(map(json.dumps, ROWS)).encode()),
        ("a.ndjson", "\n".join(map(json.dumps, ROWS)).encode()),
    ],
)
def test_forms_of_files(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    corpus = Corpus(tmp_path / name)
    assert list(corpus) == EXPECTED
    assert list(corpus) == EXPECTED, "a corpus can be read twice"


@pytest.mark.parametrize("content", [json.dumps(ROWS), "\n".join(map(json.dumps, ROWS))])
def test_stdin(monkeypatch: pytest.MonkeyPatch, content: str) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content.encode())))
    corpus = Corpus(Path("-"))
    assert list(corpus) == EXPECTED
    assert list(corpus) == EXPECTED


@pytest.mark.needs("pyarrow")
def test_parquet(tmp_path: Path) -> None:
    import pyarrow
    from pyarrow import parquet

    table = pyarrow.table(
        {"pk": [1, 2, 3], "body": ["a", "b", "c"], "year": [1950, None, 7], "tags": [["x"], [], None]}
    )
    parquet.write_table(table, tmp_path / "a.parquet")
    options = CorpusOptions("body", "pk")
    assert list(Corpus(tmp_path / "a.parquet", options)) == [
        Passage("1", "", "a", {"year": 1950, "tags": ["x"]}),
        Passage("2", "", "b", {"tags": []}),
        Passage("3", "", "c", {"year": 7}),
    ]
    (tmp_path / "b.parquet").write_bytes(b"PAR1 but no more")
    with pytest.raises(InputError, match=r"b\.parquet cannot be read as Parquet"):
        list(Corpus(tmp_path / "b.parquet", options))


@pytest.mark.needs("bs4", "pypdf")
def test_a_folder_of_documents(tmp_path: Path) -> None:
    import pypdf

    (tmp_path / "deep").mkdir()
    (tmp_path / "note.txt").write_text("Plain text.\n")
    (tmp_path / "deep" / "readme.md").write_text("# A heading\n\nSome *text*.\n")
    (tmp_path / "page.html").write_text(
        "<html><head><title>A  page</title><style>p {}</style></head><body><p>One&nbsp;two</p><script>x</script></body>"
    )
    (tmp_path / "picture.png").write_bytes(b"no text")
    found = {passage.id: (passage.title, passage.body) for passage in Corpus(tmp_path)}
    assert found == {
        "note.txt": ("note", "Plain text."),
        "deep/readme.md": ("A heading", "# A heading\n\nSome *text*."),
        "page.html": ("A page", "One two"),
    }
    writer = pypdf.PdfWriter()
    writer.add_blank_page(100, 100)
    writer.write(tmp_path / "scan.pdf")
    with pytest.raises(InputError, match=r"scan\.pdf holds no text; it may hold only pictures of its pages"):
        list(Corpus(tmp_path))
    (tmp_path / "scan.pdf").write_bytes(b"%PDF-1.4 broken")
    with pytest.raises(InputError, match=r"scan\.pdf cannot be read as a PDF document"):
        list(Corpus(tmp_path))


def pdf(text: str) -> bytes:
    """Return a PDF document of one page with a line of text."""
    stream = f"BT /F1 12 Tf 10 50 Td ({text}) Tj ET".encode()
    objects = [
        b"<< /Type /Catalog /Pages 2 0 R >>",
        b"<< /Type /Pages /Kids [3 0 R] /Count 1 >>",
        b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 300 100] /Contents 4 0 R "
        b"/Resources << /Font << /F1 << /Type /Font /Subtype /Type1 /BaseFont /Helvetica >> >> >> >>",
        b"<< /Length %d >>\nstream\n%s\nendstream" % (len(stream), stream),
    ]
    out, places = b"%PDF-1.4\n", []
    for number, content in enumerate(objects, 1):
        places.append(len(out))
        out += b"%d 0 obj\n%s\nendobj\n" % (number, content)
    start = len(out)
    out += b"xref\n0 5\n0000000000 65535 f \n" + b"".join(b"%010d 00000 n \n" % place for place in places)
    return out + b"trailer << /Size 5 /Root 1 0 R >>\nstartxref\n%d\n%%%%EOF\n" % start


@pytest.mark.needs("pypdf")
def test_a_pdf_document(tmp_path: Path) -> None:
    (tmp_path / "paper.pdf").write_bytes(pdf("Dartmouth 1956"))
    [passage] = Corpus(tmp_path / "paper.pdf")
    assert (passage.id, passage.title, passage.body) == ("paper.pdf", "paper", "Dartmouth 1956")


@pytest.mark.parametrize(
    ("name", "content", "options", "words"),
    [
        ("a.jsonl", b"", {}, r"a\.jsonl holds no passages"),
        ("a.csv", b"_id,text\n", {}, r"a\.csv holds no passages"),
        ("a.json", b"[]", {}, r"a\.json holds no passages"),
        ("a.txt", b"   ", {}, r"a\.txt holds no text"),
        ("a.txt", b"\xff\xfe\x00", {}, r"a\.txt is not UTF-8 text"),
        ("a.csv", b"_id,text\n1,a,b\n", {}, r"a\.csv:2: expected 2 columns"),
        ("a.csv", b"_id,text\n1,\xff\n", {}, r"a\.csv is not UTF-8 text"),
        ("a.csv", b"_id,body\n1,a\n", {}, r"has no 'text'; its keys are \['_id', 'body'\]. Name the text's key with"),
        ("a.csv", b"key,text\n1,a\n", {}, r"has no '_id'; its keys are \['key', 'text'\]. Name the id's key with"),
        ("a.csv", b"key,text\n1,a\n1,b\n", {"id_field": "key"}, r"record 2: the id '1' is also that of record 1"),
        ("a.jsonl", b'{"_id": 1, "text": "a"}\n{"_id": 1, "text": "b"}', {}, r":2: the id '1' is also on line 1"),
        ("a.jsonl", b'{"_id": 1, "text": "a"}', {"fields": ("year",)}, r"the document '1' has no 'year'"),
        ("a.jsonl", b'{"_id": 1, "text": 5}', {}, r"'text' of the document '1' must be a string, got 5"),
        ("a.jsonl.gz", b"\x1f\x8b\x08", {}, r"is compressed with gzip"),
        ("a.json", b'["a", "b"]', {}, r"holds texts without ids; expected objects or a table"),
        ("a.lines", b"one\ntwo\n", {}, r"holds texts without ids"),
        ("a.jsonl", b'{"_id": 1, "body": "a", "text": "b"}', {"text_field": "body"}, r"needs the key 'text' itself"),
    ],
)
def test_what_is_refused_is_named(
    tmp_path: Path, name: str, content: bytes, options: dict[str, Any], words: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=words):
        list(Corpus(tmp_path / name, CorpusOptions(**options)))


def test_only_named_fields_are_kept(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("_id,text,year,note\n1,a,1950,x\n")
    [passage] = Corpus(tmp_path / "a.csv", CorpusOptions(fields=("year",)))
    assert passage.fields == {"year": "1950"}


def test_an_empty_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"has no corpus\.jsonl, as BEIR's layout has, and no documents \(\.txt, \.md"):
        Corpus(tmp_path)
