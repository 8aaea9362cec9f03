"""Counting what goes by on its way to the disk: for whoever watches, and for the error budget."""

from __future__ import annotations

import threading
from fractions import Fraction
from typing import TYPE_CHECKING, Protocol

from domyn_swarm.data.columns import FAILURE
from domyn_swarm.helpers.counts import Counts

if TYPE_CHECKING:
    from collections.abc import Callable

    import pyarrow as pa

ROWS_FOR_A_SHARE = 100
"""Rows from which on a share of failures says something."""


class Progress(Protocol):
    """Sees a run go by. Called from the thread that runs the job."""

    def started(self, total: int, done: int) -> None:
        """`total` rows in all, `done` of them by earlier runs."""

    def advanced(self, more: Counts) -> None:
        """What happened since the last time."""

    def finished(self) -> None:
        """The rows are through, or the run broke."""


class Silent:
    """Shows nothing."""

    def started(self, total: int, done: int) -> None:
        """Nothing to show."""

    def advanced(self, more: Counts) -> None:
        """Nothing to show."""

    def finished(self) -> None:
        """Nothing to show."""


class ErrorBudget:
    """How many rows may fail: a number (`"50"`), a share of those that have finished (`"5%"`), or any (None)."""

    def __init__(self, most: str | None) -> None:
        self.text = most
        self._share = Fraction(most.removesuffix("%")) / 100 if most and most.endswith("%") else None
        self._most = float(most) if most and self._share is None else float("inf")

    def is_spent(self, counts: Counts) -> bool:
        """Whether more have failed than may."""
        if self._share is None:
            return counts.failed > self._most
        return counts.rows >= ROWS_FOR_A_SHARE and counts.failed > self._share * counts.rows


class Meter:
    """Counts rows as they pass, and the requests that `traffic` tells of; sets `stop` when too many rows failed."""

    def __init__(
        self,
        progress: Progress,
        traffic: Callable[[], Counts | None] = lambda: None,
        budget: ErrorBudget | None = None,
        stop: threading.Event | None = None,
    ) -> None:
        self.counts = Counts()
        self.overspent = False
        self.stop = stop or threading.Event()
        self._progress = progress
        self._traffic = traffic
        self._seen = Counts()
        self._budget = budget or ErrorBudget(None)

    def __call__(self, table: pa.Table) -> pa.Table:
        """Count the rows of `table` and the requests since the last one, and pass it on."""
        self.advanced(Counts(table.num_rows, table.num_rows - table[FAILURE].null_count) + self._requests())
        return table

    def finish(self) -> None:
        """Count the last requests, which may have brought no row. Nobody is told, for that may be what broke."""
        self.counts += self._requests()

    def _requests(self) -> Counts:
        seen, self._seen = self._seen, self._traffic() or self._seen
        return self._seen - seen

    def advanced(self, more: Counts) -> None:
        """Count what happened elsewhere."""
        self.counts += more
        self._progress.advanced(more)
        if self._budget.is_spent(self.counts):
            self.overspent = True
            self.stop.set()
