"""What the figures were measured on."""

import os
import platform
import re
from pathlib import Path
from typing import Any

FLAGS = re.compile(r"avx2|avx512f|avx512_vnni|avx_vnni|avx512_bf16|amx_\w+|asimddp|i8mm|bf16|sve")


def machine() -> dict[str, Any]:
    """What ran this."""
    info = Path("/proc/cpuinfo").read_text("utf-8") if Path("/proc/cpuinfo").exists() else ""
    name = re.search(r"model name\s*: (.*)", info)
    flags = re.search(r"(?:flags|Features)\s*: (.*)", info)
    return {
        "cpu": name[1] if name else platform.processor(),
        "architecture": platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "flags": sorted({flag for flag in (flags[1].split() if flags else []) if FLAGS.fullmatch(flag)}),
        "system": platform.platform(),
        "python": platform.python_version(),
    }
