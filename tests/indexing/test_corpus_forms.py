"""Forms of a corpus: files, folders and pipes that hold the same documents, and those that are refused."""

import datetime
import decimal
import io
import json
import logging
import os
import threading
from pathlib import Path
from typing import Any

import pytest

from milvus_rerank.errors import InputError
from milvus_rerank.indexing import CorpusOptions, Passage, open_corpus, read_passages
from milvus_rerank.records import Form

ROWS: list[dict[str, Any]] = [
    {"_id": "a", "title": "Ada", "text": "wrote a program,\nthe first", "year": 1843, "price": 1.5, "old": True},
    {"_id": "b", "title": "", "text": 'said "hello"', "year": None, "price": 2.25, "old": False},
]
EXPECTED = [
    Passage("a", "Ada", "wrote a program,\nthe first", {"year": 1843, "price": 1.5, "old": True}),
    Passage("b", "", 'said "hello"', {"year": None, "price": 2.25, "old": False}),
]
CSV = (
    '_id,title,text,year,price,old\r\na,Ada,"wrote a program,\nthe first",1843,1.5,true\r\n'
    'b,,"said ""hello""",,2.25,False\r\n'
)
FORMS = {
    "a.jsonl": "\n".join(map(json.dumps, ROWS)).encode(),
    "a.json": json.dumps(ROWS, indent=1).encode(),
    "a.csv": CSV.encode(),
    "excel.csv": CSV.replace("program,", "program\0").replace(",", ";").replace("\0", ",").encode("utf-8-sig"),
    "utf16.csv": CSV.encode("utf-16"),
    "a.tsv": CSV.replace("program,", "program\0").replace(",", "\t").replace("\0", ",").encode(),
}


def parquet(rows: list[dict[str, Any]]) -> bytes:
    import pyarrow as pa
    from pyarrow.parquet import write_table

    file = io.BytesIO()
    write_table(pa.Table.from_pylist(rows), file)
    return file.getvalue()


