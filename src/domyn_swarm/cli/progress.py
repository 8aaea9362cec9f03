"""How a run shows itself while it goes: a bar on a terminal, log lines elsewhere."""

from __future__ import annotations

import logging
import sys
import time
from collections import deque
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeRemainingColumn

from domyn_swarm.helpers.counts import Counts

if TYPE_CHECKING:
    from domyn_swarm.jobs.meter import Progress as RunProgress

LOG_SECONDS = 10.0
LATELY_SECONDS, LATELY_STEPS = 10.0, 20

logger = logging.getLogger("domyn_swarm")


def progress_on_stderr() -> RunProgress:
    """A bar when stderr is a terminal, a line every LOG_SECONDS otherwise."""
    return _Bar() if sys.stderr.isatty() else _Lines()


class _Watch:
    """What there is to say, from what has happened and from what happened lately."""

    def __init__(self) -> None:
        self.total = 0
        self.before = 0
        self.counts = Counts()
        self._since = time.monotonic()
        self._lately: deque[tuple[float, Counts]] = deque()

    def started(self, total: int, done: int) -> None:
        self.total, self.before, self._since = total, done, time.monotonic()
        self._lately.append((self._since, Counts()))

    def advanced(self, more: Counts) -> None:
        self.counts += more
        now = time.monotonic()
        if now - self._lately[-1][0] >= LATELY_SECONDS / LATELY_STEPS:
            self._lately.append((now, self.counts.copy()))
            while len(self._lately) > LATELY_STEPS:
                self._lately.popleft()

    @property
    def rate(self) -> float:
        """Rows a second since the start."""
        return self.counts.rows / max(1e-9, time.monotonic() - self._since)

    def rows(self) -> str:
        """`200 of 1,000 rows, 50 rows/s, 0 failed`."""
        done = self.before + self.counts.rows
        return f"{done:,} of {self.total:,} rows, {self.rate:,.0f} rows/s, {self.counts.failed:,} failed"

    def requests(self) -> str:
        """`52 requests/s, 32 of 64 in flight, ...`, of the last seconds; empty when the job makes none."""
        if not self.counts.requests:
            return ""
        then, before = self._lately[0]
        lately = self.counts - before
        seconds = max(1e-9, time.monotonic() - then)
        rates = [f"{lately.requests / seconds:,.0f} requests/s"]
        if self.counts.tokens_in or self.counts.tokens_out:
            rates.append(f"{lately.tokens_in / seconds:,.0f}+{lately.tokens_out / seconds:,.0f} tokens/s")
        rates.append(f"{self.counts.in_flight:,} of {self.counts.limit:,} in flight")
        if self.counts.retries:
            rates.append(f"{self.counts.retries:,} retries")
        if self.counts.shared:
            rates.append(f"{self.counts.shared:,} shared")
        latencies = (lately if lately.answers else self.counts).latencies
        shown = [f"p{share:.0%}"[:-1] + f" {_seconds(latencies.percentile(share))}" for share in (0.5, 0.95)]
        return ", ".join([*rates, *shown])


def _seconds(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value * 1000:.0f} ms" if value < 1 else f"{value:.1f} s"


class _Lines(_Watch):
    _last = 0.0

    def started(self, total: int, done: int) -> None:
        super().started(total, done)
        self._last = time.monotonic()
        logger.info("%s rows, %s done before", f"{total:,}", f"{done:,}")

    def advanced(self, more: Counts) -> None:
        super().advanced(more)
        if time.monotonic() - self._last >= LOG_SECONDS:
            self._last = time.monotonic()
            self._log()

    def finished(self) -> None:
        self._log()

    def _log(self) -> None:
        left = (self.total - self.before - self.counts.rows) / self.rate if self.rate else 0.0
        logger.info("%s, %.0f s left", self.rows(), left)
        if requests := self.requests():
            logger.info("%s", requests)


class _Bar(_Watch):
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

    def advanced(self, more: Counts) -> None:
        super().advanced(more)
        if self._task is not None:
            text = "\n".join(filter(None, [self.rows(), self.requests()]))
            self._progress.update(self._task, completed=self.before + self.counts.rows, text=text)

    def finished(self) -> None:
        self._progress.stop()
