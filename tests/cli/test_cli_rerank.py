"""`milvus-rerank rerank`: what it reads and what it prints."""

import json
from pathlib import Path
from typing import Any

import pytest
from commands import Cli

pytestmark = pytest.mark.compat


def test_rerank_takes_texts_as_arguments_and_prints_a_table(cli: Cli) -> None:
    code, out, err = cli("rerank", "red apple", "green pear", "red apple", "red", "--reranker", "lexical")
    assert (code, err) == (0, "")
    assert [line.split() for line in out.splitlines()] == [
        ["#", "score", "was", "text"],
        ["1", "1.0000", "2", "red", "apple"],
        ["2", "0.5000", "3", "red"],
        ["3", "0.0000", "1", "green", "pear"],
    ]


def test_rerank_json_is_one_document_with_everything_of_the_results(cli: Cli) -> None:
    code, out, err = cli("rerank", "a b", "b", "c", "a b", "--reranker", "lexical", "--top-k", 2, "--json")
    assert (code, err) == (0, "")
    assert json.loads(out) == {
        "query": "a b",
        "reranker": "lexical",
        "documents": 3,
        "results": [
            {"rank": 1, "index": 2, "score": 1.0, "text": "a b"},
            {"rank": 2, "index": 0, "score": 0.5, "text": "b"},
        ],
    }


def test_rerank_reads_lines_from_stdin_and_from_a_file_alike(cli: Cli, tmp_path: Path) -> None:
    lines = "\ufeffone\r\n\n  two three  \nzwei\n"
    (tmp_path / "lines.txt").write_text(lines, "utf-8")
    command = ("rerank", "two", "--reranker", "lexical", "--json")
    piped = json.loads(cli(*command, stdin=lines)[1])
    assert (
        piped
        == json.loads(cli(*command, "--file", "lines.txt")[1])
        == json.loads(cli(*command, "-f", "-", stdin=lines)[1])
    )
    assert [(one["index"], one["text"]) for one in piped["results"]] == [(1, "two three"), (0, "one"), (2, "zwei")]


def test_rerank_jsonl_keeps_each_objects_keys_and_loses_none_to_its_own(cli: Cli) -> None:
    objects = [{"id": 7, "body": "x", "score": 0.25}, {"body": "a x", "meta": {"k": [1, None]}}, {"body": "a"}]
    stdin = "\n".join(map(json.dumps, objects))
    arguments = ("--reranker", "lexical", "--text-field", "body", "--jsonl", "--threshold", 0.5)
    code, out, _ = cli("rerank", "a x", *arguments, stdin=stdin)
    assert code == 0
    assert [json.loads(line) for line in out.splitlines()] == [
        {"rank": 1, "index": 1, "score": 1.0, "body": "a x", "meta": {"k": [1, None]}},
        {"rank": 2, "index": 0, "score": 0.5, "id": 7, "body": "x", "input_score": 0.25},
        {"rank": 3, "index": 2, "score": 0.5, "body": "a"},
    ]


def test_rerank_jsonl_renames_an_input_key_until_the_name_is_free(cli: Cli) -> None:
    record = {"text": "a", "rank": 1, "input_rank": 7, "input_score": 8, "score": None, "input_input_rank": 9}
    out = cli("rerank", "a", "--reranker", "lexical", "--jsonl", stdin=json.dumps(record))[1]
    assert json.loads(out) == {
        "rank": 1, "index": 0, "score": 1.0, "text": "a", "input_input_input_rank": 1, "input_rank": 7,
        "input_input_rank": 9, "input_score": 8, "input_input_score": None,
    }  # fmt: skip


def test_rerank_takes_a_line_that_looks_like_json_as_text_if_told_so(cli: Cli) -> None:
    command = ("rerank", "a", "--reranker", "lexical", "--input", "text", "--jsonl")
    assert json.loads(cli(*command, stdin='{"text": "a"}')[1])["text"] == '{"text": "a"}'


def test_rerank_without_documents_says_what_it_expected(cli: Cli) -> None:
    code, out, err = cli("rerank", "a", "--reranker", "lexical", "--json", stdin="")
    assert (code, out) == (1, "")
    assert "stdin holds no texts; expected one a line" in " ".join(err.split())


def test_rerank_scores_with_the_model_it_is_given(cli: Cli, tiny: dict[str, Path]) -> None:
    from milvus_rerank import CrossEncoderRerankFunction

    texts = ["a b c", "vector search", "lazy dog"]
    code, out, err = cli("rerank", "search", *texts, "--model", tiny["bert"], "--device", "cpu", "--json")
    assert (code, err) == (0, "")
    expected = CrossEncoderRerankFunction(str(tiny["bert"]), device="cpu").score("search", texts)
    assert {one["text"]: one["score"] for one in json.loads(out)["results"]} == pytest.approx(
        dict(zip(texts, expected, strict=True)), abs=1e-6
    )


