"""Names of engines and precisions, and the choice of device and precision. Imports torch only if it must."""

import importlib.util
import logging
import math
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import get_args

from milvus_rerank.choices import Device as Device
from milvus_rerank.choices import Dtype as Dtype
from milvus_rerank.choices import EngineName as EngineName
from milvus_rerank.errors import InputError
from milvus_rerank.requirements import ENGINES as ENGINE_PACKAGES
from milvus_rerank.requirements import require

logger = logging.getLogger(__name__)

ENGINES: tuple[EngineName, ...] = get_args(EngineName)
DTYPES: tuple[Dtype, ...] = get_args(Dtype)
_GPU_FILES = ("/dev/nvidiactl", "/dev/nvidia0", "/dev/dxg", "/dev/kfd")


def require_engine(engine: str) -> None:
    """Raise if an engine is not installed.

    :param engine: ``torch``, ``onnx`` or ``openvino``.
    :raises MissingDependencyError: if a package of the engine is missing; names the packages and the extras.
    """
    require(f"engine {engine!r}", *ENGINE_PACKAGES[engine])


def choose_device(device: str | None, engine: str) -> str:
    """Return the device to use.

    torch is imported only if a GPU is possible: its import takes seconds and memory that other engines do not need.

    :param device: ``cpu``, ``cuda``, ``cuda:n``, ``mps``; None, "" or ``auto`` take a GPU if torch can use one.
    :param engine: one of :data:`ENGINES`.
    :returns: ``cpu``, ``mps`` or ``cuda:n``.
    :raises InputError: if the name is not a device, or the engine does not run on it.
    :raises DeviceError: if this machine or this build of torch lacks the device.
    """
    automatic = device in (None, "", "auto")
    may_have_gpu = importlib.util.find_spec("torch") is not None and (
        sys.platform in ("darwin", "win32") or any(Path(path).exists() for path in _GPU_FILES)
    )
    if device == "cpu" or (automatic and (engine in ("onnx", "openvino") or not may_have_gpu)):
        return "cpu"
    require_engine("torch")
    from milvus_rerank.engines.torch_engine import pick_device

    available = pick_device(device)
    if available != "cpu" and engine in ("onnx", "openvino"):
        raise InputError(f"engine {engine!r} runs on the CPU; with device={device!r} use engine='torch' or 'auto'")
    return available


def check_devices(devices: object, engine: str) -> list[str]:
    """Return the names of several devices, after checking that they are available.

    :param devices: a list or tuple of names, as :func:`choose_device` takes them.
    :param engine: one of :data:`ENGINES`, or ``auto``.
    :returns: the names, as :func:`choose_device` returns them.
    :raises InputError: if it is no list of names, it is empty, or a device is in it twice.
    :raises DeviceError: if this machine or this build of torch lacks a device.
    """
    if not isinstance(devices, (list, tuple)) or not all(isinstance(device, str) and device for device in devices):
        raise InputError(f"device must be a name or a list of names, such as ['cuda:0', 'cuda:1'], got {devices!r}")
    if not devices:
        raise InputError("device is an empty list; name each device, such as ['cuda:0', 'cuda:1'], or leave it out")
    names = [choose_device(device, engine) for device in devices]
    for device, name in zip(devices, names, strict=True):
        if names.count(name) > 1:
            raise InputError(
                f"device {device!r} is {name}, which is in the list twice: {list(devices)!r}; name it once"
            )
    return names


def choose_dtype(dtype: str, engine: str, device: str, has_bfloat16: Callable[[], bool]) -> str:
    """Return the precision to run in.

    ``auto`` means bfloat16 on a CPU that multiplies it in hardware (except with ONNX Runtime), float16 on a CUDA
    device, and float32 elsewhere. Both half precisions keep the order of documents (Spearman 0.9995 or more against
    float32 on a trained model; benchmarks/results).

    :param dtype: one of :data:`DTYPES`.
    :param engine: ``torch``, ``onnx`` or ``openvino``.
    :param device: as :func:`choose_device` returns it.
    :param has_bfloat16: tells whether the CPU multiplies bfloat16 in hardware; called only if the answer matters.
    :returns: ``float32``, ``bfloat16``, ``float16`` or ``int8``.
    """
    if dtype == "auto":
        if device != "cpu":
            return "float16" if device.startswith("cuda") else "float32"
        return "bfloat16" if engine != "onnx" and has_bfloat16() else "float32"
    if device == "cpu" and dtype == "float16":
        logger.info("float16 is not used on a CPU; the model runs in float32")
        return "float32"
    if engine == "openvino" and dtype == "bfloat16" and not has_bfloat16():
        logger.info("this CPU has no bfloat16 hardware; the model runs in float32")
        return "float32"
    return dtype


def cpu_limit() -> int | None:
    """Return the number of CPUs in a container's quota; None if there is no quota below the CPUs of this process."""
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text(encoding="ascii").split()
        limit = max(1, math.ceil(int(quota) / int(period)))
    except (OSError, ValueError):  # not Linux, not cgroup v2, or "max"
        return None
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return limit if limit < usable else None
