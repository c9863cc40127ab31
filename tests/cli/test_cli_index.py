"""`milvus-rerank index`: what it reads, what it deletes, and what it refuses before anything is written."""

import json
from pathlib import Path
from typing import Any

import pytest
from commands import Cli

pytestmark = pytest.mark.needs("milvus_lite")

TABLE = "isbn,blurb,year\n1,a moth was found,1947\n2,people walked on the moon,1969\n"


def found(cli: Cli, query: str, *arguments: object) -> list[dict[str, Any]]:
    """Return the entities that a search finds, best first."""
    code, out, err = cli("search", query, "--reranker", "lexical", "--json", *arguments)
    assert (code, err) == (0, "")
    return [result["entity"] for result in json.loads(out)["results"]]


def test_a_table_is_indexed_with_numbers_and_searched(cli: Cli, embedder: Path, tmp_path: Path) -> None:
    (tmp_path / "books.csv").write_text(TABLE, "utf-8")
    names = ("--text-field", "blurb", "--id-field", "isbn", "--embedder", embedder)
    code, out, err = cli("index", "books.csv", *names)
    assert (code, err) == (0, "")
    assert out == "books: 2 passages read, 2 written, 0 there already; the collection holds 2 (./milvus.db)\n"
    hits = found(cli, "moth", "--filter", "year > 1950", "--embedder", embedder)
    assert hits == [{"id": "2", "title": "", "text": "people walked on the moon", "year": 1969}]


def test_stdin_is_indexed_into_the_collection_that_is_named(cli: Cli, embedder: Path) -> None:
    arguments = ("--input", "text", "--id-field", "@row", "--embedder", embedder)
    code, out, _ = cli("index", "-", "--collection", "lines", *arguments, stdin="a moth\n\nthe moon\n")
    assert code == 0
    assert out.startswith("lines: 2 passages read, 2 written")
    assert found(cli, "moth", "--embedder", embedder)[0] == {"id": "1", "title": "", "text": "a moth"}
    code, _, err = cli("index", "-", *arguments, stdin="a moth\n")
    assert code == 2
    assert "name the collection" in err


def test_rows_that_are_gone_are_counted_and_deleted_with_prune(cli: Cli, embedder: Path, tmp_path: Path) -> None:
    path = tmp_path / "books.csv"
    path.write_text(TABLE, "utf-8")
    names = (path, "--text-field", "blurb", "--id-field", "isbn", "--embedder", embedder)
    cli("index", *names)
    path.write_text("\n".join(TABLE.splitlines()[:2]), "utf-8")
    code, out, err = cli("index", *names)
    assert (code, err) == (0, f"The collection holds 1 more that {path} lacks; --prune deletes them.\n")
    assert "1 there already; the collection holds 2" in out
    code, out, err = cli("index", *names, "--prune")
    assert (code, err) == (0, "")
    assert (
        out == "books: 1 passages read, 0 written, 1 there already, 1 deleted; the collection holds 1 (./milvus.db)\n"
    )


def test_a_folder_is_indexed_and_what_is_not_read_is_named(cli: Cli, embedder: Path, tmp_path: Path) -> None:
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "bug.md").write_text("# First bug\n\na moth was found in the relay", "utf-8")
    (tmp_path / "notes" / "x.docx").write_bytes(b"PK")
    code, out, err = cli("index", "notes", "--embedder", embedder)
    assert (code, err) == (0, "notes: not read: 1 .docx\n")
    assert out.startswith("notes: 1 passages read, 1 written")
    [hit] = found(cli, "moth", "--embedder", embedder)
    assert hit == {"id": "bug.md", "title": "First bug", "text": "First bug a moth was found in the relay"}


@pytest.mark.needs("semantic_text_splitter")
def test_long_texts_are_split_into_parts_that_know_their_document(cli: Cli, embedder: Path, tmp_path: Path) -> None:
    (tmp_path / "moon.txt").write_text("people walked on the moon. " * 3 + "a moth was found. " * 3, "utf-8")
    code, _, _ = cli("index", "moon.txt", "--split-tokens", 14, "--overlap", 4, "--embedder", embedder)
    assert code == 0
    hits = found(cli, "moth", "--embedder", embedder, "--output-fields", "document,part,parts", "-k", 1)
    assert hits[0]["document"] == "moon.txt"
    assert 1 < hits[0]["part"] <= hits[0]["parts"]
    code, _, err = cli("index", "moon.txt", "--overlap", 4)
    assert code == 2
    assert "add --split-tokens" in err


@pytest.mark.needs("semantic_text_splitter")
@pytest.mark.parametrize(("tokens", "told"), [(512, False), (513, True)])
def test_parts_that_the_embedder_does_not_read_to_the_end_are_told(
    cli: Cli, embedder: Path, tmp_path: Path, tokens: int, told: bool
) -> None:
    (tmp_path / "moon.txt").write_text("people walked on the moon. ", "utf-8")
    code, _, err = cli("index", "moon.txt", "--split-tokens", tokens, "--embedder", embedder)
    assert code == 0
    assert (f"--split-tokens {tokens} is more than the 512 tokens that the embedder" in err) is told


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("isbn,blurb\n1,x\n", "books.csv:1: the table has no column 'text'; its columns are ['isbn', 'blurb']. Name"),
        (
            "text\nx\n",
            "books.csv:2: there is no '_id' or 'id'; the keys are ['text']. Name the id's key with --id-field",
        ),
        ("id,text\n1,x\n1,y\n", "books.csv:3: the id '1' is also at books.csv:2"),
        ("", "books.csv holds no documents"),
    ],
)
def test_a_wrong_table_is_told_and_nothing_is_written(
    cli: Cli, embedder: Path, tmp_path: Path, content: str, told: str
) -> None:
    (tmp_path / "books.csv").write_text(content, "utf-8")
    code, out, err = cli("index", "books.csv", "--embedder", embedder)
    assert (code, out) == (1, "")
    assert err.startswith(f"error: {told}")
    assert not (tmp_path / "milvus.db").exists()
