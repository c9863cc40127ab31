"""Reading queries with their documents: every form, and every row that cannot be reranked with its reason."""

import json
from pathlib import Path
from typing import Any

import pytest

from milvus_rerank.cluster.queries import QueryFields, QueryRow, check_columns, list_files, read_queries
from milvus_rerank.errors import InputError

pytestmark = pytest.mark.needs("pyarrow", "fsspec")

ROWS: list[Any] = [
    {"query_id": "a", "query": "dogs", "documents": ["They bark.", "They run."]},
    {"query_id": 7, "query": "", "documents": [{"id": "x", "text": "They sleep."}, {"id": 8, "text": ""}]},
    {"query_id": "c", "query": "nothing", "documents": []},
]
READ = [("a", "dogs", ("0", "1"), ("They bark.", "They run.")), ("7", "", ("x", "8"), ("They sleep.", "")),
        ("c", "nothing", (), ())]  # fmt: skip


def values(rows: list[QueryRow]) -> list[Any]:
    return [(row.query_id, row.query, tuple(row.ids), tuple(row.texts)) for row in rows]


def lines(path: Path, *rows: Any) -> str:
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows), "utf-8")
    return str(path)


def test_json_lines_are_read(tmp_path: Path) -> None:
    file = lines(tmp_path / "a.jsonl", ROWS[0], "", *ROWS[1:])
    rows = list(read_queries(file, QueryFields()))
    assert values(rows) == READ
    assert [row.where for row in rows] == [f"{file}:1", f"{file}:3", f"{file}:4"]


def test_parquet_is_read_with_other_names(tmp_path: Path) -> None:
    import pyarrow
    import pyarrow.parquet

    table = pyarrow.table(
        {"key": [7, 8], "text": ["dogs", "cats"], "hits": [[{"pk": 1, "body": "They bark."}], []], "more": [1, 2]}
    )
    pyarrow.parquet.write_table(table, tmp_path / "a.parquet")
    fields = QueryFields("key", "text", "hits", "pk", "body")
    rows = list(read_queries(str(tmp_path / "a.parquet"), fields))
    assert values(rows) == [("7", "dogs", ("1",), ("They bark.",)), ("8", "cats", (), ())]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("{bad", "is not JSON"),
        ("[1]", "expected a JSON object"),
        ({"query_id": None, "query": "q", "documents": []}, "query_id must be a string or an integer, got null"),
        ({"query_id": True, "query": "q", "documents": []}, "query_id must be a string or an integer, got true"),
        ({"query_id": "", "query": "q", "documents": []}, "query_id must be a string or an integer"),
        ({"query_id": 1, "query": None, "documents": []}, "'query' must be a string, got NoneType"),
        ({"query_id": 1, "query": "q"}, "'documents' must be a list, got NoneType"),
        ({"query_id": 1, "query": "q", "documents": "text"}, "'documents' must be a list, got str"),
        ({"query_id": 1, "query": "q", "documents": ["a", 5]}, "'documents'[1] must be a string, got int: 5"),
        ({"query_id": 1, "query": "q", "documents": [{"id": 1}]}, "'documents'[0] must be a string, got NoneType"),
        ({"query_id": 1, "query": "q", "documents": [{"id": [1], "text": "t"}]}, "id must be a string or an integer"),
    ],
)
def test_a_row_that_cannot_be_read_says_why_and_the_others_are_read(tmp_path: Path, row: Any, message: str) -> None:
    rows = list(read_queries(lines(tmp_path / "a.jsonl", ROWS[0], row, ROWS[2]), QueryFields()))
    assert values([rows[0], rows[2]]) == [READ[0], READ[2]]
    assert message in rows[1].error
    assert rows[1].where.endswith("a.jsonl:2")


def test_a_line_that_is_no_utf8_is_a_row_that_failed(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(json.dumps(ROWS[0]).encode() + b'\n{"query": "caf\xe9"\n')
    good, bad = read_queries(str(tmp_path / "a.jsonl"), QueryFields())
    assert (good.error, "is not JSON" in bad.error) == ("", True)


def test_folders_hold_files_and_others_are_refused(tmp_path: Path) -> None:
    first, second = lines(tmp_path / "b.jsonl", ROWS[0]), lines(tmp_path / "a.ndjson", ROWS[1])
    (tmp_path / "note.txt").write_text("no rows")
    assert list_files([str(tmp_path)]) == [second, first]
    for sources, message in (
        ([str(tmp_path / "none")], "does not exist"),
        ([str(tmp_path / "note.txt")], "holds no .parquet or .jsonl or .ndjson files"),
        ([first, str(tmp_path)], "b.jsonl is given twice"),
    ):
        with pytest.raises(InputError, match=message):
            list_files(sources)


def test_missing_columns_are_named_with_those_there(tmp_path: Path) -> None:
    file = lines(tmp_path / "a.jsonl", {"query_id": 1, "question": "q", "hits": []})
    with pytest.raises(InputError, match=r"no column 'query', 'documents'; it has 'query_id', 'question', 'hits'\."):
        check_columns(file, QueryFields())
    check_columns(file, QueryFields(query="question", documents="hits"))
    with pytest.raises(InputError, match=r"a\.jsonl is empty"):
        check_columns(lines(tmp_path / "a.jsonl"), QueryFields())


def test_a_file_cut_in_half_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.parquet").write_bytes(b"PAR1 and then nothing")
    with pytest.raises(InputError, match=r"a\.parquet cannot be read as Parquet: "):
        check_columns(str(tmp_path / "a.parquet"), QueryFields())
