"""Progress bars on stderr."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress, TaskID


@dataclass(slots=True)
class Bar:
    """The progress bar of one task of ``total`` steps."""

    total: int
    progress: "Progress"
    task: "TaskID"

    def advance(self, count: int) -> None:
        """Add finished steps."""
        self.progress.advance(self.task, count)

    def extend(self, count: int) -> None:
        """Add steps to the total."""
        self.total += count
        self.progress.update(self.task, total=self.total)


@contextmanager
def progress_bar(description: str, total: int) -> Iterator[Bar]:
    """Show the progress of a task of ``total`` steps on stderr."""
    from rich.console import Console

    with make_progress(Console(stderr=True)) as progress:
        yield Bar(total, progress, progress.add_task(description, total=total))


def make_progress(console: "Console", *, transient: bool = False, disable: bool = False) -> "Progress":
    """Return progress bars with a description, counts and the remaining time."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    return Progress(*columns, console=console, transient=transient, disable=disable)
