"""The real ``milvus-rerank`` process: start-up, streams, signals, pipes, and a server beside it."""

import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from milvus_fixtures import lite_server
from present import present
from pymilvus import MilvusClient
from tiny_embedder import passage_texts, save_embedder, write_beir, write_jsonl

COMMAND = str(Path(sys.executable).with_name("milvus-rerank"))
TIMEOUT = 60


def run(
    *arguments: object, cwd: Path, stdin: str = "", env: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    command = [COMMAND, *map(str, arguments)]
    return subprocess.run(
        command,
        cwd=cwd,
        input=stdin,
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
        env={**os.environ, **(env or {})},
    )


@pytest.fixture(scope="module")
def embedder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_embedder(tmp_path_factory.mktemp("embedder"), passage_texts())


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with lite_server(tmp_path_factory.mktemp("server")) as (uri, _):
        yield uri


def test_help_is_quick_because_it_imports_nothing_heavy(tmp_path: Path) -> None:
    script = "import sys; sys.argv = ['milvus-rerank', '--help']\nfrom milvus_rerank.cli import main\nmain()"
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-c", script],
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
        cwd=tmp_path,
    )
    assert done.returncode == 0
    for name in ("demo", "rerank", "index", "search", "models"):
        assert f" {name} " in done.stdout
    imported = {line.rsplit("|", 1)[-1].strip() for line in done.stderr.splitlines()}
    assert "typer" in imported
    heavy = {"torch", "transformers", "pymilvus", "numpy", "model2vec", "ir_measures", "huggingface_hub"}
    assert imported & heavy == set()


@pytest.mark.parametrize(
    ("words", "completions"),
    [
        (["se"], ["search", "serve"]),
        (["search", "--eng"], ["--engine"]),
        (["search", "--engine", "o"], ["onnx", "openvino"]),
        (["rerank", "--reranker", "le"], ["lexical"]),
    ],
)
def test_the_shell_completes_commands_options_and_words(
    tmp_path: Path, words: list[str], completions: list[str]
) -> None:
    env = {
        "_MILVUS_RERANK_COMPLETE": "complete_bash",
        "COMP_WORDS": " ".join(["milvus-rerank", *words]),
        "COMP_CWORD": str(len(words)),
        "MILVUS_RERANK_CONFIG": "absent.toml",
    }
    done = run(cwd=tmp_path, env=env)
    assert (done.stdout.split(), done.stderr) == (completions, "")


def test_help_cuts_no_name_in_a_narrow_terminal(tmp_path: Path) -> None:
    done = run("search", "-h", cwd=tmp_path, env={"COLUMNS": "40"})
    assert done.returncode == 0
    assert {"--output-fields", "--vector-field", "--instruction"} <= set(done.stdout.split())


def test_version_and_help_answer_on_stdout(tmp_path: Path) -> None:
    done = run("--version", cwd=tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, "milvus-rerank 0.1.0\n", "")
    done = run("search", "-h", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert "--candidates" in done.stdout
    assert "builtin/rerank)" in done.stdout  # help texts are marked up: in brackets it would not be shown


@pytest.fixture(scope="module")
def indexed(tmp_path_factory: pytest.TempPathFactory, embedder: Path) -> Path:
    """A folder where the real command indexed the small collection into x.db."""
    pytest.importorskip("milvus_lite")
    folder = write_beir(tmp_path_factory.mktemp("data") / "docs").parent
    done = run("index", "docs", "--uri", "x.db", "--embedder", embedder, "--json", cwd=folder)
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout)["total"] == 5
    return folder


def test_index_and_search_on_a_file_print_json_alone_on_stdout_and_nothing_on_stderr(
    indexed: Path, embedder: Path
) -> None:
    arguments = ("--uri", "x.db", "--embedder", embedder, "--reranker", "lexical", "-k", 1, "--json")
    done = run("search", "people on the moon", *arguments, cwd=indexed)
    assert (done.returncode, done.stderr) == (0, "")
    assert [one["id"] for one in json.loads(done.stdout)["results"]] == ["moon"]


def test_a_mistake_goes_to_stderr_with_code_1_and_without_the_libraries_log_lines(
    indexed: Path, embedder: Path
) -> None:
    arguments = ("--uri", "x.db", "--embedder", embedder, "--reranker", "lexical", "--filter", "year >")
    done = run("search", "q", *arguments, cwd=indexed)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("error: Milvus could not search 'docs'")
    assert "RPC error" not in done.stderr
    assert "Traceback" not in done.stderr


def test_a_failure_that_is_nobodys_mistake_shows_where_it_happened(tmp_path: Path) -> None:
    (tmp_path / "broken.py").write_text("class Broken:\n    def score(self, query, texts):\n        return 1 / 0\n")
    done = run("rerank", "q", "a", "--reranker", "broken:Broken", cwd=tmp_path, env={"PYTHONPATH": str(tmp_path)})
    assert (done.returncode, done.stdout) == (1, "")
    assert "Traceback" in done.stderr
    assert "ZeroDivisionError" in done.stderr


def test_a_reader_that_leaves_is_no_error_to_tell(tmp_path: Path) -> None:
    for flag, lines in (("--jsonl", 50_000), ("--jsonl", 2), ("--json", 2)):
        texts = "\n".join(f"text {number}" for number in range(lines))
        script = f"'{COMMAND}' rerank text --reranker lexical {flag} | head -c 10"
        done = subprocess.run(["bash", "-c", script], input=texts, capture_output=True, text=True, timeout=TIMEOUT)
        assert (len(done.stdout), done.stderr) == (10, "")


