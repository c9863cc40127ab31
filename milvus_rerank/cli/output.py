"""Output of the commands: results go to stdout, everything else to stderr."""

import io
import json
import logging
import os
import shutil
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress

DEFAULT_WIDTH = 110
"""Width in columns if the output is not a terminal and COLUMNS is not set."""


class _Notes(logging.Handler):
    """Show this package's log lines as notes."""

    def emit(self, record: logging.LogRecord) -> None:
        """Print one record as a note."""
        note(record.getMessage())


def open_streams() -> None:
    """Prepare stdout and stderr for any text: replace closed streams, and characters that cannot be encoded."""
    # A stream that the shell has closed with `>&-` is None in Python.
    sys.stdout = sys.stdout or open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
    sys.stderr = sys.stderr or open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # do not fail for a star that an ASCII terminal lacks


def drop_stdout() -> None:
    """Discard further output to stdout: Python flushes stdout at exit, which would report the failed stream."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def calm() -> None:
    """Hide the libraries' log lines: their errors are raised as exceptions."""
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    # Let waiting threads sleep: spinning threads slow torch down on a busy machine (2.2 s instead of 1.3 s for 50 pairs
    # on 2 cores with one of them busy).
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    for name in ("milvus_lite", "grpc", "model2vec"):
        # Do not raise their level: only the log says why Milvus Lite cannot open a file, and open_client reads it.
        logger = logging.getLogger(name)
        logger.propagate, logger.handlers = False, [logging.NullHandler()]
    own = logging.getLogger("milvus_rerank")
    own.setLevel(logging.INFO)
    own.propagate = False
    own.handlers = [_Notes()]


def calm_milvus() -> None:
    """Import pymilvus and hide its log lines; pymilvus sets its log level on import, so set it afterwards."""
    try:
        import pymilvus  # noqa: F401
    except ModuleNotFoundError:
        return  # the error from opening a client says what to install
    logging.getLogger("pymilvus").setLevel(logging.CRITICAL + 1)


def out() -> "Console":
    """Return the console for results."""
    return _console(stderr=False)


def err() -> "Console":
    """Return the console for notes and progress."""
    return _console(stderr=True)


def print_json(document: Any) -> None:
    """Print one JSON document to stdout."""
    print(json.dumps(document, indent=2, ensure_ascii=not _is_utf8()))


def print_json_line(record: Mapping[str, Any]) -> None:
    """Print one JSON object as one line to stdout."""
    print(json.dumps(record, ensure_ascii=not _is_utf8()))


def note(text: str) -> None:
    """Print a note to stderr."""
    from rich.text import Text

    err().print(Text(text, "dim"), soft_wrap=True)


def print_error(text: str) -> None:
    """Print an error to stderr."""
    from rich.text import Text

    err().print(Text.assemble(("error: ", "bold red"), text), soft_wrap=True)


@contextmanager
def progress_bars() -> Iterator["Progress"]:
    """Show progress bars on stderr if stderr is a terminal."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = err()
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    progress = Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
    if not console.is_terminal:
        yield progress  # not entered: before rich 15 even a disabled bar prints an empty line at its end
        return
    with progress:
        yield progress


@contextmanager
def spinner(text: str) -> Iterator[None]:
    """Show a spinner with a text if stderr is a terminal."""
    console = err()
    if not console.is_terminal:
        yield
        return
    with console.status(text):
        yield


def milliseconds(seconds: float) -> str:
    """Format a short duration in a readable form."""
    return f"{seconds * 1000:.0f} ms" if seconds < 1 else f"{seconds:.1f} s"


def _console(stderr: bool) -> "Console":
    from rich.console import Console

    stream = sys.stderr if stderr else sys.stdout
    width = None if stream.isatty() else shutil.get_terminal_size((DEFAULT_WIDTH, 24)).columns
    return Console(stderr=stderr, width=width, highlight=False, emoji=False)


def _is_utf8() -> bool:
    return (sys.stdout.encoding or "").lower().replace("-", "") == "utf8"
