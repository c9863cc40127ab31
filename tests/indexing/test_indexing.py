"""Files into collections: what is stored, what a second or a killed run does, and what is refused."""

import fcntl
import json
import os
import subprocess
import sys
from collections.abc import Iterator

import numpy as np
import pytest
from milvus_fixtures import make_docs
from pymilvus.exceptions import MilvusException
from tiny_embedder import PASSAGES, passage_texts, save_embedder, write_beir, write_jsonl

from milvus_rerank.embedding import StaticEmbedder
from milvus_rerank.errors import InputError, ModelError, SearchError
from milvus_rerank.indexing import (
    Passage,
    corpus_file,
    describe,
    index_passages,
    load,
    only_collection,
    open_client,
    open_search,
    read_passages,
    without_scores,
)
from milvus_rerank.indexing.collection import EMBEDDER_KEY, create, fingerprint, has_bm25
from milvus_rerank.reranker import LexicalRerankFunction

pytestmark = pytest.mark.compat


@pytest.fixture(scope="module")
def embedder(tmp_path_factory: pytest.TempPathFactory) -> StaticEmbedder:
    return StaticEmbedder(str(save_embedder(tmp_path_factory.mktemp("embedder"), passage_texts())))


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[object]:
    with open_client(str(tmp_path_factory.mktemp("lite") / "lite.db")) as client:
        yield client


@pytest.fixture(scope="module")
def passages(tmp_path_factory: pytest.TempPathFactory) -> list[Passage]:
    return list(read_passages(corpus_file(write_beir(tmp_path_factory.mktemp("beir")))))


@pytest.fixture(scope="module")
def small(client, passages, embedder):
    """The small collection, indexed."""
    index_passages(client, "small", passages, embedder)
    return describe(client, "small")


def stored(client, collection: str, fields: list[str]) -> dict[str, dict]:
    return {row["id"]: dict(row) for row in client.query(collection, filter="", limit=1000, output_fields=fields)}


class CountingEmbedder:
    """Counts the texts it embeds; with ``fail_after``, it refuses to embed more than that."""

    def __init__(self, inner: StaticEmbedder, fail_after: int | None = None) -> None:
        self.inner, self.fail_after, self.texts = inner, fail_after, []
        self.model_name, self.dim = inner.model_name, inner.dim
        self.encode_queries = inner.encode_queries

    def encode_documents(self, documents):
        if self.fail_after is not None and len(self.texts) + len(documents) > self.fail_after:
            raise InputError("enough")
        self.texts += documents
        return self.inner.encode_documents(documents)


def test_a_passage_is_read_with_its_title_before_its_text_and_its_other_keys_kept(passages):
    assert passages[0].text == "Python a programming language named after a comedy group"
    assert passages[3].text == "people walked on the moon"
    assert [(passage.id, passage.fields) for passage in passages][4] == ("bug", {"year": 1947})


def test_ids_may_be_integers_and_stand_under_id(tmp_path):
    path = write_jsonl(tmp_path / "a.jsonl", [{"_id": 7, "text": "x"}, {"id": "8", "text": "y"}])
    assert [passage.id for passage in read_passages(path)] == ["7", "8"]