def test_rerank_says_what_a_reranker_made_of_an_option(cli: Cli, tiny: dict[str, Path]) -> None:
    command = ("rerank", "q", "a", "--model", tiny["bert"], "--device", "cpu", "--dtype", "float16", "--json")
    code, out, err = cli(*command)
    assert code == 0
    assert json.loads(out)["documents"] == 1
    assert "float32" in err


@pytest.mark.parametrize(
    ("stdin", "told"),
    [
        ('{"text": "a"}\n{"body": "b"}', "stdin:2: 'text' is missing; the object has the keys ['body']"),
        ('{"text": "a"}\n{"text": 3}', "stdin:2: 'text' is 3, no string"),
        ('{"text": "a"}\nb', "stdin:2: is not JSON"),
        (b"a\n\xff", "stdin:2: is not UTF-8 text"),
        ('{"text": "a"}\n{"text": "b", "n": 1e400}', "stdin:2: cannot be read as JSON (1e400 is more than a number"),
        ('{"text": "a", "n": -1.5e999}', "stdin:1: cannot be read as JSON (-1.5e999 is more than a number"),
    ],
)
def test_rerank_tells_the_line_that_it_cannot_read(cli: Cli, stdin: Any, told: str) -> None:
    code, out, err = cli("rerank", "q", "--reranker", "lexical", stdin=stdin)
    assert (code, out) == (1, "")
    assert err.startswith("error: " + told)


FORMS = {
    "hits.json": b'["green pear", "red apple"]',
    "objects.json": b'\xef\xbb\xbf [\n {"text": "green pear", "id": 7},\n {"text": "red apple"}]\n',
    "hits.jsonl": b'{"text": "green pear"}\n\n{"text": "red apple"}\n',
    "hits.csv": b'id,text\r\n1,"green pear"\r\n2,"red apple"\r\n',
    "excel.csv": b"\xef\xbb\xbfid;text\r\n1;green pear\r\n2;red apple\r\n",
    "hits.tsv": b"text\tid\ngreen pear\t1\nred apple\t2\n",
    "utf16.txt": "green pear\nred apple\n".encode("utf-16"),
    "marks.txt": b"[green] pear\n[red] apple\n",
    "lines": b"green pear\nred apple",
}


