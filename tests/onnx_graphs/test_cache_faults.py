"""Full and read-only disks, and locks that another process keeps, while graphs are cached and models exported."""

import logging
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import numpy as np
import pytest

from milvus_rerank import CrossEncoderRerankFunction
from milvus_rerank.cli.demo import demo
from milvus_rerank.engines import Batch
from milvus_rerank.errors import ModelError, WriteError
from milvus_rerank.export.run import ExportOptions, export_model
from milvus_rerank.models import ModelSource
from milvus_rerank.models.files import read_config
from milvus_rerank.models.weights import read_tensors
from milvus_rerank.onnx_graphs.cache import keep, write_built

resource = pytest.importorskip("resource")  # Windows has none


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache folder."""
    monkeypatch.setenv("MILVUS_RERANK_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def no_temporary_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A place for temporary folders that cannot hold any, as on a read-only system."""
    (tmp_path / "file").touch()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "file"))
    return tmp_path / "file"


@contextmanager
def full_disk() -> Iterator[None]:
    """Make files of more than 100 kB an OSError."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def write_much(folder: Path) -> None:
    (folder / "first").write_bytes(b"1")
    (folder / "second").write_bytes(bytes(200_000))


def test_a_full_disk_under_the_cache_and_the_temporary_folder_is_an_error(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with full_disk(), pytest.raises(WriteError) as caught:
        keep("key", write_much)
    assert re.fullmatch(
        rf"cache folder {cache} and the temporary folder cannot be written \(\[Errno 27\] File too large\); "
        "free space, or set MILVUS_RERANK_CACHE or TMPDIR",
        str(caught.value),
    )
    assert [path for path in cache.iterdir() if path.suffix != ".lock"] == []
    assert list(tmp_path.glob("milvus-rerank-*")) == []


def test_a_full_disk_under_the_cache_alone_is_a_warning(cache: Path, caplog: pytest.LogCaptureFixture) -> None:
    def write(folder: Path) -> None:
        if folder.parent == cache:
            raise OSError(28, "No space left on device", str(folder))
        write_much(folder)

    folder = keep("key", write)
    assert sorted(path.name for path in folder.iterdir()) == ["first", "second"]
    assert folder.parent != cache
    [record] = caplog.records
    assert record.levelno == logging.WARNING
    assert f"cache folder {cache} cannot be written ([Errno 28] No space left on device" in record.message
    assert not (cache / "key").exists()
    assert keep("key", write_much) == cache / "key"


def test_no_cache_and_no_temporary_folder_is_an_error(cache: Path, no_temporary_folder: Path) -> None:
    cache.touch()
    with pytest.raises(WriteError, match=r"temporary folder cannot be written \(\[Errno 20\] Not a directory"):
        keep("key", write_much)


def test_errors_of_the_model_stay_what_they_are(cache: Path) -> None:
    def write(folder: Path) -> None:
        raise ModelError("its weights are damaged")

    with pytest.raises(ModelError, match="its weights are damaged"):
        keep("key", write)


def test_the_temporary_folder_goes_with_its_process_and_not_with_a_fork(cache: Path) -> None:
    cache.touch()
    code = """
import os, sys
from pathlib import Path
from milvus_rerank.onnx_graphs.cache import keep
folder = keep("key", lambda folder: (folder / "file").touch())
if os.fork() == 0:
    sys.exit(0)
os.wait()
assert (folder / "file").exists()
print(folder)
"""
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert not Path(ran.stdout.strip()).exists()


HOLDER = """
from milvus_rerank.onnx_graphs.cache import keep

def write(folder):
    print("writing", flush=True)
    input()