def test_blank_lines_and_a_byte_order_mark_are_skipped_and_lines_still_counted(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"_id": "a", "text": "x"}\r\n\r\n{"_id": "b"}\n')
    with pytest.raises(InputError, match=r"a\.jsonl:3: the document 'b' has no 'text'"):
        list(read_passages(path))


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ('{"_id": "b", "text": "x"', r":2: is not JSON \(Expecting ',' delimiter at column 25\)"),
        ('{"_id": "b", "text": "x", "y": NaN}', r":2: cannot be read as JSON \(NaN is no JSON number\)"),
        ('{"_id": "b", "text": "\\ud800"}', ":2: holds half of a surrogate pair"),
        ('["b", "x"]', ":2: expected a JSON object, one a line, got list"),
        ('{"text": "x"}', r":2: has no '_id'; its keys are \['text'\]"),
        ('{"_id": "b", "title": "x"}', ":2: the document 'b' has no 'text'"),
        ('{"_id": "b", "text": null}', ":2: 'text' of the document 'b' must be a string, got None"),
        ('{"_id": "b", "text": "x", "title": 3}', ":2: 'title' of the document 'b' must be a string, got 3"),
        ('{"_id": "", "text": "x"}', ":2: '_id' must be a string or an integer, got ''"),
        ('{"_id": true, "text": "x"}', ":2: '_id' must be a string or an integer, got True"),
        ('{"_id": "a", "text": "x"}', ":2: the id 'a' is that of line 1 too"),
        ('{"_id": "b", "text": "x", "y": {"z": [9223372036854775808]}}', ":2: 'y' of the document 'b' holds a number"),
        ('{"_id": "b", "text": "x", "y": 1e400}', r":2: cannot be read as JSON \(1e400 is more than"),
        ('{"_id": "b", "text": "x", "vector": [1]}', ":2: the key 'vector' is taken"),
        ('{"_id": "b", "id": "c", "text": "x"}', ":2: the key 'id' is taken"),
        ('{"_id": "b\\u0000", "text": "x"}', r":2: '_id' holds a control character, got 'b\\x00'; take it out"),
        ('{"id": "b\\fc", "text": "x"}', ":2: 'id' holds a control character"),
        (json.dumps({"_id": "b" * 513, "text": "x"}), ":2: '_id' has over 512 bytes"),
        (
            json.dumps({"_id": "b", "text": "é" * 32768}),
            ":2: title and text of the document 'b' have 65536 bytes, more than the 65535",
        ),
        (b'{"_id": "b", "text": "\xff"}', ":2: is not UTF-8 text: invalid start byte at byte 22"),
    ],
)
def test_a_bad_line_is_told_with_file_and_line(tmp_path, line, told):
    path = tmp_path / "corpus.jsonl"
    path.write_bytes(b'{"_id": "a", "text": "x"}\n' + (line if isinstance(line, bytes) else line.encode()) + b"\n")
    with pytest.raises(InputError, match=r"corpus\.jsonl" + told):
        list(read_passages(path))


def test_the_longest_text_that_fits_is_stored_whole(client, embedder):
    text = "é" * 32767 + "x"
    report = index_passages(client, "long", [Passage("a", "", text)], embedder)
    assert report.total == 1
    assert stored(client, "long", ["text"])["a"]["text"] == text


def test_a_source_that_is_no_corpus_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"has no corpus\.jsonl"):
        corpus_file(tmp_path)
    with pytest.raises(InputError, match="there is no file or folder"):
        corpus_file(tmp_path / "none")
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(InputError, match="pipe is a pipe or a device; it is read twice, so save it as a file"):
        corpus_file(tmp_path / "pipe")


def test_indexing_stores_texts_fields_and_unit_vectors(client, small, passages, embedder):
    rows = stored(client, "small", ["title", "text", "vector", "$meta"])
    assert {name: row["year"] for name, row in rows.items()} == {one["_id"]: one["year"] for one in PASSAGES}
    assert rows["bug"]["text"] == "First bug a moth was found in the relay of a computer"
    assert rows["bug"]["title"] == "First bug"
    expected = embedder.encode_documents([passage.text for passage in passages])
    np.testing.assert_allclose([rows[passage.id]["vector"] for passage in passages], expected, atol=1e-6)


def test_a_second_run_embeds_and_writes_nothing(client, small, passages, embedder):
    counting = CountingEmbedder(embedder)
    report = index_passages(client, "small", passages, counting)
    assert (report.read, report.written, report.unchanged, report.total) == (5, 0, 5, 5)
    assert counting.texts == []


def test_only_what_changed_is_written_again_and_nothing_is_doubled(client, passages, embedder):
    index_passages(client, "changed", passages, embedder)
    changed = [*passages[:3], Passage("moon", "", "the moon is far", {"year": 1969}), passages[4]]
    counting = CountingEmbedder(embedder)
    report = index_passages(client, "changed", changed, counting, batch_size=2)
    assert (report.written, report.unchanged, report.total) == (1, 4, 5)
    assert counting.texts == ["the moon is far"]
    assert stored(client, "changed", ["text"])["moon"]["text"] == "the moon is far"


