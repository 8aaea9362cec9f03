"""Progress of a run: a bar on a terminal or in a notebook, log lines elsewhere."""

from __future__ import annotations

import contextlib
import html
import logging
import os
import sys
import time
from typing import TYPE_CHECKING, Any

from domyn_swarm.report.bar import Bar
from domyn_swarm.report.rates import Rates

if TYPE_CHECKING:
    from collections.abc import Iterator

    from domyn_swarm.telemetry.counts import Counts

LOG_SECONDS = 10.0
CELL_SECONDS = 0.25

logger = logging.getLogger("domyn_swarm")


def progress_here() -> Bar | _Cell | _Lines:
    """A bar in a notebook or when stderr is a terminal; otherwise a log line every LOG_SECONDS.

    Dumb terminals cannot move the cursor, and those of CI services are logs.
    """
    if _in_notebook():
        return _Cell()
    is_log = os.environ.get("TERM") in (None, "", "dumb") or os.environ.get("CI") or _called_by_notebook()
    return Bar() if sys.stderr.isatty() and not is_log else _Lines()


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


class _Lines(Rates):
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


class _Cell(Rates):
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
        bar = f'<progress value="{self.done}" max="{max(1, self.total)}" style="width: 60%">'
        text = "<br>".join(map(html.escape, lines))
        return {"text/plain": "\n".join(lines), "text/html": f"{bar}</progress><div><small>{text}</small></div>"}
