"""How a run shows itself while it goes: a bar on a terminal, log lines elsewhere."""

from __future__ import annotations

import logging
import sys
import time
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeRemainingColumn

if TYPE_CHECKING:
    from domyn_swarm.jobs.meter import Progress as RunProgress

LOG_SECONDS = 10.0

logger = logging.getLogger("domyn_swarm")


def progress_on_stderr() -> RunProgress:
    """A bar when stderr is a terminal, a line every LOG_SECONDS otherwise."""
    return _Bar() if sys.stderr.isatty() else _Lines()


class _Counts:
    def __init__(self) -> None:
        self.total = 0
        self.before = 0
        self.rows = 0
        self.failed = 0
        self._since = time.monotonic()

    def started(self, total: int, done: int) -> None:
        self.total, self.before, self._since = total, done, time.monotonic()

    def advanced(self, rows: int, failed: int) -> None:
        self.rows += rows
        self.failed += failed

    @property
    def rate(self) -> float:
        """Rows a second since the start."""
        return self.rows / max(1e-9, time.monotonic() - self._since)


class _Lines(_Counts):
    _last = 0.0

    def started(self, total: int, done: int) -> None:
        super().started(total, done)
        self._last = time.monotonic()
        logger.info("%s rows, %s done before", f"{total:,}", f"{done:,}")

    def advanced(self, rows: int, failed: int) -> None:
        super().advanced(rows, failed)
        if time.monotonic() - self._last >= LOG_SECONDS:
            self._last = time.monotonic()
            self._log()

    def finished(self) -> None:
        self._log()

    def _log(self) -> None:
        done = self.before + self.rows
        left = (self.total - done) / self.rate if self.rate else 0.0
        logger.info(
            "%s of %s rows, %s rows/s, %s failed, %.0f s left",
            f"{done:,}", f"{self.total:,}", f"{self.rate:,.0f}", f"{self.failed:,}", left,
        )  # fmt: skip


class _Bar(_Counts):
    def __init__(self) -> None:
        super().__init__()
        self._progress = Progress(
            SpinnerColumn(), BarColumn(), TextColumn("{task.percentage:>3.0f}%"),
            TextColumn("{task.fields[text]}"), TimeRemainingColumn(), TextColumn("left"),
            console=Console(stderr=True), transient=True,
        )  # fmt: skip
        self._task: TaskID | None = None

    def started(self, total: int, done: int) -> None:
        super().started(total, done)
        self._task = self._progress.add_task("rows", total=total, completed=done, text="")
        self._progress.start()

    def advanced(self, rows: int, failed: int) -> None:
        super().advanced(rows, failed)
        if self._task is not None:
            text = f"{self.before + self.rows:,}/{self.total:,} rows  {self.rate:,.0f} rows/s  {self.failed:,} failed"
            self._progress.update(self._task, completed=self.before + self.rows, text=text)

    def finished(self) -> None:
        self._progress.stop()
