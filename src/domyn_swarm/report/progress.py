"""Progress of a run: a bar on a terminal or in a notebook, log lines elsewhere."""

from __future__ import annotations

import contextlib
import html
import logging
import os
import sys
import time
from collections import deque
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeRemainingColumn

from domyn_swarm.report.terminal import unguarded
from domyn_swarm.telemetry.counts import Counts

if TYPE_CHECKING:
    from collections.abc import Iterator

LOG_SECONDS = 10.0
CELL_SECONDS = 0.25
SLOW_ROWS = 10
"""Rates below this many rows per second are shown with one decimal."""
RECENT_SECONDS, RECENT_STEPS = 10.0, 20

logger = logging.getLogger("domyn_swarm")


def progress_here() -> _Bar | _Cell | _Lines:
    """A bar in a notebook or when stderr is a terminal; otherwise a log line every LOG_SECONDS."""
    if _in_notebook():
        return _Cell()
    return _Bar() if sys.stderr.isatty() and not _called_by_notebook() else _Lines()


def _in_notebook() -> bool:
    """Whether this process is a notebook kernel. Imports nothing."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython else None
    return getattr(shell, "kernel", None) is not None


def _called_by_notebook() -> bool:
    """Whether a notebook cell started this process (`!domyn-swarm ...`): its terminal cannot move the cursor up."""
    return os.environ.get("MPLBACKEND", "").startswith("module://matplotlib_inline")


@contextlib.contextmanager
def showing_logs(progress: Any) -> Iterator[None]:
    """Show this package's log next to the progress, warnings on stderr, unless logging is configured."""
    if logger.hasHandlers():
        yield
        return
    handler, level = _LogHandler(progress), logger.level
    logger.addHandler(handler)
    logger.setLevel(level or logging.INFO)
    try:
        yield
    finally:
        logger.setLevel(level)
        logger.removeHandler(handler)


class _LogHandler(logging.Handler):
    def __init__(self, progress: Any) -> None:
        super().__init__()
        self._note = getattr(progress, "note", None)

    def emit(self, record: logging.LogRecord) -> None:
        text = self.format(record)
        if self._note is not None and record.levelno < logging.WARNING:
            self._note(text)
        else:
            print(text, file=sys.stderr)  # noqa: T201 - as logging does by default


class _Rates:
    """Totals, and rates over the last seconds."""

    def __init__(self) -> None:
        self.total = 0
        self.before = 0
        self.counts = Counts()
        self._since = time.monotonic()
        self._recent: deque[tuple[float, Counts]] = deque()

    def started(self, total: int, done: int) -> None:
        self.total, self.before, self._since = total, done, time.monotonic()
        self._recent.append((self._since, Counts()))

    def advanced(self, more: Counts) -> None:
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

    def rows(self) -> str:
        """`200 of 1,000 rows, 50 rows/s, 0 failed`."""
        done, rate = self.before + self.counts.rows, self.rate
        shown = f"{rate:,.0f}" if rate >= SLOW_ROWS or not rate else f"{rate:.1f}"
        return f"{done:,} of {self.total:,} rows, {shown} rows/s, {self.counts.failed:,} failed"

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
        if not self.counts.requests:
            return ""
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
        return ", ".join([*rates, *shown])


def _seconds(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value * 1000:.0f} ms" if value < 1 else f"{value:.1f} s"


class _Lines(_Rates):
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
        logger.info("%s, %s", self.rows(), self.left())
        if requests := self.requests():
            logger.info("%s", requests)


class _Bar(_Rates):
    def __init__(self) -> None:
        super().__init__()
        self._progress = Progress(
            SpinnerColumn(), BarColumn(), TextColumn("{task.percentage:>3.0f}%"),
            TextColumn("{task.fields[text]}"), TimeRemainingColumn(), TextColumn("left"),
            console=Console(file=unguarded(sys.stderr)), transient=True,
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


class _Cell(_Rates):
    """One notebook display that is updated in place: HTML where the front end supports it, text elsewhere.

    Text front ends show only the first version, so it must not contain anything that changes.
    """

    _last = 0.0
    _display: Any = None
    _note = ""

    def started(self, total: int, done: int) -> None:
        super().started(total, done)
        from IPython.display import display  # noqa: PLC0415 - this process is an IPython kernel

        first = self._bundle(f"{total:,} rows, {done:,} done before")
        self._display = display(first, raw=True, display_id=True)  # type: ignore[no-untyped-call]

    def advanced(self, more: Counts) -> None:
        super().advanced(more)
        if time.monotonic() - self._last >= CELL_SECONDS:
            self._show()

    def note(self, text: str) -> None:
        """Show a message until the next one, or until rows finish."""
        self._note = text
        self._show()

    def finished(self) -> None:
        self._note = ""
        self._show()

    def _show(self) -> None:
        self._last = time.monotonic()
        if self.counts.rows:
            self._note = ""
        if self._display is not None:
            remaining = f", {self.left()}" if 0 < self.counts.rows < self.total - self.before else ""
            self._display.update(self._bundle(f"{self.rows()}{remaining}", self.requests(), self._note), raw=True)

    def _bundle(self, *texts: str) -> dict[str, str]:
        lines = [line for line in texts if line]
        bar = f'<progress value="{self.before + self.counts.rows}" max="{max(1, self.total)}" style="width: 60%">'
        text = "<br>".join(map(html.escape, lines))
        return {"text/plain": "\n".join(lines), "text/html": f"{bar}</progress><div><small>{text}</small></div>"}
