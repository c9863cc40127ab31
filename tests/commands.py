"""A command run in the test's own process."""

from typing import Protocol


class Cli(Protocol):
    """Run a command in an empty folder; returns exit code, stdout and stderr."""

    def __call__(self, *arguments: object, stdin: str | bytes = "") -> tuple[int, str, str]: ...
