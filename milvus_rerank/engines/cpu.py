"""Instructions of this machine's CPU, as far as the choice of a precision depends on them. Imports quickly."""

import re
from pathlib import Path

_INT8 = re.compile(r"avx512_vnni|avx_vnni|avx_vnni_int8|amx_int8|asimddp|i8mm")
"""Names in ``/proc/cpuinfo`` of instructions that multiply and add bytes, of x86 and of Arm."""


def multiplies_bytes(cpuinfo: Path = Path("/proc/cpuinfo")) -> bool | None:
    """Tell whether this CPU has instructions that multiply and add bytes; int8 is slow without them.

    :param cpuinfo: the kernel's list of the CPU's abilities.
    :returns: None if the system does not say.
    """
    try:
        lines = re.findall(r"^(?:flags|Features)\s*: (.*)$", cpuinfo.read_text("utf-8", "replace"), re.MULTILINE)
    except OSError:  # not Linux
        return None
    return any(map(_INT8.fullmatch, lines[0].split())) if lines else None