@pytest.mark.parametrize("name", FORMS)
def test_rerank_reads_a_file_as_what_it_is(cli: Cli, tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(FORMS[name])
    code, out, err = cli("rerank", "red apple", "--file", tmp_path / name, "--reranker", "lexical", "--json")
    assert (code, err) == (0, "")
    texts = [result["text"].replace("[", "").replace("]", "") for result in json.loads(out)["results"]]
    assert texts == ["red apple", "green pear"]


@pytest.mark.needs("pyarrow")
def test_rerank_reads_parquet(cli: Cli, tmp_path: Path) -> None:
    import pyarrow as pa
    from pyarrow.parquet import write_table

    write_table(pa.table({"text": ["green pear", "red apple"], "n": [1, 2]}), tmp_path / "a.parquet")
    out = cli("rerank", "red apple", "--file", "a.parquet", "--reranker", "lexical", "--jsonl")[1]
    assert [json.loads(line)["n"] for line in out.splitlines()] == [2, 1]


@pytest.mark.parametrize("option", [("-",), ("--file", "-")])
def test_a_dash_is_stdin(cli: Cli, option: tuple[str, ...]) -> None:
    code, out, err = cli("rerank", "red", *option, "--reranker", "lexical", "--json", stdin=b"green\nred\n")
    assert (code, err) == (0, "")
    assert [result["text"] for result in json.loads(out)["results"]] == ["red", "green"]


REFUSED = [
    (b"\x1f\x8b\x08\x00", "a.gz", "a.gz is compressed with gzip; unpack it and read it from a pipe: zcat"),
    (b"PK\x03\x04....", "a.docx", "is a zip archive or an office document"),
    (b"%PDF-1.7", "a.pdf", "is a PDF document"),
    pytest.param(b"PAR1", "a.parquet", "cannot be read as Parquet", marks=pytest.mark.needs("pyarrow")),
    (b"ab\x00\x01", "a.txt", "is binary data"),
    (b"", "a.txt", "holds no texts"),
    (b"\n \n", "a.jsonl", "holds no texts"),
    (b"[]", "a.json", "holds no texts"),
    (b'["a", 1]', "a.json", "item 1 must be a text or an object, got int"),
    (b'[{"body": "a"}]', "a.json", "item 0: 'text' is missing; the object has the keys ['body']"),
    (b'["a",', "a.json", "cannot be read as a JSON array"),
    (b"id,body\n1,a\n", "a.csv", "a.csv:1: the table has no column 'text'; its columns are ['id', 'body']"),
    (b"id,body\n", "a.csv", "the table has no column 'text'"),
    (b"text,text\na,b\n", "a.csv", "a.csv:1: two columns are called 'text'; rename one"),
    (b'{\n"hits": ["a"]\n}', "a.json", "is one JSON object with the keys ['hits']; expected an array"),
    ("green\nred\n".encode("utf-16-le"), "a.txt", "looks like UTF-16 without its mark; convert it: iconv -f UTF-16LE"),
    (b"a\ngr\xfcn\n", "a.txt", "a.txt:2: is not UTF-8 text: invalid start byte at byte 2. Convert the file"),
    (b"text\na\ngr\xfcn\n", "a.csv", "a.csv:3: is not UTF-8 text"),
    (b"id,text\n1,a,b\n", "a.csv", "a.csv:2: expected 2 columns"),
    (b"id,text\n1\n", "a.csv", "a.csv:2: expected 2 columns"),
]


@pytest.mark.parametrize(("content", "name", "message"), REFUSED)
def test_a_file_that_holds_no_texts_is_refused_by_its_form(
    cli: Cli, tmp_path: Path, content: bytes, name: str, message: str
) -> None:
    (tmp_path / name).write_bytes(content)
    code, out, err = cli("rerank", "red", "--file", tmp_path / name, "--reranker", "lexical")
    assert (code, out) == (1, "")
    assert message in " ".join(err.split())


def test_an_empty_query_is_refused(cli: Cli) -> None:
    code, out, err = cli("rerank", " ", "a", "--reranker", "lexical")
    assert (code, out) == (2, "")
    assert "the query is empty" in err


def test_the_command_reads_several_keys(cli: Cli, tmp_path: Path) -> None:
    rows = [{"title": "Dogs", "text": "They bark."}, {"title": "Cats", "text": "They sleep."}]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    arguments = ("rerank", "dogs", "--file", "rows.jsonl", "--reranker", "lexical", "--json")
    for value in ("title,text", "title, text", r"{title}\n{text}"):
        code, out, err = cli(*arguments, "--text-field", value)
        assert (code, err) == (0, "")
        assert [(row["title"], row["score"]) for row in json.loads(out)["results"]] == [("Dogs", 1.0), ("Cats", 0.0)]
    assert json.loads(cli(*arguments, "--text-field", "text")[1])["results"][0]["score"] == 0.0
    code, _, err = cli(*arguments, "--text-field", "{title} {body}")
    assert (code, "rows.jsonl:1: 'body' is missing; the object has the keys ['text', 'title']" in err) == (1, True)


def test_texts_that_begin_with_a_dash_come_after_two_dashes_or_from_a_file(cli: Cli, tmp_path: Path) -> None:
    texts = ["-5 degrees", "--json", "-", "-k 3"]
    command = ("rerank", "--reranker", "lexical", "--json")
    code, out, _ = cli(*command, "--", "-5 degrees", *texts)
    assert code == 0
    results = json.loads(out)["results"]
    assert (results[0]["text"], sorted(result["text"] for result in results)) == ("-5 degrees", sorted(texts))
    (tmp_path / "texts.txt").write_text("\n".join(texts), "utf-8")
    assert json.loads(cli(*command, "--file", "texts.txt", "--", "-5 degrees")[1])["results"] == results
    assert json.loads(cli(*command, "--", "-5 degrees", stdin="\n".join(texts))[1])["results"] == results


@pytest.mark.parametrize(
    ("command", "usage"),
    [
        (("rerank", "cold", "-5 degrees"), "milvus-rerank rerank [OPTIONS] -- QUERY TEXTS..."),
        (("rerank", "-5 degrees"), "milvus-rerank rerank [OPTIONS] -- QUERY TEXTS..."),
        (("search", "-5 degrees"), "milvus-rerank search [OPTIONS] -- QUERY"),
    ],
)
def test_a_text_that_looks_like_an_option_is_answered_with_what_to_type(
    cli: Cli, command: tuple[str, ...], usage: str
) -> None:
    code, out, err = cli(*command)
    assert (code, out) == (2, "")
    told = " ".join(err.replace("│", " ").split())
    assert f"-5. If it begins a text, write -- before the texts, and options before that: {usage}" in told


def test_a_misspelt_option_is_not_taken_for_a_text(cli: Cli) -> None:
    code, _, err = cli("rerank", "cold", "a", "--treshold", "1")
    assert (code, "--threshold" in err, "begins a text" in err) == (2, True, False)