@pytest.mark.parametrize("name", FORMS)
def test_each_form_gives_the_same_passages(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(FORMS[name])
    assert list(read_passages(tmp_path / name)) == EXPECTED


@pytest.mark.needs("pyarrow")
def test_parquet_gives_the_same_passages_and_dates_and_decimals_as_json_has_them(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    path.write_bytes(parquet(ROWS))
    assert list(read_passages(path)) == EXPECTED
    values = {"day": datetime.date(1843, 9, 1), "cost": decimal.Decimal("1.10"), "tags": ["x"], "gap": float("nan")}
    path.write_bytes(parquet([{"id": 7, "text": "x", **values}]))
    assert [passage.fields for passage in read_passages(path)] == [
        {"day": "1843-09-01", "cost": 1.1, "tags": ["x"], "gap": None}
    ]


@pytest.mark.needs("pyarrow")
def test_what_json_cannot_hold_is_refused_with_its_row_and_column(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    for value, told in ((b"raw", "of the type bytes"), (decimal.Decimal("0.1234567890123456789"), "more digits")):
        path.write_bytes(parquet([{"id": "a", "text": "x", "blob": value}]))
        with pytest.raises(InputError, match=rf"a\.parquet: row 1: 'blob' .*{told}"):
            list(read_passages(path))


@pytest.mark.parametrize("name", FORMS)
def test_stdin_is_read_as_what_it_is_and_twice(name: str) -> None:
    form: Form = "tsv" if name == "a.tsv" else "csv" if name.endswith("csv") else "auto"
    with open_corpus(Path("-"), CorpusOptions(form), io.BytesIO(FORMS[name])) as corpus:
        assert corpus.total == 2
        assert list(corpus) == list(corpus) == EXPECTED


def test_a_named_pipe_is_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    writer = threading.Thread(target=(tmp_path / "pipe").write_bytes, args=(FORMS["a.jsonl"],))
    writer.start()
    assert list(read_passages(tmp_path / "pipe")) == EXPECTED
    writer.join()


def test_keys_are_chosen_by_name(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("isbn,blurb,year,id\n080442957X,A book,1970,9\n", "utf-8")
    options = CorpusOptions(text_field="blurb", id_field="isbn", fields=("year",))
    assert list(read_passages(tmp_path / "a.csv", options)) == [Passage("080442957X", "", "A book", {"year": 1970})]
    options = CorpusOptions(text_field="blurb", id_field="@row", fields=())
    assert list(read_passages(tmp_path / "a.csv", options)) == [Passage("1", "", "A book", {})]


def test_a_column_has_one_type_and_what_a_number_would_lose_stays_text(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "a.csv").write_text(
        "id,text,zip,version,cost,year,big\n1,x,01234,3.9,1.10,1991,1\n2,y,99999,3.10,2.00,n/a,9223372036854775808\n",
        "utf-8",
    )
    with caplog.at_level(logging.WARNING):
        first, _ = read_passages(tmp_path / "a.csv")
    assert first.fields == {"zip": "01234", "version": "3.9", "cost": 1.1, "year": "1991", "big": "1"}
    assert any("'year' is stored as text: " in line and "a.csv:3 has 'n/a'" in line for line in caplog.messages)
    assert any("'version' is stored as text" in line for line in caplog.messages)


def test_documents_of_a_folder_are_read_with_their_paths_and_titles(tmp_path: Path) -> None:
    (tmp_path / "notes").mkdir()
    (tmp_path / ".git").mkdir()
    (tmp_path / ".git" / "x.md").write_text("hidden", "utf-8")
    (tmp_path / "notes" / "a.md").write_text("# The *first* bug #\n\nA moth.\n", "utf-8")
    (tmp_path / "b.txt").write_bytes("# no heading\nén".encode("utf-16"))
    (tmp_path / "only.md").write_text("# Only a heading", "utf-8")
    (tmp_path / "image.png").write_bytes(b"\x89PNG")
    assert list(read_passages(tmp_path)) == [
        Passage("b.txt", "", "# no heading\nén"),
        Passage("notes/a.md", "The *first* bug", "A moth."),
        Passage("only.md", "", "# Only a heading"),
    ]


@pytest.mark.needs("bs4")
def test_html_is_read_as_a_reader_sees_it(tmp_path: Path) -> None:
    (tmp_path / "page.html").write_bytes(
        b"<html><head><meta charset=latin-1><title>The\n bug</title><script>var x</script></head><body><!-- no -->"
        b"<h1>First</h1><p>A <b>moth</b> was\n found in Z\xfcrich.<br>It died.</p><ul><li>one</li><li>two</li></ul>"
        b"<pre>a\n  b</pre><style>p{}</style></body></html>"
    )
    [passage] = read_passages(tmp_path / "page.html")
    assert passage.title == "The bug"
    lines = [line for line in passage.body.split("\n") if line]
    assert lines == ["First", "A moth was found in Zürich.", "It died.", "one", "two", "a", "b"]
    (tmp_path / "page.html").write_bytes(b"<p>one</p>\n<p>Z\xfcrich</p>")
    with pytest.raises(InputError, match=r"page\.html:2: is not UTF-8 text"):
        list(read_passages(tmp_path))


def write_pdf(path: Path, text: str, password: str = "") -> None:
    """Write a PDF with a line of text on each of two pages."""
    from pypdf import PdfWriter
    from pypdf.generic import DecodedStreamObject, DictionaryObject, NameObject

    writer = PdfWriter()
    names = {"/Type": "/Font", "/Subtype": "/Type1", "/BaseFont": "/Helvetica"}
    font = DictionaryObject({NameObject(key): NameObject(value) for key, value in names.items()})
    for word in text.split():
        page = writer.add_blank_page(200, 200)
        stream = DecodedStreamObject()
        stream.set_data(f"BT /F1 12 Tf 20 100 Td ({word}) Tj ET".encode())
        page[NameObject("/Contents")] = writer._add_object(stream)
        fonts = DictionaryObject({NameObject("/F1"): font})
        page[NameObject("/Resources")] = DictionaryObject({NameObject("/Font"): fonts})
    if not text:
        writer.add_blank_page(200, 200)
    writer.add_metadata({"/Title": "A title"})
    if password:
        writer.encrypt(password, algorithm="RC4-128")
    writer.write(path)


@pytest.mark.needs("pypdf")
def test_pdf_files_are_read_and_those_without_text_are_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_pdf(tmp_path / "a.pdf", "moth relay")
    assert list(read_passages(tmp_path)) == [Passage("a.pdf", "A title", "moth\n\nrelay")]
    (tmp_path / "empty.txt").write_text("")
    with caplog.at_level(logging.WARNING):
        assert len(list(read_passages(tmp_path))) == 1
    assert any("empty.txt holds no text and is left out" in line for line in caplog.messages)
    write_pdf(tmp_path / "b.pdf", "secret", password="x")
    with pytest.raises(InputError, match=r"b\.pdf needs a password; save it without one"):
        list(read_passages(tmp_path))
    (tmp_path / "b.pdf").write_bytes(b"%PDF-1.7\nbroken")
    with pytest.raises(InputError, match=r"b\.pdf cannot be read as PDF \(.+\); mend it, or move it"):
        list(read_passages(tmp_path))


REFUSED: list[tuple[bytes, str, str, CorpusOptions]] = [
    (b"", "a.jsonl", r"a\.jsonl holds no documents", CorpusOptions()),
    (b"id,text\n", "a.csv", r"a\.csv holds no documents", CorpusOptions()),
    (b"[]", "a.json", r"a\.json holds no documents", CorpusOptions()),
    (b"id,body\n1,x\n", "a.csv", r"a\.csv:1: the table has no column 'text'; its columns are \['id', 'body'\]. Name",
     CorpusOptions()),
    (b"id,text,\n1,x,y\n", "a.csv", r"a\.csv:2: a column has no name; name it, or choose the others with --fields",
     CorpusOptions()),
    (b"text,year\nx,1\n", "a.csv", r"a\.csv:2: there is no '_id' or 'id'; .*number the records with --id-field @row",
     CorpusOptions()),
    (b"id,text\n1,x\n", "a.csv", "there is no 'isbn'", CorpusOptions(id_field="isbn")),
    (b"id,text\n1,x\n", "a.csv", "there is no 'year', which --fields names", CorpusOptions(fields=("year",))),
    (b"id,text\n1,x\n1,y\n", "a.csv", r"a\.csv:3: the id '1' is also at .*a\.csv:2", CorpusOptions()),
    (b'id,text\n1,"x\ny\n', "a.csv", r"a\.csv:2: cannot be read as a table", CorpusOptions()),
    (b'{"id": 1, "text": "x", "year": 1}\n{"id": 2, "text": "y", "year": "n/a"}', "a.jsonl",
     r"a\.jsonl:2: 'year' is a string \('n/a'\), but a number at .*a\.jsonl:1 \(1\): a filter would", CorpusOptions()),
    (b"\x1f\x8b\x08", "a.jsonl", r"a\.jsonl is compressed with gzip; .*zcat", CorpusOptions()),
    (b"\xff\xfe\x00", "a.jsonl", "begins like UTF-16 text but is none", CorpusOptions()),
    (b"PK\x03\x04", "a.docx", "a zip archive or an office document", CorpusOptions()),
    (b'["x"]', "a.json", "a.json: item 0: there is no '_id' or 'id'", CorpusOptions()),
]  # fmt: skip


@pytest.mark.parametrize(("content", "name", "told", "options"), REFUSED)
def test_a_wrong_file_is_told_with_its_place_and_what_to_type(
    tmp_path: Path, content: bytes, name: str, told: str, options: CorpusOptions
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=told):
        list(read_passages(tmp_path / name, options))


def test_a_folder_without_documents_says_what_it_holds(tmp_path: Path) -> None:
    (tmp_path / "a.docx").write_bytes(b"PK")
    with pytest.raises(InputError, match=r"holds no corpus\.jsonl and no \.txt, .* files; it holds 1 \.docx"):
        list(read_passages(tmp_path))
