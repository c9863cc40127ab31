"""The config file: what is read, what is refused, and what is written."""

from pathlib import Path

import pytest

from milvus_rerank.config import Config, MilvusTable, RerankerTable, SearchTable, read_config
from milvus_rerank.errors import InputError, WriteError

TEXT = """\
# of the test
[milvus]
uri = "./a.db"          # beside it
timeout = 5

[collection]
name = "docs"
text_field = ["title", "text"]

[reranker]
name = "tei"

[reranker.options]
api_url = "http://localhost:8080"

[search]
candidates = 80
threshold = 1
"""


def test_a_file_is_read_into_typed_tables(tmp_path: Path) -> None:
    file = tmp_path / "c.toml"
    file.write_text(TEXT, "utf-8-sig")
    config = read_config(file)
    assert config.milvus == MilvusTable(uri="./a.db", timeout=5.0)
    assert config.collection.text_field == ["title", "text"]
    assert config.reranker.to_options() == {"api_url": "http://localhost:8080"}
    assert (config.search.candidates, config.search.threshold, config.search.top_k) == (80, 1.0, None)
    assert read_config(config) is config
    assert read_config(config.to_dict()) == config


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("[serach]\ntop_k = 1", "there is no table [serach]; did you mean [search]?"),
        ("[foo]", "there is no table [foo]; the tables are [milvus], [collection], [embedder], [reranker], [search]"),
        ("top_k = 1", "'top_k' belongs in [search]"),
        ("search = 3", "[search]: expected a table, got int: 3"),
        ("[search]\ncandidate = 3", "[search] has no key 'candidate'; did you mean 'candidates'?"),
        ("[milvus]\ntop_k = 3", "[milvus] has no key 'top_k'; it belongs in [search]"),
        ("[milvus]\nzz = 3", "[milvus] has no key 'zz'; its keys are uri, token_env, db_name, timeout"),
        ('[search]\ncandidates = "3"', "[search] candidates: expected an integer, got str: '3'"),
        ("[search]\ntop_k = true", "[search] top_k: expected an integer, got bool: True"),
        ("[search]\ncandidates = 20000", "[search] candidates: expected at most 16384, got int: 20000"),
        ("[search]\ncandidates = 5\ntop_k = 6", "[search]: candidates=5 is less than top_k=6"),
        ("[search]\nthreshold = nan", "[search] threshold: expected a finite number, got float: nan"),
        ("[search]\noutput_fields = ['a', 1]", "[search] output_fields: expected a list of strings, got int: 1"),
        ("[collection]\ntext_field = 3", "[collection] text_field: expected a string or a list of strings, got int: 3"),
        ("[collection]\nmode = 'dens'", "[collection] mode: expected 'dense', 'bm25' or 'hybrid', got str: 'dens'"),
        ("[reranker]\nengine = 'onxx'", "[reranker] engine: expected 'auto', 'torch', 'onnx' or 'openvino', got str"),
        ("[reranker]\noptions = 3", "[reranker] options: expected a table, got int: 3"),
        ("[reranker.options]\nengine = 'onnx'", "[reranker] options: 'engine' belongs in [reranker]"),
        ("[reranker.options]\nmodel_name = 'a'", "[reranker] options: 'model_name' belongs in [reranker], as model"),
        (
            "[reranker.options]\napi_key = 'a'",
            "[reranker] options: 'api_key' is a secret, which belongs in the environ",
        ),
        ("[milvus]\ntoken = 'a'", "[milvus] has no key 'token'; secrets stay in the environment: name the variable,"),
        ("[milvus]\nuri = 'http://a:b@c'", "[milvus] uri: an address holds no password; set MILVUS_TOKEN in the env"),
        ("[milvus]\ntoken_env = 'a b'", "[milvus] token_env: expected the name of an environment variable, got str"),
    ],
)
def test_what_cannot_be_meant_names_the_file_and_the_key(tmp_path: Path, text: str, problem: str) -> None:
    file = tmp_path / "c.toml"
    file.write_text(text, "utf-8")
    with pytest.raises(InputError) as raised:
        read_config(file)
    assert str(raised.value).startswith(f"{file}: {problem}")


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (b"[search]\ntop_k =", "c.toml is not TOML: .* line 2"),
        (b"[search]\ntop_k = 1\ntop_k = 2", "c.toml is not TOML: .*top_k"),
        (b"\xff\xfe", "c.toml cannot be read: .*utf-8"),
        (None, "c.toml does not exist"),
    ],
)
def test_a_file_that_cannot_be_read_is_named(tmp_path: Path, data: bytes | None, problem: str) -> None:
    if data is not None:
        (tmp_path / "c.toml").write_bytes(data)
    with pytest.raises(InputError, match=problem):
        read_config(str(tmp_path / "c.toml"))


def test_a_value_that_is_no_config_is_refused() -> None:
    with pytest.raises(
        InputError, match="config must be a path of a TOML file, or a mapping of its tables, got int: 3"
    ):
        read_config(3)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="config: there is no table"):
        read_config({"serach": {}})


def test_writing_changes_keys_and_keeps_comments(tmp_path: Path) -> None:
    file = tmp_path / "c.toml"
    file.write_text(TEXT, "utf-8")
    config = read_config(file)
    search = config.search.model_copy(update={"candidates": 120, "threshold": None, "filter": 'a == "\x7f\\"'})
    changed = config.model_copy(update={"search": search, "reranker": RerankerTable(options={"a": {"b": [1, True]}})})
    changed.write(file)
    assert read_config(file) == changed
    expected = TEXT.replace("80", "120").replace("threshold = 1\n", "").partition("[reranker]")[0]
    assert file.read_text("utf-8").startswith(expected)
    changed.write(tmp_path / "new.toml")
    assert read_config(tmp_path / "new.toml") == changed
    assert sorted(path.name for path in tmp_path.iterdir()) == ["c.toml", "new.toml"]


def test_a_broken_file_is_not_overwritten(tmp_path: Path) -> None:
    file = tmp_path / "c.toml"
    file.write_text("= 3", "utf-8")
    with pytest.raises(InputError, match="is not TOML"):
        Config(search=SearchTable(top_k=3)).write(file)
    assert file.read_text("utf-8") == "= 3"
    with pytest.raises(WriteError, match="absent"):
        Config().write(tmp_path / "absent" / "c.toml")


def test_secrets_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MILVUS_TOKEN", raising=False)
    config = read_config({"milvus": {"token_env": "MY_TOKEN"}, "reranker": {"api_key_env": "MY_KEY"}})
    with pytest.raises(
        InputError, match=r"\[milvus\] token_env .* the environment variable MY_TOKEN, which is not set"
    ):
        config.milvus.token()
    with pytest.raises(InputError, match=r"\[reranker\] api_key_env .* MY_KEY, which is not set"):
        config.reranker.to_options()
    monkeypatch.setenv("MY_TOKEN", "me:secret")
    monkeypatch.setenv("MY_KEY", "sk-1")
    assert config.milvus.token() == "me:secret"
    assert config.reranker.to_options() == {"api_key": "sk-1"}
    monkeypatch.setenv("MILVUS_TOKEN", "root:other")
    assert config.milvus.token() == "root:other"
    assert MilvusTable().token() == "root:other"
