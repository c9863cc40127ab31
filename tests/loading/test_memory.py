"""A model larger than the free memory is refused before its weights are read, with both figures."""

from pathlib import Path

import pytest

from milvus_rerank import CrossEncoderRerankFunction
from milvus_rerank.errors import OutOfMemoryError
from milvus_rerank.loading import memory
from milvus_rerank.loading.memory import check_memory, free_memory
from milvus_rerank.models.weights import Tensor

MEMINFO = (
    "MemTotal:       8000000 kB\nMemFree:         100000 kB\nMemAvailable:   4000000 kB\nSwapFree:       1000 kB\n"
)
TENSORS = {"a": Tensor(Path("a"), "F16", (1000, 1000), 0, 2_000_000), "b": Tensor(Path("a"), "F32", (5,), 0, 20)}


def test_the_least_of_machine_and_container_counts(tmp_path: Path) -> None:
    assert free_memory(root=tmp_path) is None
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc" / "meminfo").write_text(MEMINFO)
    assert free_memory(root=tmp_path) == 4_001_000 * 1024
    group = tmp_path / "sys" / "fs" / "cgroup"
    group.mkdir(parents=True)
    (group / "memory.max").write_text("max\n")
    (group / "memory.current").write_text("600\n")
    (group / "memory.stat").write_text("anon 500\ninactive_file 70\n")
    assert free_memory(root=tmp_path) == 4_001_000 * 1024
    (group / "memory.max").write_text("1000\n")
    assert free_memory(root=tmp_path) == 1000 - 600 + 70
    (group / "memory.current").write_text("5000\n")
    assert free_memory(root=tmp_path) == 0


def test_the_first_version_of_cgroups_counts(tmp_path: Path) -> None:
    group = tmp_path / "sys" / "fs" / "cgroup" / "memory"
    group.mkdir(parents=True)
    (group / "memory.limit_in_bytes").write_text("1000\n")
    (group / "memory.usage_in_bytes").write_text("900\n")
    (group / "memory.stat").write_text("cache 5\ntotal_inactive_file 30\n")
    assert free_memory(root=tmp_path) == 130


@pytest.mark.parametrize(("dtype", "needed"), [("float32", 4_000_020), ("float16", 2_000_010), ("bfloat16", 2_000_010)])
def test_weights_count_in_the_precision_that_holds_them(
    monkeypatch: pytest.MonkeyPatch, dtype: str, needed: int
) -> None:
    monkeypatch.setattr(memory, "free_memory", lambda device: needed)
    check_memory("m", TENSORS, dtype, "cpu")
    monkeypatch.setattr(memory, "free_memory", lambda device: needed - 1)
    with pytest.raises(OutOfMemoryError):
        check_memory("m", TENSORS, dtype, "cpu")


@pytest.mark.parametrize("engine", ["onnx", "openvino", "torch"])
def test_a_model_larger_than_memory_is_refused_with_both_figures(monkeypatch: pytest.MonkeyPatch, engine: str) -> None:
    pytest.importorskip(engine if engine != "onnx" else "onnxruntime")
    monkeypatch.setattr(memory, "free_memory", lambda device: 20_000_000)
    with pytest.raises(OutOfMemoryError) as raised:
        CrossEncoderRerankFunction("builtin/rerank", device="cpu", engine=engine)  # type: ignore[arg-type]
    assert str(raised.value).startswith(
        "the weights of model 'builtin/rerank' take 0.1 GB in float32, and this machine has 0.0 GB free; free memory"
    )


def test_this_machine_says_how_much_is_free() -> None:
    free = free_memory()
    assert free is None or 10**6 < free < 10**14
