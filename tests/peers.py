"""Packages that do what this one does: tests run them where they work, and skip where they do not."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import pytest


@contextmanager
def running(package: str) -> Iterator[None]:
    """Run code of another package: ignore its warnings, and skip the test with the reason where it raises."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            yield
        except Exception as error:
            reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
        else:
            return
    pytest.skip(f"{package} fails here: {reason}")
