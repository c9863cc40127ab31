"""The commands in this process: what they print, where, and how they end."""

import io
import json
import logging
import sys
from pathlib import Path

import pytest
from tiny_embedder import PASSAGES, passage_texts, save_embedder, write_beir, write_jsonl

from milvus_rerank.cli import main
from milvus_rerank.cli.demo_report import pick
from milvus_rerank.cli.options import collection_name
from milvus_rerank.evaluation import ComparisonReport, QueryReport, demo_folder, load_judged, ndcg
from milvus_rerank.models.catalogue import all_cards
from milvus_rerank.search import Timings

pytestmark = pytest.mark.compat

LOGGERS = ("milvus_rerank", "pymilvus", "milvus_lite", "grpc", "model2vec")


@pytest.fixture
def cli(monkeypatch, capsys, tmp_path):
    """Runs a command in an empty folder; returns exit code, stdout and stderr."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "100")
    loggers = [logging.getLogger(name) for name in LOGGERS]
    kept = [(logger.level, logger.propagate, list(logger.handlers)) for logger in loggers]

    def run(*arguments: object, stdin: str | bytes = "") -> tuple[int, str, str]:
        data = stdin if isinstance(stdin, bytes) else stdin.encode()
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))
        monkeypatch.setattr(sys, "argv", ["milvus-rerank", *map(str, arguments)])
        code = 0
        try:
            main()
        except SystemExit as end:
            code = end.code or 0
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    yield run
    for logger, (level, propagate, handlers) in zip(loggers, kept, strict=True):
        logger.level, logger.propagate, logger.handlers = level, propagate, handlers


@pytest.fixture(scope="module")
def embedder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_embedder(tmp_path_factory.mktemp("embedder"), passage_texts())


@pytest.fixture(scope="module")
def beir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_beir(tmp_path_factory.mktemp("data") / "small")


@pytest.fixture
def indexed(cli, beir, embedder):
    """The command line after the small collection was indexed into ./milvus.db."""
    pytest.importorskip("milvus_lite")
    assert cli("index", beir, "--embedder", embedder)[0] == 0
    return cli


# rerank


def test_rerank_takes_texts_as_arguments_and_prints_a_table(cli):
    code, out, err = cli("rerank", "red apple", "green pear", "red apple", "red", "--reranker", "lexical")
    assert (code, err) == (0, "")
    assert [line.split() for line in out.splitlines()] == [
        ["#", "score", "was", "text"],
        ["1", "1.0000", "2", "red", "apple"],
        ["2", "0.5000", "3", "red"],
        ["3", "0.0000", "1", "green", "pear"],
    ]


def test_rerank_json_is_one_document_with_everything_of_the_results(cli):
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


def test_rerank_reads_lines_from_stdin_and_from_a_file_alike(cli, tmp_path):
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


def test_rerank_jsonl_keeps_each_objects_keys_and_loses_none_to_its_own(cli):
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


def test_rerank_jsonl_renames_an_input_key_until_the_name_is_free(cli):
    record = {"text": "a", "rank": 1, "input_rank": 7, "input_score": 8, "score": None, "input_input_rank": 9}
    out = cli("rerank", "a", "--reranker", "lexical", "--jsonl", stdin=json.dumps(record))[1]
    assert json.loads(out) == {
        "rank": 1, "index": 0, "score": 1.0, "text": "a", "input_input_input_rank": 1, "input_rank": 7,
        "input_input_rank": 9, "input_score": 8, "input_input_score": None,
    }  # fmt: skip


def test_rerank_takes_a_line_that_looks_like_json_as_text_if_told_so(cli):
    command = ("rerank", "a", "--reranker", "lexical", "--input", "text", "--jsonl")
    assert json.loads(cli(*command, stdin='{"text": "a"}')[1])["text"] == '{"text": "a"}'


def test_rerank_without_documents_returns_none(cli):
    code, out, _ = cli("rerank", "a", "--reranker", "lexical", "--json", stdin="")
    assert (code, json.loads(out)["results"]) == (0, [])


def test_rerank_scores_with_the_model_it_is_given(cli, tiny):
    from milvus_rerank import CrossEncoderRerankFunction

    texts = ["a b c", "vector search", "lazy dog"]
    code, out, err = cli("rerank", "search", *texts, "--model", tiny["bert"], "--device", "cpu", "--json")
    assert (code, err) == (0, "")
    expected = CrossEncoderRerankFunction(str(tiny["bert"]), device="cpu").score("search", texts)
    assert {one["text"]: one["score"] for one in json.loads(out)["results"]} == pytest.approx(
        dict(zip(texts, expected, strict=True)), abs=1e-6
    )


def test_rerank_says_what_a_reranker_made_of_an_option(cli, tiny):
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
def test_rerank_tells_the_line_that_it_cannot_read(cli, stdin, told):
    code, out, err = cli("rerank", "q", "--reranker", "lexical", stdin=stdin)
    assert (code, out) == (1, "")
    assert err.startswith("error: " + told)


# mistakes

DEMO = pytest.mark.needs("ir_measures", "milvus_lite")
SERVER = pytest.mark.needs("fastapi", "prometheus_client", "uvicorn", "milvus_lite")


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (("rerank",), 2, "Missing argument"),
        (("rerank", "q", "a", "--file", "x"), 2, "not both"),
        (("rerank", "q", "a", "--json", "--jsonl"), 2, "choose one of --json and --jsonl"),
        (("rerank", "q", "a", "--top-k", "-1"), 2, "--top-k"),
        (("rerank", "q", "a", "--reranker", "lexical", "--model", "m"), 2, "'lexical' has no such option"),
        (("rerank", "q", "\udcff"), 2, "this is not UTF-8 text"),
        (("nonsense",), 2, "No such command 'nonsense'"),
        (("index",), 2, "Missing argument"),
        (("index", "x", "--timeout", "inf"), 2, "--timeout"),
        (("index", "x", "--timeout", "86401"), 2, "86400"),
        (("search", "q", "--timeout", "nan"), 2, "--timeout"),
        pytest.param(
            ("demo", "--embedder", "builtin/rerank"), 1, "error: embedder 'builtin/rerank' cannot be read", marks=DEMO
        ),
        (("rerank", "q", "--file", "none.txt"), 1, "error: none.txt cannot be read: No such file or directory"),
        (("rerank", "q", "a", "--reranker", "lexica"), 1, "error: no reranker is named 'lexica'; there are: "),
        (("rerank", "q", "a", "--model", "builtin/none"), 1, "error: no built-in model 'builtin/none'; there are: "),
        (("rerank", "q", "a", "--model", "./none"), 1, "error: model_name './none' looks like a path"),
        (("rerank", "q", "a", "--device", "tpu"), 1, "error: "),
        (("index", "none.jsonl"), 1, "error: there is no file or folder none.jsonl"),
        (("search", "q"), 1, "error: there is no Milvus Lite file ./milvus.db; make it with: milvus-rerank index"),
        (("search", "q", "--uri", "x"), 1, "error: uri must be a Milvus Lite path that ends in .db, or a server"),
        (("search", "q", "--uri", "http://127.0.0.1:9", "--timeout", "0.5"), 1, "Is the server running"),
        pytest.param(("demo", "--model", "builtin/none"), 1, "error: no built-in model 'builtin/none'", marks=DEMO),
        pytest.param(
            ("demo", "--embedder", "org/none"),
            1,
            "error: embedder 'org/none' must be 'builtin/embed' or a local folder",
            marks=DEMO,
        ),
    ],
)
def test_a_mistake_ends_with_its_code_and_one_message_and_no_traceback(cli, arguments, code, told):
    ended, out, err = cli(*arguments)
    assert (ended, out) == (code, "")
    assert told in " ".join(err.replace("│", " ").split())
    assert "Traceback" not in err


@pytest.mark.parametrize(
    ("package", "extra", "command"),
    [
        ("model2vec", "", ("index", "corpus.jsonl")),
        ("milvus_lite", "lite", ("index", "corpus.jsonl")),
        ("pymilvus", "", ("index", "corpus.jsonl", "--uri", "http://127.0.0.1:9")),
        pytest.param("ir_measures", "eval", ("demo",), marks=DEMO),
        pytest.param("milvus_lite", "lite", ("serve", "--milvus-uri", "milvus.db"), marks=SERVER),
        pytest.param("structlog", "server", ("serve",), marks=SERVER),
    ],
)
def test_a_missing_package_is_an_error_with_what_to_type(cli, embedder, tmp_path, package, extra, command):
    write_jsonl(tmp_path / "corpus.jsonl", PASSAGES)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, package, None)  # what Python itself does for a package that cannot be imported
        code, out, err = cli(*command, "--embedder", embedder)
    assert (code, out) == (1, "")
    assert len(err.splitlines()) == 1
    assert f"needs the package '{package.replace('_', '-')}', which is not installed." in err
    command = f'pip install "milvus-rerank[{extra}]"' if extra else "pip install milvus-rerank"
    assert err.endswith(f"Type: {command}\n")


# index and search


def test_index_then_search_prints_ids_scores_and_fields(indexed, embedder):
    arguments = ("--embedder", embedder, "--reranker", "lexical", "-k", 2, "--json")
    code, out, err = indexed("search", "programming language for unix", *arguments)
    assert (code, err) == (0, "")
    answer = json.loads(out)
    assert (answer["collection"], answer["mode"], answer["reranked"]) == ("small", "dense", True)
    first = answer["results"][0]
    assert (first["rank"], first["id"], first["score"]) == (1, "c", 1.0)
    text = "C a programming language written for Unix"
    assert first["entity"] == {"id": "c", "title": "C", "text": text, "year": 1972}
    assert len(answer["results"]) == 2
    assert set(answer["timings"]) == {"embed", "search", "rerank"}


def test_index_twice_says_that_nothing_was_written(indexed, beir, embedder):
    code, out, err = indexed("index", beir, "--embedder", embedder)
    assert (code, err) == (0, "")
    assert out == "small: 5 passages read, 0 written, 5 there already; the collection holds 5 (./milvus.db)\n"
    report = json.loads(indexed("index", beir, "--embedder", embedder, "--json")[1])
    assert report == {
        "uri": "./milvus.db", "collection": "small", "embedder": str(embedder), "bm25": True,
        "read": 5, "written": 0, "unchanged": 5, "total": 5,
    }  # fmt: skip


def test_index_tells_a_bad_line_before_it_writes_anything(cli, embedder, tmp_path):
    write_jsonl(tmp_path / "bad.jsonl", [*PASSAGES, {"_id": "x"}])
    code, out, err = cli("index", "bad.jsonl", "--embedder", embedder, "--batch-size", 1)
    assert (code, out) == (1, "")
    assert err == "error: bad.jsonl:6: the document 'x' has no 'text'; its keys are ['_id']\n"
    assert not (tmp_path / "milvus.db").exists()


@pytest.mark.parametrize("mode", ["dense", "bm25", "hybrid"])
def test_search_has_three_modes_and_takes_filters_and_fields(indexed, embedder, mode):
    arguments = ("--embedder", embedder, "--reranker", "lexical", "--mode", mode, "--json")
    code, out, _ = indexed(
        "search", "people on the moon", *arguments, "--filter", "year == 1969", "--output-fields", "year"
    )
    assert code == 0
    found = {one["id"]: one["entity"] for one in json.loads(out)["results"]}
    assert found["moon"] == {"text": "people walked on the moon", "year": 1969}
    assert set(found) <= {"moon", "unix"}


def test_search_without_reranking_has_no_scores(indexed, embedder):
    code, out, err = indexed("search", "moon", "--embedder", embedder, "--no-rerank", "-k", 2, "--json")
    answer = json.loads(out)
    assert (code, err, answer["reranked"], answer["error"]) == (0, "", False, None)
    first = answer["results"][0]
    assert (first["id"], first["score"], first["index"]) == ("moon", None, 0)
    out = indexed("search", "moon", "--embedder", embedder, "--no-rerank", "-k", 2)[1]
    assert out.splitlines()[0].split() == ["#", "distance", "id", "text", "and", "fields"]


def test_search_prints_a_table_and_the_times(indexed, embedder):
    code, out, err = indexed("search", "moon", "--embedder", embedder, "--reranker", "lexical", "-k", 1)
    assert code == 0
    lines = [line.split() for line in out.splitlines()]
    assert lines[0] == ["#", "score", "was", "distance", "id", "text", "and", "fields"]
    assert lines[1][:3] == ["1", "1.0000", "1"]
    assert lines[1][4:] == ["moon", "people", "walked", "on", "the", "moon"]
    assert lines[2] == ["year=1969"]
    assert [part.split()[0] for part in err.split(" · ")] == ["embed", "search", "rerank"]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("--collection", "none"), "there is no collection 'none'; there are: small"),
        (("--text-field", "body"), "'title', 'year']. Choose one with --text-field\n"),
        (("--text-field", "year"), "must hold a string, got int. Choose one with --text-field\n"),
        (("--filter", "year >"), "Milvus could not search 'small'"),
        (("--candidates", "20000"), "candidates must be at most 16384"),
    ],
)
def test_search_tells_what_it_cannot_do(indexed, embedder, arguments, told):
    code, out, err = indexed("search", "q", "--embedder", embedder, "--reranker", "lexical", *arguments)
    assert (code, out) == (1, "")
    assert told in err
    assert "Traceback" not in err


def test_search_refuses_an_embedder_that_did_not_make_the_vectors(indexed, tmp_path):
    save_embedder(tmp_path / "other", passage_texts(), seed=9)
    code, _, err = indexed("search", "q", "--embedder", "other", "--reranker", "lexical")
    assert code == 1
    assert "their vectors cannot be compared" in err


@pytest.mark.parametrize(
    ("source", "name"), [("scifact", "scifact"), ("my-docs.v2.jsonl", "my_docs_v2"), ("2024", "_2024"), ("日本", "__")]
)
def test_the_collection_is_named_after_its_source_in_letters_that_milvus_takes(tmp_path, source, name):
    path = tmp_path / source
    path.write_text("") if source.endswith("jsonl") else path.mkdir()
    assert collection_name(path) == name


# models


def test_models_lists_rerankers_and_packages(cli):
    code, out, err = cli("models", "--json")
    assert (code, err) == (0, "")
    found = json.loads(out)
    problems = {one["name"]: one["problem"] for one in found["rerankers"]}
    assert {name: problems[name] for name in ("bge", "cross-encoder", "lexical")} == {
        "bge": None, "cross-encoder": None, "lexical": None,
    }  # fmt: skip
    assert {one["name"]: one["install"] for one in found["packages"]}["torch"] == 'pip install "milvus-rerank[torch]"'
    out = cli("models")[1]
    assert out.endswith(f"\n{len(all_cards())} models are known: milvus-rerank models --known\n")
    assert "Rerankers (--reranker)\n" in out
    assert "\ncross-encoder  milvus-rerank 0.1.0  yes" in out


def test_models_prints_what_to_type_for_a_missing_package_whole(cli, monkeypatch):
    monkeypatch.setattr(sys, "path", [path for path in sys.path if "site-packages" not in path])
    out = cli("models")[1]
    assert [" ".join(line.split()) for line in out.splitlines() if line.startswith("milvus-lite")] == [
        'milvus-lite missing Milvus in a file pip install "milvus-rerank[lite]"'
    ]


def test_models_known_lists_every_card_within_80_columns(cli, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    code, out, err = cli("models", "--known")
    assert (code, err) == (0, "")
    assert max(map(len, out.splitlines())) <= 80
    lines = [line.split() for line in out.splitlines()]
    assert ["cross-encoder/ms-marco-MiniLM-L6-v2", "22.7M", "512", "en", "Apache-2.0"] in lines
    assert ["cross-encoder/ms-marco-electra-base", "?", "?", "en", "Apache-2.0"] in lines
    assert ["rerank-2-lite", "8000", "1000", "many", "Voyage"] in lines
    assert all(card.name[:40] in out for card in all_cards())


def test_models_prints_one_card_in_full(cli):
    code, out, err = cli("models", "Alibaba-NLP/GTE-multilingual-reranker-base")
    assert (code, err) == (0, "")
    lines = [line.rstrip() for line in out.splitlines()]
    for line in (
        "name        Alibaba-NLP/gte-multilingual-reranker-base",
        "family      cross-encoder (Cross-encoders)",
        "languages   multilingual",
        "parameters  306M",
        "tokens      8192 of query and document",
        "licence     Apache-2.0",
        "scores      0 to 1",
        'install     pip install "milvus-rerank[torch]"',
        'load        CrossEncoderRerankFunction("Alibaba-NLP/gte-multilingual-reranker-base", trust_remote_code=True)',
    ):
        assert line in lines
    assert [line for line in lines if line.startswith("source      https://huggingface.co/Alibaba-NLP/")]


def test_models_says_unknown_where_a_card_does_not_know(cli):
    out = cli("models", "cross-encoder/ms-marco-electra-base")[1]
    assert "parameters  unknown\n" in out
    assert "tokens      unknown\n" in out


def test_models_prints_a_services_limits_and_no_licence(cli):
    out = cli("models", "rerank-2.5")[1]
    assert "documents   1000 a request\n" in out
    assert 'load        VoyageRerankFunction("rerank-2.5")\n' in out
    assert "licence" not in out
    assert "parameters" not in out


def test_an_unknown_model_is_no_error_and_the_answer_says_how_to_load_it(cli):
    code, out, err = cli("models", "org/[mine]")
    assert (code, err) == (0, "")
    assert out.startswith("org/[mine] has no card. It works if it is a cross-encoder or says yes or no")
    assert 'CrossEncoderRerankFunction("org/[mine]")' in out
    code, out, err = cli("models", "org/[mine]", "--json")
    assert (code, err, json.loads(out)) == (0, "", {"name": "org/[mine]", "card": None})


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("",), "the name is empty; see: milvus-rerank models --known"),
        (("x", "--known"), "choose one of NAME, --load and --known"),
        (("--known", "--load"), "choose one of NAME, --load and --known"),
    ],
)
def test_wrong_usage_of_models_is_told(cli, arguments, told):
    code, out, err = cli("models", *arguments)
    assert (code, out) == (2, "")
    assert told in " ".join(err.replace("│", " ").split())


def test_json_holds_the_cards_whole(cli):
    code, out, err = cli("models", "--json")
    assert (code, err) == (0, "")
    found = json.loads(out)
    assert set(found) == {"rerankers", "models", "packages", "known"}
    assert {"known": found["known"]} == json.loads(cli("models", "--known", "--json")[1])
    assert len(found["known"]) == len(all_cards())
    one = json.loads(cli("models", "cross-encoder/ms-marco-MiniLM-L-6-v2", "--json")[1])
    assert one["name"] == "cross-encoder/ms-marco-MiniLM-L-6-v2"
    assert one["card"] in found["known"]
    assert one["card"] | {"source": None} == {
        "name": "cross-encoder/ms-marco-MiniLM-L6-v2", "family": "cross-encoder",
        "function": "CrossEncoderRerankFunction", "options": {}, "extra": "", "languages": ["en"],
        "parameters": 22713601, "max_length": 512, "max_documents": None, "licence": "Apache-2.0", "scores": "logit",
        "note": None, "source": None, "aliases": [],
        "code": 'CrossEncoderRerankFunction("cross-encoder/ms-marco-MiniLM-L6-v2")',
        "install": "pip install milvus-rerank",
    }  # fmt: skip


# demo


def test_the_demo_prints_one_json_document_with_both_orders_of_every_query(cli, tiny, tmp_path):
    judged = load_judged(demo_folder())
    save_embedder(tmp_path / "embedder", (passage.text for passage in judged.passages))
    options = ("--embedder", "embedder", "--model", tiny["bert"], "--candidates", 5)
    code, out, err = cli("demo", *options, "--keep", "kept.db", "--json")
    assert (code, err) == (0, "")
    report = json.loads(out)
    assert len(report["queries"]) == 60
    assert all(sorted(query["before"]) == sorted(query["after"]) for query in report["queries"])
    for stage in ("before", "after"):
        figures = ndcg({query["id"]: query[stage] for query in report["queries"]}, judged.judgments)
        assert report[f"ndcg_{stage}"] == pytest.approx(sum(figures.values()) / 60)
    code, out, err = cli("demo", *options, "--keep", "kept.db", "--queries", 2)
    assert code == 0
    assert out.count("vector search") == 3  # above two queries, and beside one bar
    assert f"reranked       {'█' * round(report['ndcg_after'] * 40)}░" in out
    assert f"{report['ndcg_before']:.3f}" in out
    assert "kept.db" in err


def test_the_demo_shows_the_greatest_gains_and_the_greatest_loss_too():
    gains = {"a": 0.1, "b": 0.5, "c": -0.2, "d": 0.0, "e": -0.1}
    queries = tuple(QueryReport(name, name, (), 0.5, 0.5 + gain, Timings(0, 0, 0)) for name, gain in gains.items())
    assert [query.id for query in pick(ComparisonReport("c", 1, queries), 3)] == ["b", "a", "c"]
    assert [query.id for query in pick(ComparisonReport("c", 1, queries[:2]), 5)] == ["b", "a"]
    assert [query.id for query in pick(ComparisonReport("c", 1, (queries[0], queries[1], queries[3])), 2)] == ["b", "a"]
    assert pick(ComparisonReport("c", 1, queries), 0) == []
