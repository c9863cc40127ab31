"""Values that may be None, and must not be here."""

from typing import TypeVar

Value = TypeVar("Value")


def present(value: Value | None) -> Value:
    """Return a value; None fails the test."""
    assert value is not None
    return value
