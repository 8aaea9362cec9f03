"""Rows and requests of a run in progress: totals, rates over the last seconds, and both as text."""

from __future__ import annotations

import contextlib
import time
from collections import deque
from typing import TYPE_CHECKING

from domyn_swarm.telemetry.counts import Counts

if TYPE_CHECKING:
    from collections.abc import Iterator

SLOW_ROWS = 10
"""Rates below this many rows per second are shown with one decimal."""
RECENT_SECONDS, RECENT_STEPS = 10.0, 20


class Rates:
    """Totals, and rates over the last seconds."""

    def __init__(self) -> None:
        self.total = 0
        self.before = 0
        self.counts = Counts()
        self._since = time.monotonic()
        self._recent: deque[tuple[float, Counts]] = deque()

    @contextlib.contextmanager
    def shown(self) -> Iterator[None]:
        """Around the run, its preparation included."""
        yield

    def started(self, total: int, done: int) -> None:
        """The run has begun: of `total` rows, `done` had finished before."""
        self.total, self.before, self._since = total, done, time.monotonic()
        self._recent.append((self._since, Counts()))

    def advanced(self, more: Counts) -> None:
        """Count rows and requests."""
        self.counts += more
        now = time.monotonic()
        if now - self._recent[-1][0] >= RECENT_SECONDS / RECENT_STEPS:
            self._recent.append((now, self.counts.copy()))
            while len(self._recent) > RECENT_STEPS:
                self._recent.popleft()

    @property
    def rate(self) -> float:
        """Rows per second since the start."""
        return self.counts.rows / max(1e-9, time.monotonic() - self._since)

    @property
    def done(self) -> int:
        """Rows that have finished, earlier runs included."""
        return self.before + self.counts.rows

    def rows(self) -> str:
        """`200 of 1,000 rows, 50 rows/s, 0 failed`."""
        return ", ".join(self.row_pieces())

    def row_pieces(self) -> list[str]:
        """The pieces of `rows`."""
        rate = self.rate
        shown = f"{rate:,.0f}" if rate >= SLOW_ROWS or not rate else f"{rate:.1f}"
        return [f"{self.done:,} of {self.total:,} rows", f"{shown} rows/s", f"{self.counts.failed:,} failed"]

    def left(self) -> str:
        """`12 s left`, or in minutes or hours."""
        rows = self.total - self.before - self.counts.rows
        seconds = rows / self.rate if self.rate else 0.0
        for unit, size in (("h", 3600.0), ("min", 60.0)):
            if seconds >= 2 * size:
                return f"{seconds / size:,.0f} {unit} left"
        return f"{seconds:.0f} s left"

    def requests(self) -> str:
        """`52 requests/s, 32 of 64 in flight, ...`, over the last seconds; empty when the job makes no requests."""
        return ", ".join(self.request_pieces())

    def request_pieces(self) -> list[str]:
        """The pieces of `requests`, the most important first."""
        if not self.counts.requests:
            return []
        then, before = self._recent[0]
        recent = self.counts - before
        seconds = max(1e-9, time.monotonic() - then)
        rates = [f"{recent.requests / seconds:,.0f} requests/s"]
        if self.counts.tokens_in or self.counts.tokens_out:
            rates.append(f"{recent.tokens_in / seconds:,.0f}+{recent.tokens_out / seconds:,.0f} tokens/s")
        rates.append(f"{self.counts.in_flight:,} of {self.counts.limit:,} in flight")
        if self.counts.retries:
            rates.append(f"{self.counts.retries:,} retries")
        if self.counts.shared:
            rates.append(f"{self.counts.shared:,} shared")
        latencies = (recent if recent.answers else self.counts).latencies
        shown = [f"p{share:.0%}"[:-1] + f" {_seconds(latencies.percentile(share))}" for share in (0.5, 0.95)]
        return [*rates, *shown]


def _seconds(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value * 1000:.0f} ms" if value < 1 else f"{value:.1f} s"
