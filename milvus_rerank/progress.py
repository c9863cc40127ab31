"""Progress bars on stderr."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID


@dataclass(slots=True)
class Bar:
    """The bar of one task, or nothing.

    :param total: how much there is to do.
    :param progress: what draws it; None for nothing.
    :param task: the task's number there.
    """

    total: int
    progress: "Progress | None" = None
    task: "TaskID | None" = None

    def advance(self, count: int) -> None:
        """Count what is done."""
        if self.progress is not None and self.task is not None:
            self.progress.advance(self.task, count)

    def extend(self, count: int) -> None:
        """Add to what there is to do."""
        self.total += count
        if self.progress is not None and self.task is not None:
            self.progress.update(self.task, total=self.total)


@contextmanager
def progress_bar(description: str, total: int, *, show: bool) -> Iterator[Bar]:
    """Show how far a task is.

    :param description: what is done.
    :param total: how much there is to do.
    :param show: False shows nothing and imports nothing.
    :yields: the bar.
    """
    if not show:
        yield Bar(total)
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as progress:
        yield Bar(total, progress, progress.add_task(description, total=total))
