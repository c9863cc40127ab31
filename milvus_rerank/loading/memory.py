"""Check that a model's weights fit into the free memory, before they are read."""

import re
from collections.abc import Mapping
from contextlib import suppress
from math import prod
from pathlib import Path

from milvus_rerank.errors import OutOfMemoryError
from milvus_rerank.models.weights import Tensor

_BYTES = {"float32": 4, "float16": 2, "bfloat16": 2, "int8": 1}
_LIMITS = (
    ("memory.max", "memory.current", "inactive_file"),  # cgroup v2
    ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "total_inactive_file"),
)


def check_memory(name: str, tensors: Mapping[str, Tensor], dtype: str, device: str) -> None:
    """Raise if a model's weights alone are larger than the free memory of a device.

    :param name: the model's name, for the message.
    :param tensors: its weights; empty if their sizes are unknown.
    :param dtype: the precision in which they are held.
    :param device: ``cpu`` or a GPU.
    :raises OutOfMemoryError: with both figures.
    """
    needed = sum(prod(tensor.shape) for tensor in tensors.values()) * _BYTES.get(dtype, 4)
    free = free_memory(device)
    if free is not None and needed > free:
        where = "this machine" if device == "cpu" else device
        raise OutOfMemoryError(
            f"the weights of model {name!r} take {needed / 1e9:.1f} GB in {dtype}, and {where} has {free / 1e9:.1f} GB "
            "free; free memory, or use a smaller model or a dtype of fewer bits"
        )


def free_memory(device: str = "cpu", root: Path = Path("/")) -> int | None:
    """Return the free bytes of a device, those that files only occupy until asked for and swap space included.

    :param device: ``cpu`` or a GPU.
    :param root: the folder with ``proc`` and ``sys``.
    :returns: the least of what the machine and its container leave; None if the system does not say.
    """
    if device.startswith("cuda"):
        from milvus_rerank.engines.torch_engine import free_gpu_memory

        return free_gpu_memory(device)
    if device != "cpu":
        return None
    free = []
    with suppress(OSError, ValueError, KeyError):
        lines = dict(re.findall(r"^(\w+): +(\d+) kB$", (root / "proc/meminfo").read_text("ascii"), re.MULTILINE))
        free.append(1024 * (int(lines["MemAvailable"]) + int(lines.get("SwapFree", 0))))
    for limit, usage, cached in _LIMITS:
        folder = (root / "sys/fs/cgroup" / limit).parent
        with suppress(OSError, ValueError, KeyError):  # "max", another version of cgroups, or no container
            most, used = (int((root / "sys/fs/cgroup" / file).read_text("ascii")) for file in (limit, usage))
            stat = dict(line.split() for line in (folder / "memory.stat").read_text("ascii").splitlines())
            free.append(max(0, most - used + int(stat[cached])))
    return min(free, default=None)