def test_a_key_that_was_added_or_removed_counts_as_a_change(client, embedder):
    index_passages(client, "keys", [Passage("a", "", "x", {"year": 1}), Passage("b", "", "y", {})], embedder)
    swapped = [Passage("a", "", "x", {}), Passage("b", "", "y", {"year": 1})]
    assert index_passages(client, "keys", swapped, embedder).written == 2
    assert stored(client, "keys", ["$meta"]) == {"a": {"id": "a"}, "b": {"id": "b", "year": 1}}


def test_any_id_and_any_json_value_comes_back_as_it_went_in_and_is_found_again(client, embedder):
    ids = ['a"b', "c\\d", "x'y", "n\nl", "t\tb", "日本", "{x}", "a%b", "🙂", " space "]
    values = {
        "none": None,
        "nested": {"a": [1, {"b": None}]},
        "flag": True,
        "list": [],
        "tiny": 1e-7,
        "least": -(2**63),
        "ü key": "v",
    }
    odd = [Passage(name, "", "same text", values) for name in ids]
    assert index_passages(client, "odd", odd, embedder).written == 10
    assert index_passages(client, "odd", odd, embedder).unchanged == 10
    assert stored(client, "odd", ["title", "text", "$meta"]) == {
        name: {**values, "id": name, "title": "", "text": "same text"} for name in ids
    }


def test_a_run_that_failed_goes_on_where_it_stopped(client, passages, embedder):
    with pytest.raises(InputError, match="enough"):
        index_passages(client, "resumed", passages, CountingEmbedder(embedder, fail_after=4), batch_size=2)
    done = []
    report = index_passages(client, "resumed", passages, embedder, batch_size=2, progress=done.append)
    assert (report.written, report.unchanged, report.total) == (1, 4, 5)
    assert done == [2, 2, 1]


@pytest.mark.needs("milvus_lite")
def test_a_process_killed_between_batches_leaves_whole_batches_and_the_next_run_completes(tmp_path, embedder):
    folder = write_jsonl(tmp_path / "many.jsonl", [{"_id": f"d{i}", "text": f"unix number {i}"} for i in range(100)])
    script = """
import os, signal, sys
from pathlib import Path
from milvus_rerank.embedding import StaticEmbedder
from milvus_rerank.indexing import index_passages, open_client, read_passages
class Dying(StaticEmbedder):
    texts = 0
    def encode_documents(self, documents):
        self.texts += len(documents)
        if self.texts > 60:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().encode_documents(documents)
with open_client(sys.argv[1]) as client:
    index_passages(client, "many", read_passages(Path(sys.argv[2])), Dying(sys.argv[3]), batch_size=20)
"""
    command = [sys.executable, "-c", script, str(tmp_path / "k.db"), str(folder), embedder.model_name]
    assert subprocess.run(command, timeout=60, capture_output=True).returncode == -9
    with open_client(str(tmp_path / "k.db")) as client:
        report = index_passages(client, "many", read_passages(folder), embedder, batch_size=7)
        assert (report.written, report.unchanged, report.total) == (40, 60, 100)
        assert stored(client, "many", ["text"])["d99"]["text"] == "unix number 99"


def test_a_collection_whose_making_was_killed_before_its_indexes_is_completed(client, passages, embedder):
    create(client, "half", embedder, 10.0)
    assert client.list_indexes("half") == []
    assert index_passages(client, "half", passages, embedder).total == 5
    assert sorted(client.list_indexes("half")) == ["sparse", "vector"]


def test_another_embedder_is_refused_even_with_as_many_dimensions(client, small, passages, tmp_path):
    other = StaticEmbedder(str(save_embedder(tmp_path / "other", passage_texts(), seed=1)))
    with pytest.raises(InputError, match=r"'small' was indexed with .* sha256:\w{12}, this one is .*other"):
        index_passages(client, "small", passages, other)
    with pytest.raises(InputError, match="their vectors cannot be compared"):
        open_search(client, small, reranker=LexicalRerankFunction(), embedder=other)
    larger = StaticEmbedder(str(save_embedder(tmp_path / "larger", passage_texts(), dim=33)))
    with pytest.raises(InputError, match=r"has 32 dimensions, but the embedder .* makes 33"):
        open_search(client, small, reranker=LexicalRerankFunction(), embedder=larger)


