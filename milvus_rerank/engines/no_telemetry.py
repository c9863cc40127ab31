"""OpenVINO without its telemetry. The first import of openvino must happen in this module.

``import openvino`` alone sends a usage event to its makers, and nncf reports its use. Neither sends if a file in the
user's home forbids it, or if the package that sends, ``openvino_telemetry``, is absent. This module imports them as if
that package were absent.
"""

import contextlib
import sys
from collections.abc import Iterator


@contextlib.contextmanager
def without_telemetry() -> Iterator[None]:
    """Hide ``openvino_telemetry`` from all imports in the block."""
    name = "openvino_telemetry"
    absent = name not in sys.modules
    if absent:
        sys.modules[name] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        if absent:
            del sys.modules[name]


with without_telemetry():
    import openvino
    import openvino.passes

__all__ = ["openvino", "without_telemetry"]
