"""Counting rows as they pass on their way to the disk, and whoever watches."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from domyn_swarm.data.columns import FAILURE

if TYPE_CHECKING:
    import pyarrow as pa


class Progress(Protocol):
    """Sees a run go by. Called from the thread that runs the job."""

    def started(self, total: int, done: int) -> None:
        """`total` rows in all, `done` of them by earlier runs."""

    def advanced(self, rows: int, failed: int) -> None:
        """`rows` more have finished, `failed` of them without output."""

    def finished(self) -> None:
        """The rows are through, or the run broke."""


class Silent:
    """Shows nothing."""

    def started(self, total: int, done: int) -> None:
        """Nothing to show."""

    def advanced(self, rows: int, failed: int) -> None:
        """Nothing to show."""

    def finished(self) -> None:
        """Nothing to show."""


class Meter:
    """Counts rows as they pass on their way to the disk."""

    def __init__(self, progress: Progress) -> None:
        self.rows = 0
        self.failed = 0
        self._progress = progress

    def __call__(self, table: pa.Table) -> pa.Table:
        """Count the rows of `table`, and pass it on."""
        self.advanced(table.num_rows, table.num_rows - table[FAILURE].null_count)
        return table

    def advanced(self, rows: int, failed: int) -> None:
        """Count rows that passed elsewhere."""
        self.rows += rows
        self.failed += failed
        self._progress.advanced(rows, failed)
