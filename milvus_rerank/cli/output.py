"""Output of the commands: results go to stdout, everything else to stderr."""

import io
import json
import logging
import os
import shutil
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

from milvus_rerank.progress import make_progress

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress
    from rich.text import Text

DEFAULT_WIDTH = 110
"""Width in columns if the output is not a terminal and COLUMNS is not set."""

NARROW = 60
"""The width in columns below which a table that does not fit is not printed as one."""
LEAST_TEXT = 24
"""The least width of a column of texts in a narrow table."""
INDENT = 3
_NAMES = ("id", "name")

_TEXT: dict[str, Any] = {"no_wrap": True, "overflow": "ellipsis", "ratio": 1}
_COLUMNS: dict[str, dict[str, Any]] = {
    "#": {"justify": "right", "style": "dim"},
    "score": {"justify": "right", "style": "cyan"},
    "was": {"justify": "right", "style": "dim"},
    "distance": {"justify": "right", "style": "dim"},
    "id": {"no_wrap": True, "style": "green", "overflow": "ellipsis", "max_width": 32},
    "text": _TEXT,
    "text and fields": _TEXT,
    # Names are long: if they nearly fill 80 columns, the languages wrap to two lines instead of the names.
    "reads": {"overflow": "fold", "max_width": 5},
}


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
    package = logging.getLogger("milvus_rerank")
    package.setLevel(logging.INFO)
    package.propagate, package.handlers = False, [_Notes()]


def calm_milvus() -> None:
    """Import pymilvus and hide its log lines; pymilvus sets its log level on import, so set it afterwards."""
    try:
        import pymilvus  # noqa: F401
    except ModuleNotFoundError:
        return  # the error from opening a client says what to install
    logging.getLogger("pymilvus").setLevel(logging.CRITICAL + 1)


def console(stderr: bool = False) -> "Console":
    """Return the console for results, or on stderr that for notes and progress."""
    from rich.console import Console

    stream = sys.stderr if stderr else sys.stdout
    width = None if stream.isatty() else shutil.get_terminal_size((DEFAULT_WIDTH, 24)).columns
    return Console(stderr=stderr, width=width, highlight=False, emoji=False)


def print_table(
    columns: "Sequence[str]",
    rows: "Iterable[Sequence[str | Text]]",
    *,
    header_style: str = "bold",
    show_header: bool = True,
) -> None:
    """Print rows as a table, or each on lines of its own if the terminal is too narrow for the table.

    :param columns: the names of the columns, which have their usual styles.
    :param rows: the cells of each row; markup in strings is text.
    :param header_style: the style of the names.
    :param show_header: whether a table shows the names.
    """
    from rich.text import Text

    screen = console()
    cells = [[cell if isinstance(cell, Text) else Text(cell) for cell in row] for row in rows]
    if screen.width < NARROW and _least_width(columns, cells) > screen.width:
        for row in cells:
            _print_lines(screen, columns, row)
        return
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style=header_style, expand=any(map(_is_text, columns)))
    table.show_header = show_header
    for name in columns:
        table.add_column(name, **_COLUMNS.get(name, {"overflow": "fold"}))
    for row in cells:
        table.add_row(*row)
    screen.print(table)


def _is_text(column: str) -> bool:
    return column.startswith("text")


def _least_width(columns: "Sequence[str]", rows: "Sequence[Sequence[Text]]") -> int:
    """Return the width of a table that cuts nothing but texts."""
    widths = [
        LEAST_TEXT if _is_text(name) else max([len(name), *(row[index].cell_len for row in rows)])
        for index, name in enumerate(columns)
    ]
    return sum(widths) + 2 * (len(widths) - 1)


def _print_lines(screen: "Console", columns: "Sequence[str]", row: "Sequence[Text]") -> None:
    """Print a row: its number and name, the other cells with the names of their columns, and its text last."""
    from rich.padding import Padding
    from rich.text import Text

    cells = {name: cell for name, cell in zip(columns, row, strict=True) if cell.plain}
    lines = [Text()]
    for name in sorted(cells, key=lambda name: (name != "#", name not in _NAMES)):
        if _is_text(name):
            continue
        style = str(_COLUMNS.get(name, {}).get("style", "bold" if name in _NAMES else ""))
        label = "" if name in ("", "#", *_NAMES) else f"{name} "
        cell = Text.assemble((label, "dim"), (cells[name].plain, cells[name].style or style))
        if lines[-1] and lines[-1].cell_len + 2 + cell.cell_len > screen.width - INDENT:
            lines.append(Text())
        lines[-1].append("  " if lines[-1] else "").append(cell)
    screen.print(lines[0])
    for line in lines[1:]:
        screen.print(Padding(line, (0, 0, 0, INDENT)))
    for name in filter(_is_text, cells):
        screen.print(Padding(cells[name], (0, 0, 0, INDENT)), no_wrap=True, overflow="ellipsis")


def print_json(document: Any, indent: int | None = 2) -> None:
    """Print a JSON document to stdout; with ``indent=None`` on one line."""
    is_utf8 = (sys.stdout.encoding or "").lower().replace("-", "") == "utf8"
    print(json.dumps(document, indent=indent, ensure_ascii=not is_utf8))


def note(text: str) -> None:
    """Print a note to stderr."""
    from rich.text import Text

    console(stderr=True).print(Text(text, "dim"), soft_wrap=True)


def print_error(text: str) -> None:
    """Print an error to stderr."""
    from rich.text import Text

    console(stderr=True).print(Text.assemble(("error: ", "bold red"), text), soft_wrap=True)


@contextmanager
def progress_bars() -> Iterator["Progress"]:
    """Show progress bars on stderr if stderr is a terminal."""
    stderr = console(stderr=True)
    progress = make_progress(stderr, transient=True, disable=not stderr.is_terminal)
    if not stderr.is_terminal:
        yield progress  # not entered: before rich 15 even a disabled bar prints an empty line at its end
        return
    with progress:
        yield progress


@contextmanager
def spinner(text: str) -> Iterator[None]:
    """Show a spinner with a text if stderr is a terminal."""
    stderr = console(stderr=True)
    with stderr.status(text) if stderr.is_terminal else nullcontext():
        yield


def milliseconds(seconds: float) -> str:
    """Format a short duration in a readable form."""
    return f"{seconds * 1000:.0f} ms" if seconds < 1 else f"{seconds:.1f} s"
