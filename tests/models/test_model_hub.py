"""Models from a hub: the real client against a server on loopback."""

import json
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hub_server import Hub, files_of, serve
from pair_texts import QUERIES, TEXTS

from milvus_rerank import CrossEncoderRerankFunction
from milvus_rerank.engines.select import EngineName

NAME = "someone/tiny"
CODE = """
import json, sys
from milvus_rerank import CrossEncoderRerankFunction, HubOptions
from milvus_rerank.errors import RerankError
name, query, texts, options, hub = json.loads(sys.argv[1])
try:
    reranker = CrossEncoderRerankFunction(name, device="cpu", hub=HubOptions(**hub), **options)
    print(json.dumps([reranker.scorer.engine.name, reranker.score(query, texts)]))
except RerankError as error:
    print(json.dumps([type(error).__name__, str(error)]))
"""


@pytest.fixture
def hub(tiny: dict[str, Path]) -> Iterator[Hub]:
    files = files_of(tiny["bert"])
    others = {
        "README.md": b"# A model",
        "pytorch_model.bin": b"p" * 300_000,
        "tf_model.h5": b"h" * 300_000,
        "onnx/model.onnx": b"o" * 300_000,
        "onnx/model_O4.onnx": b"o" * 300_000,
        "openvino/openvino_model.xml": b"x" * 300_000,
        "openvino/openvino_model.bin": b"b" * 300_000,
    }
    with serve(Hub({NAME: {**files, **others}})) as started:
        yield started


def start(hub: Hub, home: Path, engine: str = "onnx", name: str = NAME, **options: Any) -> "subprocess.Popen[str]":
    revision = options.pop("revision", None)
    arguments = [name, QUERIES[0], TEXTS, {"engine": engine, **options}, {"revision": revision}]
    command = [sys.executable, "-c", CODE, json.dumps(arguments)]
    environment = hub.environment(home)
    pipe = subprocess.PIPE
    return subprocess.Popen(command, env=environment, stdout=pipe, stderr=pipe, text=True)


def finish(process: "subprocess.Popen[str]") -> tuple[str, Any, str]:
    """Return the engine with the scores, or the error's class with its message, and what stands on stderr."""
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    first, second = json.loads(out)
    return first, second, err


def run(hub: Hub, home: Path, engine: str = "onnx", name: str = NAME, **options: Any) -> tuple[str, Any, str]:
    return finish(start(hub, home, engine, name, **options))


@pytest.fixture(scope="module")
def expected(tiny: dict[str, Path]) -> list[float]:
    return CrossEncoderRerankFunction(str(tiny["bert"]), device="cpu", engine="onnx").score(QUERIES[0], TEXTS)


@pytest.mark.parametrize("engine", ["auto", "onnx", "openvino", "torch"])
def test_only_needed_files_are_downloaded(hub: Hub, tmp_path: Path, engine: EngineName, expected: list[float]) -> None:
    name, scores, err = run(hub, tmp_path, engine)
    np.testing.assert_allclose(scores, expected, atol=1e-5)
    assert (name, err) == ("openvino" if engine == "auto" else engine, "")
    files = hub.repositories[NAME]
    assert set(hub.sent) <= {"config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors"}
    assert hub.sent == {name: len(files[name]) for name in hub.sent}  # each of them once


def test_after_a_first_use_a_model_needs_no_hub(hub: Hub, tmp_path: Path, expected: list[float]) -> None:
    run(hub, tmp_path)
    sent = dict(hub.sent)
    np.testing.assert_allclose(run(hub, tmp_path)[1], expected, atol=1e-5)
    assert hub.sent == sent  # nothing is downloaded twice
    hub.address = "http://127.0.0.1:9"
    began = time.monotonic()
    for engine in ("onnx", "openvino", "torch"):
        np.testing.assert_allclose(run(hub, tmp_path, engine)[1], expected, atol=1e-5)
    assert time.monotonic() - began < 60  # the client's own retries alone took half a minute for each
    np.testing.assert_allclose(run(hub, tmp_path, local_files_only=True)[1], expected, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "options", "token", "words"),
    [
        ("someone/absent", {}, None, "the hub has no such model, or it is private: check the name, or set HF_TOKEN"),
        (NAME, {"revision": "v9"}, None, "in revision 'v9' .*: the hub has no such branch, tag or commit of it"),
        (NAME, {}, "secret", "it is gated: accept its terms on the hub, and set HF_TOKEN"),
        (NAME, {"local_files_only": True}, None, "local_files_only=True and it is not in the cache"),
    ],
)
def test_what_the_hub_refuses_is_one_line(
    hub: Hub, tmp_path: Path, name: str, options: dict[str, Any], token: str | None, words: str
) -> None:
    hub.token = token
    for engine in ("onnx", "torch"):
        kind, message, err = run(hub, tmp_path, engine, name, **options)
        assert kind == "ModelError"
        assert name in message
        assert "\n" not in message
        assert err == ""
        assert re.search(words, message)


def test_a_download_that_was_cut_off_is_not_taken_for_whole(hub: Hub, tmp_path: Path, expected: list[float]) -> None:
    hub.cut["model.safetensors"] = 50_000
    first, second, _ = run(hub, tmp_path)
    if first == "ModelError":  # a client that does not try again by itself
        assert "model 'someone/tiny' cannot be loaded" in second
        first, second, _ = run(hub, tmp_path)
    np.testing.assert_allclose(second, expected, atol=1e-5)


def test_two_processes_at_once_both_get_the_model(hub: Hub, tmp_path: Path, expected: list[float]) -> None:
    processes = [start(hub, tmp_path, engine) for engine in ("onnx", "openvino", "onnx")]
    for process in processes:
        np.testing.assert_allclose(finish(process)[1], expected, atol=1e-5)


def test_progress_is_shown_only_when_asked_for(hub: Hub, tmp_path: Path) -> None:
    assert run(hub, tmp_path / "quiet")[2] == ""
    assert "Fetching" in run(hub, tmp_path / "shown", show_progress=True)[2]


def test_a_model_with_only_a_graph_loads_it(
    hub: Hub, tmp_path: Path, tiny: dict[str, Path], expected: list[float]
) -> None:
    from milvus_rerank.models.files import read_config
    from milvus_rerank.models.weights import read_tensors
    from milvus_rerank.onnx_graphs.cache import write_built

    write_built(tmp_path / "model.onnx", read_config(tiny["bert"]), read_tensors(tiny["bert"]), "m", with_types=True)
    files = hub.repositories[NAME]
    for name in (
        "model.safetensors",
        "pytorch_model.bin",
        "openvino/openvino_model.xml",
        "openvino/openvino_model.bin",
    ):
        del files[name]
    for name in ("model.onnx", "model.onnx_data"):
        files[f"onnx/{name}"] = (tmp_path / name).read_bytes()
    for engine in ("onnx", "openvino"):
        np.testing.assert_allclose(run(hub, tmp_path / "home", engine)[1], expected, atol=1e-5)
    assert "onnx/model_O4.onnx" not in hub.sent