@pytest.mark.parametrize(
    ("redirections", "code", "told"),
    [
        ("2>&1 >&-", 0, ""),
        ("2>&1 >/dev/full", 1, "error: [Errno 28] No space left on device\n"),
        ("--json 2>&1 >/dev/full", 1, "error: [Errno 28] No space left on device\n"),
    ],
)
def test_a_closed_or_full_stdout_is_no_traceback(redirections: str, code: int, told: str) -> None:
    script = f"'{COMMAND}' rerank a a --reranker lexical {redirections}"
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, timeout=TIMEOUT)
    assert (done.returncode, done.stdout, done.stderr) == (code, told, "")


def test_a_closed_stderr_keeps_no_command_from_its_work() -> None:
    done = subprocess.run(["bash", "-c", f"'{COMMAND}' models --json 2>&-"], capture_output=True, timeout=TIMEOUT)
    assert done.returncode == 0
    assert json.loads(done.stdout)["packages"]


def test_a_closed_stdin_is_told_as_missing_texts() -> None:
    script = f"'{COMMAND}' rerank a --reranker lexical <&-"
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, timeout=TIMEOUT)
    assert (done.returncode, done.stdout) == (2, "")
    assert "give texts as arguments, with --file, or on stdin" in " ".join(done.stderr.replace("│", " ").split())


@pytest.mark.parametrize(("encoding", "shown"), [("ascii", "??? ?t? a"), ("latin-1", "??? été a")])
def test_characters_that_stdout_lacks_are_question_marks(tmp_path: Path, encoding: str, shown: str) -> None:
    env = {**os.environ, "PYTHONIOENCODING": encoding}
    command = [COMMAND, "rerank", "a", "★日本 été a", "--reranker", "lexical"]
    done = subprocess.run(command, capture_output=True, timeout=TIMEOUT, env=env, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, b"")
    assert shown in done.stdout.decode(encoding)


@pytest.mark.needs("milvus_lite")
def test_why_milvus_lite_cannot_open_a_file_is_told(tmp_path: Path) -> None:
    (tmp_path / "x.db").mkdir()
    with (tmp_path / "x.db" / "LOCK").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        done = run("search", "q", "--uri", "x.db", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("error: Milvus at x.db cannot be opened: another process has it open")
    assert done.stderr.count("\n") == 1


def test_ctrl_c_ends_with_130_and_without_a_traceback(tmp_path: Path) -> None:
    command = [COMMAND, "rerank", "q", "--reranker", "lexical"]
    pipe = subprocess.PIPE

    def heed() -> None:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # whoever started the tests in the background had it ignored

    with subprocess.Popen(
        command, cwd=tmp_path, text=True, preexec_fn=heed, stdin=pipe, stdout=pipe, stderr=pipe
    ) as process:
        stdin = present(process.stdin)
        stdin.write("text\n" * 100_000)  # more than a pipe holds, so it is reading by now
        stdin.flush()
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=TIMEOUT)
    assert (process.returncode, out) == (130, "")
    assert "Traceback" not in err


def test_colours_are_for_terminals_and_not_where_no_color_is_set(tmp_path: Path) -> None:
    done = run("rerank", "a", "a", "--reranker", "lexical", cwd=tmp_path)
    assert "\x1b" not in done.stdout
    coloured = run("rerank", "a", "a", "--reranker", "lexical", cwd=tmp_path, env={"FORCE_COLOR": "1"})
    assert "\x1b[36m" in coloured.stdout
    plain = run("rerank", "a", "a", "--reranker", "lexical", cwd=tmp_path, env={"FORCE_COLOR": "1", "NO_COLOR": "1"})
    assert "\x1b[36m" not in plain.stdout


def test_a_killed_index_on_a_server_goes_on_where_it_stopped(tmp_path: Path, server: str, embedder: Path) -> None:
    count = 3000
    write_jsonl(tmp_path / "many.jsonl", ({"_id": f"d{i}", "text": f"unix number {i}"} for i in range(count)))
    arguments = ["index", "many.jsonl", "--uri", server, "--embedder", str(embedder), "--batch-size"]
    client = MilvusClient(server)
    try:
        with subprocess.Popen([COMMAND, *arguments, "10"], cwd=tmp_path, stdout=subprocess.PIPE) as process:
            deadline = time.monotonic() + TIMEOUT
            while time.monotonic() < deadline and not _count(client, "many"):
                time.sleep(0.02)
            process.kill()
        assert process.returncode == -signal.SIGKILL
        done = run(*arguments, 500, "--json", cwd=tmp_path)
        report = json.loads(done.stdout)
        assert (report["read"], report["total"]) == (count, count)
        assert 0 < report["unchanged"] < count
        assert report["written"] + report["unchanged"] == count
        ids = {row["id"] for row in client.query("many", filter="", output_fields=["id"], limit=count + 10)}
        assert ids == {f"d{i}" for i in range(count)}
    finally:
        client.close()


def test_index_and_search_work_on_a_server(tmp_path: Path, server: str, embedder: Path) -> None:
    write_beir(tmp_path / "docs")
    done = run("index", "docs", "--uri", server, "--embedder", embedder, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"docs: 5 passages read, 5 written, 0 there already; the collection holds 5 ({server})\n"
    arguments = ("--uri", server, "--collection", "docs", "--embedder", embedder, "--reranker", "lexical", "--json")
    done = run("search", "programming language for unix", *arguments, "--mode", "hybrid", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert [(one["id"], one["score"]) for one in json.loads(done.stdout)["results"]][:2] == [
        ("c", 1.0),
        ("python", 0.5),
    ]
    assert list(tmp_path.glob("*.db")) == []


def _count(client: MilvusClient, collection: str) -> int:
    if not client.has_collection(collection):
        return 0
    if client.get_load_state(collection)["state"].name != "Loaded":
        return 0
    return int(client.query(collection, filter="", output_fields=["count(*)"])[0]["count(*)"])