keep("key", write)
"""


def test_a_lock_that_another_process_keeps_ends_in_an_error_that_names_it(
    cache: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "writing\n"
        try:
            with pytest.raises(WriteError) as caught:
                keep("key", write_much, longest_wait=0.1)
        finally:
            holder.kill()
    who = rf"process {holder.pid} on {re.escape(os.uname().nodename)} \(since \d{{4}}-\d\d-\d\dT\d\d:\d\d:\d\d\S+\)"
    assert re.fullmatch(
        rf"{who} still holds the lock of {cache / 'key'} after 0.1 s; if it does not write any more, end it or delete "
        rf"{cache / 'key'}.lock; or set MILVUS_RERANK_CACHE to another folder",
        str(caught.value),
    )
    assert re.fullmatch(rf"waiting for {who}, which writes {cache / 'key'}", caplog.messages[0])
    assert keep("key", write_much, longest_wait=5) == cache / "key"  # a killed process keeps no lock
    assert not (cache / "key.holder").exists()


def test_a_full_disk_under_an_export_is_an_error(tmp_path: Path) -> None:
    with full_disk(), pytest.raises(WriteError, match=r"out cannot be written \(.*File too large.*\); free space on"):
        export_model(ModelSource("builtin/rerank"), tmp_path / "out", ExportOptions("onnx"))
    assert [path.name for path in tmp_path.iterdir()] == []


@pytest.mark.needs("openvino")
def test_weights_that_openvino_cannot_write_are_an_error(tmp_path: Path) -> None:
    from tiny_models import save_tiny_model

    from milvus_rerank.export.openvino_int8 import quantize_openvino

    graph, target = tmp_path / "model.onnx", tmp_path / "model.xml"
    folder = save_tiny_model("bert", tmp_path / "tiny")
    write_built(graph, read_config(folder), read_tensors(folder), "tiny", with_types=False)
    target.mkdir()
    ids = np.full((2, 8), 7)
    with pytest.raises(WriteError, match=rf"OpenVINO cannot write {target} \(.*\); free space on its disk"):
        quantize_openvino(graph, target, method="dynamic", batches=[Batch(ids, np.ones_like(ids), None)])


@pytest.mark.needs("milvus_lite", "ir_measures")
def test_the_demo_without_a_temporary_folder_is_an_error(no_temporary_folder: Path) -> None:
    with pytest.raises(WriteError, match=r"set TMPDIR to a folder that can, or pass --keep FILE\.db"):
        demo()


def test_a_damaged_entry_is_written_again(cache: Path, caplog: pytest.LogCaptureFixture) -> None:
    def write(folder: Path) -> None:
        write_much(folder)
        (folder / "third").write_bytes(b"123")

    keep("key", write)
    faults: list[Callable[[Path], object]] = [
        lambda folder: (folder / "second").write_bytes(bytes(100_000) + b"1" + bytes(99_999)),  # the size is the same
        lambda folder: (folder / "first").unlink(),
        lambda folder: (folder / "third").write_bytes(b"12"),
        lambda folder: (folder / "checksums.json").write_text("["),
        lambda folder: (folder / "checksums.json").unlink(),
    ]
    for number, damage in enumerate(faults, 1):
        damage(cache / "key")
        folder = keep("key", write)
        assert [(folder / name).stat().st_size for name in ("first", "second", "third")] == [1, 200_000, 3]
        assert (folder / "second").read_bytes() == bytes(200_000)
        assert [message for message in caplog.messages if "is damaged: it is made again" in message] == [
            f"the graph in cache folder {cache / 'key'} is damaged: it is made again"
        ] * number


def test_a_damaged_traced_graph_scores_as_before(tiny: dict[str, Path], cache: Path) -> None:
    def scores() -> list[float]:
        return CrossEncoderRerankFunction(str(tiny["traced"]), device="cpu", engine="onnx").score("a", ["b", "c d"])

    expected = scores()
    [graph] = cache.glob("*/model.onnx")
    content = bytearray(graph.read_bytes())
    content[len(content) // 2] ^= 64
    graph.write_bytes(content)
    assert scores() == expected


def test_weights_are_links_and_their_folder_goes_with_the_model(
    tiny: dict[str, Path], tmp_path: Path, cache: Path
) -> None:
    def load(folder: Path) -> None:
        CrossEncoderRerankFunction(str(folder), device="cpu", engine="openvino")

    models = [Path(shutil.copytree(tiny["bert"], tmp_path / name)) for name in ("one", "two")]
    load(models[0])
    [linked] = cache.glob("*/model.safetensors")
    assert linked.samefile(models[0] / "model.safetensors")
    load(models[0])
    assert list(cache.glob("*/model.safetensors")) == [linked]
    shutil.rmtree(models[0])
    load(models[1])
    [other] = cache.glob("*/model.safetensors")
    assert other.samefile(models[1] / "model.safetensors")


def test_weights_are_copied_where_no_link_can_be(
    tiny: dict[str, Path], cache: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: object) -> None:
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", fail)
    expected = CrossEncoderRerankFunction(str(tiny["bert"]), device="cpu", engine="onnx").score("a", ["b", "c d"])
    assert not cache.exists()  # ONNX Runtime reads the model's own files
    with caplog.at_level(logging.INFO, "milvus_rerank"):
        reranker = CrossEncoderRerankFunction(str(tiny["bert"]), device="cpu", engine="openvino")
    np.testing.assert_allclose(reranker.score("a", ["b", "c d"]), expected, atol=1e-5)
    assert any(message.startswith(f"copying {tiny['bert']}") for message in caplog.messages)
    [copied] = cache.glob("*/model.safetensors")
    assert not copied.samefile(tiny["bert"] / "model.safetensors")


@pytest.mark.parametrize("engine", ["onnx", "openvino"])
@pytest.mark.parametrize("dtype", ["float32", "float8_e4m3fn"])
def test_other_weights_of_the_same_size_and_time_are_other_weights(
    tiny: dict[str, Path], tmp_path: Path, engine: Literal["onnx", "openvino"], dtype: str
) -> None:
    import torch
    from safetensors.torch import load_file, save_file

    folder = Path(shutil.copytree(tiny["bert"], tmp_path / "m"))
    path, stored = folder / "model.safetensors", getattr(torch, dtype)

    def scores(change: float) -> list[float]:
        weights = load_file(tiny["bert"] / path.name)
        path.unlink()  # as installers do: another file under the same name
        save_file({name: (array + change).to(stored) for name, array in weights.items()}, path)
        os.utime(path, (1_580_601_600, 1_580_601_600))
        return CrossEncoderRerankFunction(str(folder), device="cpu", engine=engine).score("a", ["b", "c d"])

    before, after = scores(0.0), scores(0.125)
    assert max(abs(one - other) for one, other in zip(before, after, strict=True)) > 1e-3
    assert scores(0.0) == before