def test_the_embedder_is_known_by_its_weights_not_by_where_they_lie(embedder, tmp_path, small):
    same = StaticEmbedder(str(save_embedder(tmp_path / "same", passage_texts())))
    assert fingerprint(same).split()[-1] == fingerprint(embedder).split()[-1] == small.embedder.split()[-1]
    assert small.embedder.startswith(embedder.model_name)


def test_a_collection_made_in_another_way_is_not_written_to_but_can_be_searched(client, passages, embedder):
    make_docs(client, "docs")
    with pytest.raises(InputError, match="'docs' was not made by milvus-rerank index"):
        index_passages(client, "docs", passages, embedder)
    info = describe(client, "docs")
    assert (info.primary, info.dense, info.bm25, info.embedder) == ("pk", {"dense": 4}, "sparse", None)
    load(client, info)
    answer = open_search(client, info, mode="bm25")("milvus", output_fields=["pk"], candidates=10)
    assert {result.id for result in answer} == {"d2", "d4", "d5"}


@pytest.mark.parametrize("mode", ["dense", "bm25", "hybrid"])
def test_each_mode_finds_and_reranks(client, small, embedder, mode):
    search = open_search(client, small, mode=mode, reranker=LexicalRerankFunction(), embedder=embedder)
    answer = search("programming language for unix", top_k=2, candidates=5, output_fields=list(small.fields))
    assert [(result.id, result.score) for result in answer] == [("c", 1.0), ("python", 0.5)]
    assert answer[0].entity["year"] == 1972


def test_a_search_without_a_reranker_keeps_the_first_stage_and_says_so(client, small, embedder):
    search = open_search(client, small, embedder=embedder)
    answer = without_scores(search("people on the moon", top_k=3, candidates=5))
    assert [result.index for result in answer] == [0, 1, 2]
    assert {result.score for result in answer} == {None}
    assert answer[0].id == "moon"
    assert answer.reranked is False
    assert answer[0].distance > answer[1].distance > answer[2].distance


def test_a_search_that_the_collection_has_no_field_for_is_refused(client, small, embedder):
    client.create_collection("plain", dimension=32, id_type="string", max_length=64)
    plain = describe(client, "plain")
    with pytest.raises(InputError, match=r"'plain' has no BM25 field .* --mode dense"):
        open_search(client, plain, mode="hybrid", embedder=embedder)
    with pytest.raises(InputError, match="the mode 'dense' needs an embedder"):
        open_search(client, small)
    with pytest.raises(InputError, match="mode must be one of 'dense', 'bm25', 'hybrid', got 'sparse'"):
        open_search(client, small, mode="sparse", embedder=embedder)


def test_unknown_collections_are_told_with_those_there_are(tmp_path, embedder):
    with open_client(str(tmp_path / "a.db")) as client:
        with pytest.raises(InputError, match="there is no collection 'nope'; there are: none"):
            describe(client, "nope")
        create(client, "one", embedder, 10.0)
        assert only_collection(client) == "one"
        create(client, "two", embedder, 10.0)
        with pytest.raises(InputError, match="choose a collection with --collection; there are: one, two"):
            only_collection(client)


def test_the_embedder_is_written_into_the_collection(client, small, embedder):
    assert client.describe_collection("small")["properties"] == {EMBEDDER_KEY: fingerprint(embedder)}


@pytest.mark.parametrize(
    ("version", "expected"),
    [("v2.3.5", False), ("2.4.23", False), ("v2.5.0", True), ("v2.6.20-dev", True), ("v3.0.2", True),
     ("milvus_lite-3.2.2", True), ("2.5.1-lite", False), ("unknown", False)],
)  # fmt: skip
def test_bm25_is_there_from_these_versions_on(version, expected):
    class Server:
        def get_server_version(self, timeout):
            return version

    assert has_bm25(Server()) is expected


class FailingClient:
    """Forwards to a client; its upsert fails as Milvus does."""

    def __init__(self, inner) -> None:
        self.inner = inner

    def __getattr__(self, name: str):
        return getattr(self.inner, name)

    def upsert(self, *arguments, **options):
        raise MilvusException(message="out of disk.")


