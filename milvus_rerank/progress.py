"""Progress bars on stderr."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID


@dataclass(slots=True)
class Bar:
    """The bar of one task.

    :param total: how much there is to do.
    :param progress: what draws the bar.
    :param task: the task's number there.
    """

    total: int
    progress: "Progress"
    task: "TaskID"

    def advance(self, count: int) -> None:
        """Count what is done."""
        self.progress.advance(self.task, count)

    def extend(self, count: int) -> None:
        """Add to what there is to do."""
        self.total += count
        self.progress.update(self.task, total=self.total)


@contextmanager
def progress_bar(description: str, total: int) -> Iterator[Bar]:
    """Show the progress of a task.

    :param description: the task.
    :param total: how much there is to do.
    :yields: the bar.
    """
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as progress:
        yield Bar(total, progress, progress.add_task(description, total=total))
