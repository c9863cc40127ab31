"""Corpus files: what is read from them, and what is refused."""

import json
from pathlib import Path

import pytest
from tiny_embedder import write_jsonl

from milvus_rerank.errors import InputError
from milvus_rerank.indexing import Passage, read_passages

pytestmark = pytest.mark.compat


def test_a_passage_is_read_with_its_title_before_its_text_and_its_other_keys_kept(passages: list[Passage]) -> None:
    assert passages[0].text == "Python a programming language named after a comedy group"
    assert passages[3].text == "people walked on the moon"
    assert [(passage.id, passage.fields) for passage in passages][4] == ("bug", {"year": 1947})


def test_ids_may_be_integers_and_stand_under_id(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "a.jsonl", [{"_id": 7, "text": "x"}, {"id": "8", "text": "y"}])
    assert [passage.id for passage in read_passages(path)] == ["7", "8"]


def test_blank_lines_and_a_byte_order_mark_are_skipped_and_lines_still_counted(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"_id": "a", "text": "x"}\r\n\r\n{"_id": "b"}\n')
    with pytest.raises(InputError, match=r"a\.jsonl:3: 'text' is missing; the object has the keys \['_id'\]"):
        list(read_passages(path))


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ('{"_id": "b", "text": "x"', r":2: is not JSON \(Expecting ',' delimiter at column 25\)"),
        ('{"_id": "b", "text": "x", "y": NaN}', r":2: cannot be read as JSON \(NaN is no JSON number\)"),
        ('{"_id": "b", "text": "\\ud800"}', ":2: holds half of a surrogate pair"),
        ('["b", "x"]', ":2: expected a JSON object, one a line, got list"),
        (
            '{"text": "x"}',
            r":2: there is no '_id' or 'id'; the keys are \['text'\]. Name the id's key with --id-field, or number",
        ),
        ('{"_id": "b", "title": "x"}', ":2: 'text' is missing; the object has the keys"),
        ('{"_id": "b", "text": null}', ":2: 'text' is None, no string"),
        ('{"_id": "b", "text": "x", "title": 3}', ":2: 'title' of the document 'b' must be a string, got 3"),
        ('{"_id": "", "text": "x"}', ":2: '_id' must be a string or an integer, got ''"),
        ('{"_id": true, "text": "x"}', ":2: '_id' must be a string or an integer, got True"),
        ('{"_id": "a", "text": "x"}', r":2: the id 'a' is also at \S+corpus\.jsonl:1; each must be unique"),
        (
            '{"_id": "b", "text": "x", "y": {"z": [9223372036854775808]}}',
            ":2: 'y' holds an integer of more",
        ),
        ('{"_id": "b", "text": "x", "y": 1e400}', r":2: cannot be read as JSON \(1e400 is more than"),
        ('{"_id": "b", "text": "x", "vector": [1]}', ":2: the index needs the key 'vector' itself; rename it"),
        ('{"_id": "b", "id": "c", "text": "x"}', ":2: the index needs the key 'id' itself; rename it"),
        ('{"_id": "b\\u0000", "text": "x"}', r":2: '_id' must not hold a control character, got 'b\\x00'; remove it"),
        ('{"id": "b\\fc", "text": "x"}', ":2: 'id' must not hold a control character"),
        (json.dumps({"_id": "b" * 513, "text": "x"}), r":2: the id 'b{40}'\.\.\. must have at most 512 bytes"),
        (
            json.dumps({"_id": "b", "text": "é" * 32768}),
            ":2: title and text of the document 'b' have 65536 bytes, but a field of Milvus holds at most 65535",
        ),
        (b'{"_id": "b", "text": "\xff"}', ":2: is not UTF-8 text: invalid start byte at byte 22"),
    ],
)
def test_a_bad_line_is_told_with_file_and_line(tmp_path: Path, line: str | bytes, told: str) -> None:
    path = tmp_path / "corpus.jsonl"
    path.write_bytes(b'{"_id": "a", "text": "x"}\n' + (line if isinstance(line, bytes) else line.encode()) + b"\n")
    with pytest.raises(InputError, match=r"corpus\.jsonl" + told):
        list(read_passages(path))