def test_rows_that_lose_a_key_are_not_deleted_before_their_successors_are_embedded(client, embedder):
    index_passages(client, "shrunk", [Passage("a", "", "x", {"year": 1})], embedder)
    with pytest.raises(InputError, match="enough"):
        index_passages(client, "shrunk", [Passage("a", "", "x")], CountingEmbedder(embedder, fail_after=0))
    assert stored(client, "shrunk", ["$meta"]) == {"a": {"id": "a", "year": 1}}


def test_a_failed_write_says_how_to_complete_it_and_that_completes_it(client, embedder):
    index_passages(client, "torn", [Passage("a", "", "x", {"year": 1})], embedder)
    advice = (
        r"could not store passages in 'torn': out of disk\. Index the same source again: that writes what is missing"
    )
    with pytest.raises(SearchError, match=advice):
        index_passages(FailingClient(client), "torn", [Passage("a", "", "x")], embedder)
    assert index_passages(client, "torn", [Passage("a", "", "x")], embedder).written == 1
    assert stored(client, "torn", ["$meta"]) == {"a": {"id": "a"}}


def test_an_error_of_the_embedder_is_not_told_as_one_of_milvus(client, embedder):
    broken = CountingEmbedder(embedder)
    broken.encode_documents = lambda texts: int("no number")
    with pytest.raises(ValueError, match="invalid literal") as raised:
        index_passages(client, "broken", [Passage("a", "", "x")], broken)
    assert type(raised.value) is ValueError


def test_a_file_where_milvus_lite_wants_a_folder_is_told_with_what_to_do(tmp_path):
    (tmp_path / "old.db").write_bytes(b"SQLite format 3\0")
    with (
        pytest.raises(InputError, match=r"old\.db is a file, but Milvus Lite 3 keeps its data in a folder"),
        open_client(str(tmp_path / "old.db")),
    ):
        pass


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (lambda folder: (folder / "model.safetensors").write_bytes(b"\x10"), "header too small"),
        (
            lambda folder: (folder / "tokenizer.json").unlink(),
            "Could not find expected model files|Tokenizer file does not exist",
        ),
        (lambda folder: (folder / "tokenizer.json").write_text('{"model":'), "EOF while parsing"),
        (lambda folder: (folder / "config.json").write_text("[]"), "must hold a JSON object, got list"),
    ],
)
def test_a_damaged_embedder_is_told_with_its_folder(tmp_path, damage, told):
    folder = save_embedder(tmp_path / "damaged", ["a"])
    damage(folder)
    with pytest.raises(
        ModelError, match=rf"embedder '.*damaged' cannot be read \(.*(?:{told}).*\); expected a folder in"
    ):
        StaticEmbedder(str(folder))


def test_a_reranker_is_no_embedder():
    with pytest.raises(ModelError, match=r"embedder 'builtin/rerank' cannot be read \(.* embeddings\); expected"):
        StaticEmbedder("builtin/rerank")


@pytest.mark.parametrize(
    ("uri", "told"),
    [
        ("milvus", r"uri must be a Milvus Lite path that ends in \.db, or a server"),
        ("", r"uri must be a Milvus Lite path"),
        ("none/x.db", "there is no folder none to put x.db in"),
    ],
)
def test_a_uri_of_another_form_is_refused(tmp_path, monkeypatch, uri, told):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=told), open_client(uri):
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_search_does_not_make_a_file_that_is_not_there(tmp_path):
    with (
        pytest.raises(InputError, match=r"there is no Milvus Lite file .*x\.db; make it with: milvus-rerank index"),
        open_client(str(tmp_path / "x.db"), must_exist=True),
    ):
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_another_process_has_open_is_told_as_that(tmp_path):
    (tmp_path / "x.db").mkdir()
    with (tmp_path / "x.db" / "LOCK").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with (
            pytest.raises(SearchError, match="another process has it open, and a Milvus Lite file serves one"),
            open_client(str(tmp_path / "x.db")),
        ):
            pass


def test_a_server_that_is_not_there_is_told_within_the_timeout():
    with (
        pytest.raises(SearchError, match=r"Milvus at http://127\.0\.0\.1:9 cannot be opened: .*Is the server running"),
        open_client("http://127.0.0.1:9", timeout=0.5),
    ):
        pass
