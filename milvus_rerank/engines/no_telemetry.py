"""OpenVINO without its telemetry: the only module that imports openvino first.

``import openvino`` alone sends a usage event to its makers, and nncf sends how it is used, unless a file in the user's
home says no or the package that sends, ``openvino_telemetry``, is not there. They are imported as if it were not.
"""

import contextlib
import sys
from collections.abc import Iterator


@contextlib.contextmanager
def without_telemetry() -> Iterator[None]:
    """Let what is imported in the block find no ``openvino_telemetry``."""
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
