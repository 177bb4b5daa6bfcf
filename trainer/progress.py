"""A progress bar on a terminal, a line now and then elsewhere."""

import time
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn

_LINE_EVERY_SECONDS = 15.0


class StageProgress:
    """Shows how far a stage is; a context manager.

    Args:
        stage: What is being done.
        console: Where it is shown.
        shown: False shows nothing, as on the processes beside the first.
    """

    def __init__(self, stage: str, console: Console, *, shown: bool = True) -> None:
        self._stage = stage
        self._console = console
        self._shown = shown
        self._bar = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.percentage:3.0f}%"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}"),
            console=console,
            disable=not shown or not console.is_terminal,
        )
        self._task = self._bar.add_task(stage, total=None, note="")
        self._said_at = time.monotonic()

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def update(self, share: float | None, note: str) -> None:
        """Show the share done, 0..1 or None where the end is unknown, and a short note."""
        self._bar.update(self._task, total=None if share is None else 1.0, completed=share or 0.0, note=note)
        now = time.monotonic()
        if self._shown and not self._console.is_terminal and now - self._said_at >= _LINE_EVERY_SECONDS:
            self._said_at = now
            done = "" if share is None else f" {share:.0%}"
            self._console.print(f"{self._stage}{done} {note}", highlight=False, soft_wrap=True)
